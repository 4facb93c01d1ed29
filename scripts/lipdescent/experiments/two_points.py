"""Two points, x = y = +-1: a 1-Lipschitz classifier has a best loss, an unconstrained one diverges.

Left: binary cross-entropy of trained 1-Lipschitz networks over the temperature tau against the
minimum over all 1-Lipschitz functions, softplus(-tau) (line). Right: the slope W of the
unconstrained linear classifier f = W x under gradient flow against e^W + W = t + 1 (line): its
Lipschitz constant grows as log t while the loss falls (Béthune et al. 2022, arXiv 2104.05097).
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.experiments._drawing import key_of, log_values, look, panels, width_axis
from lipdescent.experiments._fitting import Forward, certified, minimise
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.training.losses import binary_cross_entropy

POINTS = ((1.0,), (-1.0,))


def fit(
    *, taus: Sequence[float], seeds: Sequence[int], steps: int = 600, width: int = 8
) -> list[tuple[float, int, float]]:
    """(tau, seed, binary cross-entropy) of 1-Lipschitz networks on x = y = +-1, as one stack."""
    replicas = list(itertools.product(taus, seeds))
    x, tau = torch.tensor(POINTS), torch.tensor([[float(tau)] for tau, _ in replicas])

    def cross_entropy(outputs: Tensor, inputs: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-tau.to(outputs) * (outputs * inputs)[..., 0]).mean(1)

    def loss(forward: Forward, step: int) -> Tensor:
        return cross_entropy(forward(x.expand(len(replicas), -1, -1)), x)

    stack = lipschitz_mlps([seed for _, seed in replicas], (1,), 1, width)
    stack = certified(minimise(stack, loss, steps=steps, learning_rate=1e-2))
    found = cross_entropy(stack(x.double()), x.double()).tolist()
    return [(*replica, value) for replica, value in zip(replicas, found, strict=True)]


def gradient_flow(times: Sequence[float], *, step: float = 0.25) -> list[float]:
    """W at increasing ``times`` for f = W x from W = 0, by Runge-Kutta steps on the mean loss."""
    x = torch.tensor(POINTS, dtype=torch.float64)

    def speed(weight: Tensor) -> Tensor:
        leaf = weight.detach().requires_grad_()
        with torch.enable_grad():
            loss = binary_cross_entropy.loss(leaf * x, x).mean()
            return -torch.autograd.grad(loss, leaf)[0]

    weight, now, found = torch.zeros((), dtype=torch.float64), 0.0, []
    for time in times:
        count = max(1, round((time - now) / step))
        h = (time - now) / count
        for _ in range(count):
            a = speed(weight)
            b = speed(weight + h / 2 * a)
            c = speed(weight + h / 2 * b)
            d = speed(weight + h * c)
            weight = weight + h / 6 * (a + 2 * b + 2 * c + d)
        now = time
        found.append(weight.item())
    return found


def best_loss(tau: float) -> float:
    """softplus(-tau): no 1-Lipschitz f has y f above 1 on both points."""
    return torch.nn.functional.softplus(torch.tensor(-tau, dtype=torch.float64)).item()


def exact_slope(time: float) -> float:
    """The root W of e^W + W = time + 1, by Newton's method."""
    weight = torch.tensor(float(time) + 1, dtype=torch.float64).log()
    for _ in range(50):
        weight = weight - (weight.exp() + weight - time - 1) / (weight.exp() + 1)
    return weight.item()


def run(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    taus: Sequence[float] = (0.5, 1, 2, 4),
    times: Sequence[float] = (1, 3, 10, 30, 100, 300, 1000),
) -> pd.DataFrame:
    """Rows of the trained networks (task loss, over tau) and of the flow (task slope, over t)."""
    rows = [
        ("loss", float(tau), seed, value, best_loss(tau))
        for tau, seed, value in fit(taus=taus, seeds=seeds)
    ]
    for time, weight in zip(times, gradient_flow(times), strict=True):
        rows.append(("slope", float(time), 0, weight, exact_slope(time)))
    return pd.DataFrame(rows, columns=["task", "at", "seed", "value", "exact"])


def draw(frame: pd.DataFrame) -> Figure:
    """Found values as points, exact ones as lines."""
    figure, axes = panels(2, height=2.2)
    panel = {
        "loss": ("temperature tau", "cross-entropy (nats)", best_loss),
        "slope": ("time t of gradient flow", "Lipschitz constant W", exact_slope),
    }
    for axis, (task, (x, y, exact)) in zip(axes, panel.items(), strict=True):
        part = frame[frame["task"] == task].sort_values("at")
        ends = (part["at"].min(), part["at"].max())
        between = np.geomspace(*ends, 100)
        axis.plot(between, [exact(at) for at in between], color="black", label="exact")
        axis.plot(part["at"], part["value"], linestyle="", label="found", **look(1))
        width_axis(axis, np.unique(part["at"]))
        axis.set(xlabel=x, ylabel=y)
    log_values(axes[0])
    axes[0].set_title("1-Lipschitz: a best loss")
    axes[1].set_title("unconstrained: none, W grows as log t")
    key_of(figure, axes[0])
    return figure

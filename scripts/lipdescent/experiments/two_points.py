"""Two points, x = y = +-1: a 1-Lipschitz classifier has a best loss, an unconstrained one diverges.

Left: binary cross-entropy of trained 1-Lipschitz networks over the temperature tau against the
minimum over all 1-Lipschitz functions, softplus(-tau) (line). Right: the slope W of the
unconstrained linear classifier f = W x under gradient flow against e^W + W = t + 1 (line): its
Lipschitz constant grows as log t while the loss falls (Béthune et al. 2022, arXiv 2104.05097).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent import losses
from lipdescent.architectures import lipschitz_mlp
from lipdescent.experiments._drawing import look, panels
from lipdescent.experiments._fitting import certified, minimise
from lipdescent.training import initial_stack

POINTS = ((1.0,), (-1.0,))


def fit(*, tau: float, seed: int = 0, steps: int = 400, width: int = 8) -> float:
    """Binary cross-entropy of a 1-Lipschitz network on x = y = +-1; at best softplus(-tau)."""

    def build():
        return lipschitz_mlp.build(width, input_shape=(1,), num_classes=1)

    x = torch.tensor(POINTS)

    def loss(forward, step: int) -> Tensor:
        return losses.binary_cross_entropy(forward(x[None]), x[None], tau=tau).mean(1)

    stack = initial_stack(build, [seed], (1,))
    stack = certified(minimise(stack, loss, steps=steps, learning_rate=1e-2))
    return losses.binary_cross_entropy(stack(x.double()), x.double()[None], tau=tau).mean().item()


def gradient_flow(times: Sequence[float], *, step: float = 0.25) -> list[float]:
    """W at increasing ``times`` for f = W x from W = 0, by Runge-Kutta steps on the mean loss."""
    x = torch.tensor(POINTS, dtype=torch.float64)

    def speed(weight: Tensor) -> Tensor:
        leaf = weight.detach().requires_grad_()
        with torch.enable_grad():
            loss = losses.binary_cross_entropy(leaf * x, x).mean()
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
    rows = []
    for tau in taus:
        best = torch.nn.functional.softplus(torch.tensor(-tau, dtype=torch.float64)).item()
        rows += [("loss", float(tau), seed, fit(tau=tau, seed=seed), best) for seed in seeds]
    for time, weight in zip(times, gradient_flow(times), strict=True):
        rows.append(("slope", float(time), 0, weight, exact_slope(time)))
    return pd.DataFrame(rows, columns=["task", "at", "seed", "value", "exact"])


def draw(frame: pd.DataFrame) -> Figure:
    """Found values as points, exact ones as lines."""
    figure, axes = panels(2)
    names = {"loss": ("temperature tau", "loss (nats)"), "slope": ("time t", "slope W")}
    for axis, (task, (x, y)) in zip(axes, names.items(), strict=True):
        part = frame[frame["task"] == task].sort_values("at")
        axis.plot(part["at"], part["value"], linestyle="", **look(0))
        axis.plot(part["at"], part["exact"], color="black")
        axis.set_xscale("log")
        axis.set_xlabel(x)
        axis.set_ylabel(y)
    return figure

"""The critic that attains the Wasserstein-1 distance is a weak classifier (Béthune et al. 2022).

The mixture of `temperature`: P = .9 N(-2, .3^2) + .1 N(1, .1^2) against its mirror image Q (arXiv
2104.05097). Left: densities of P and Q, and two networks of the first seed, scaled to be seen: one
trained for the distance E_Q f - E_P f alone, one for binary cross-entropy at the largest
temperature. Right: share of both classes on the wrong side of 0, a point per seed; lines
are the exact critic f(x) = x, its error at the best threshold, and the least error of any
classifier. All errors are integrals over the densities, not means over samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import integrate, stats
from torch import Tensor

from lipdescent.analysis.statistics import Array
from lipdescent.architectures import lipschitz_mlp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.experiments._drawing import GREY, key_of, log_values, look, panels
from lipdescent.experiments._fitting import Forward, certified, minimise
from lipdescent.experiments.temperature import fit_mixture, mixture
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator
from lipdescent.training.draws import initial_stack
from lipdescent.training.losses import binary_kr, positive

# Weight, mean and deviation of the parts of P; Q is the mirror image.
PARTS = ((0.9, -2.0, 0.3), (0.1, 1.0, 0.1))
LINE = np.linspace(-4, 4, 16001)
EXACT = {
    "critic": "exact critic, at 0",
    "critic_best_threshold": "exact critic, best threshold",
    "bayes": "least possible",
}


def density(x: Array) -> Array:
    """Of P; Q's is ``density(-x)``."""
    parts = [w * stats.norm.pdf(x, mean, deviation) for w, mean, deviation in PARTS]
    return np.sum(parts, axis=0)


def below(x: Array) -> Array:
    """Mass of P below x; that of Q is ``1 - below(-x)``."""
    parts = [w * stats.norm.cdf(x, mean, deviation) for w, mean, deviation in PARTS]
    return np.sum(parts, axis=0)


def distance() -> float:
    """W1(P, Q): P's distribution function exceeds Q's everywhere, so the means' difference.

    The exact critic is therefore f(x) = x: its slope is the sign of that difference.
    """
    return -2 * sum(w * mean for w, mean, _ in PARTS)


def exact_errors() -> dict[str, float]:
    """Share on the wrong side, of the exact critic and of the best classifier."""
    at = (1 - below(LINE) + 1 - below(-LINE)) / 2  # P above the threshold, Q below it
    middle = len(LINE) // 2
    return {
        "critic": float(at[middle]),
        "critic_best_threshold": float(at.min()),
        "bayes": float(_integral(np.minimum(density(LINE), density(-LINE)))) / 2,
    }


def error(values: Array) -> Array:
    """Share of P above 0 and of Q below it, of functions by their values on LINE, (..., n)."""
    return _integral(np.where(values > 0, density(LINE), density(-LINE))) / 2


def _integral(values: Array) -> Array:
    return np.asarray(integrate.trapezoid(values, LINE, axis=-1))


def fit_critics(*, seeds: Sequence[int], steps: int, count: int = 100) -> ModelStack:
    """Networks as in ``temperature``, for E_Q f - E_P f alone, then with mean 0 over both."""
    data = [mixture(count, generator("mixture", seed)) for seed in seeds]
    x, y = (torch.stack(part) for part in zip(*data, strict=True))

    def loss(forward: Forward, step: int) -> Tensor:
        return binary_kr.loss(forward(x), y).mean(1)

    stack = initial_stack(lambda: lipschitz_mlp.network([1, 256, 128, 64, 1]), list(seeds), (1,))
    return certified(minimise(stack, loss, steps=steps, learning_rate=1e-3, cosine=False))


def run(
    *, seeds: Sequence[int] = (0, 1, 2), taus: Sequence[float] = (1, 8, 64), steps: int = 300
) -> pd.DataFrame:
    """Errors of the exact critic, of trained ones and of cross-entropy; the first seed's curves.

    Raises
    ------
    ValueError
        If a temperature is not positive.
    """
    for tau in taus:
        positive(tau=tau)
    rows = [{"what": "exact", "classifier": k, "error": v} for k, v in exact_errors().items()]
    critics = fit_critics(seeds=seeds, steps=steps)
    values = _on_line(critics)
    weights = density(LINE), density(-LINE)
    means = [_integral(w * values) for w in weights]
    values -= (means[0] + means[1])[:, None] / 2  # the distance leaves the constant free
    found = [("critic", 0.0, seed, v) for seed, v in zip(seeds, values, strict=True)]
    reached = (means[1] - means[0]).tolist()
    stack, replicas = fit_mixture(taus=taus, seeds=seeds, steps=steps)
    found += [("cross_entropy", float(tau), seed, v)
              for (tau, seed), v in zip(replicas, _on_line(stack), strict=True)]  # fmt: skip
    constants = torch.cat([layer_product(critics), layer_product(stack)]).tolist()
    for place, (name, tau, seed, own) in enumerate(found):
        row = {"what": "trained", "classifier": name, "tau": tau, "seed": seed}
        row |= {"error": error(own).item(), "certified_constant": constants[place]}
        rows.append(row | ({"distance": reached[place]} if name == "critic" else {}))
        if seed == seeds[0]:
            rows += [{"what": "curve", "classifier": name, "tau": tau, "x": x, "value": value}
                     for x, value in zip(LINE[::100], own[::100], strict=True)]  # fmt: skip
    return pd.DataFrame(rows)


def _on_line(stack: ModelStack) -> Array:
    """Values on LINE, (num_models, n)."""
    return stack(torch.from_numpy(LINE)[:, None])[..., 0].numpy().copy()


def draw(frame: pd.DataFrame) -> Figure:
    """Densities and two networks; errors of all."""
    figure, (left, right) = panels(2, height=2.6)
    _draw_line(left, frame[frame["what"] == "curve"])
    trained = frame[frame["what"] == "trained"].groupby(["classifier", "tau"], sort=False)
    names = []
    for place, (key, rows) in enumerate(trained):
        name, tau = key
        right.plot([place] * len(rows), rows["error"], linestyle="", **look(int(name != "critic")))
        names.append("distance\nalone" if name == "critic" else f"tau {tau:g}")
    right.set_xticks(range(len(names)), names)
    right.set_xlim(-0.5, len(names) - 0.5)
    exact = frame[frame["what"] == "exact"].set_index("classifier")["error"]
    for (name, shown), dash in zip(EXACT.items(), ("--", "-.", ":"), strict=True):
        right.axhline(exact[name], color=GREY, linestyle=dash, label=shown)
    log_values(right)
    right.set(ylabel="error", xlabel="loss of the network")
    key_of(figure, left, right, columns=4)
    return figure


def _draw_line(axis: Axes, curves: pd.DataFrame) -> None:
    """Densities filled; the critic divided by 4, the other network times 2."""
    x = LINE[::20]
    for place, (name, values) in enumerate((("P", density(x)), ("Q", density(-x)))):
        fill: dict[str, Any] = {"facecolor": (look(2 + place)["color"], 0.25), "linewidth": 0}
        hatch = {"hatch": "////" if place else None, "edgecolor": look(2 + place)["color"]}
        axis.fill_between(x, values, label=f"density of {name}", **fill, **hatch)
    critic, most = curves[curves["classifier"] == "critic"], curves["tau"].max()
    other = curves[curves["tau"] == most]
    axis.plot(critic["x"], critic["value"] / 4, color=look(0)["color"], label="critic / 4")
    name = f"2 x cross-entropy, tau {most:g}"
    axis.plot(other["x"], 2 * other["value"], color=look(1)["color"], linestyle="--", label=name)
    axis.axhline(0, color=GREY, linewidth=0.6, gid="zero")
    axis.set(xlabel="x", ylabel="density, scaled f")

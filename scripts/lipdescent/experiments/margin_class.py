"""How many points 1-Lipschitz functions with a margin shatter on an interval (Béthune et al. 2022).

A label +-1 counts as fitted with margin m where y f(x) >= m. Line: L / (2 (n - 1)), the largest
margin with which all labels of n points in an interval of length L can be fitted, by the exact
construction (open circles: the smallest margin over all 2^n labels, in fractions); squares: the
smallest margin that trained MaxMin networks reach over all labels, one per seed. Horizontal
lines: margins m, each named with the floor(L / 2m) + 1 points that it allows (arXiv 2104.05097):
two points nearer than 2m cannot have different labels.
"""

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.experiments._drawing import GREY, key_of, look, panels, small
from lipdescent.experiments._fitting import Forward, certified, minimise
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.training.losses import binary_hinge, positive


def most_points(length: Fraction, margin: Fraction) -> int:
    """floor(L / 2m) + 1: so many points of an interval lie no nearer than 2m to each other.

    Raises
    ------
    ValueError
        If length or margin are not positive.
    """
    positive(length=float(length), margin=float(margin))
    return length // (2 * margin) + 1


def evenly(count: int, length: Fraction) -> list[Fraction]:
    """``count`` points of [0, length], both ends among them."""
    return [length * i / (count - 1) for i in range(count)]


def constructed(points: Sequence[Fraction], labels: Sequence[int], margin: Fraction) -> Fraction:
    """Least y f(x) over the points, f(x) = min over i of (y_i m + |x - x_i|), a 1-Lipschitz f.

    It is ``margin`` wherever no two points of different labels are nearer than 2m.
    """
    values = [
        min(y * margin + abs(x - at) for at, y in zip(points, labels, strict=True)) for x in points
    ]
    return min(y * value for y, value in zip(labels, values, strict=True))


def shattered(points: Sequence[Fraction], margin: Fraction) -> bool:
    """Whether the construction fits every labelling of the points with the margin, exactly."""
    every = itertools.product((-1, 1), repeat=len(points))
    return all(constructed(points, labels, margin) >= margin for labels in every)


def trained_margins(
    count: int, length: Fraction, *, seed: int, steps: int, width: int = 32
) -> tuple[list[float], float]:
    """Least y f(x) over the points of a network for each labelling; the largest constant.

    Hinge loss with the largest possible margin, full batch.
    """
    labels = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=count)))[..., None]
    x = torch.tensor([float(p) for p in evenly(count, length)])[:, None]
    x -= x.mean()
    best = float(length / (2 * (count - 1)))

    def loss(forward: Forward, step: int) -> Tensor:
        outputs = forward(x.expand(len(labels), *x.shape))
        return binary_hinge.loss(outputs, labels, margin=best).mean(1) / best

    seeds = [seed * (1 << 16) + place for place in range(len(labels))]
    drawn = lipschitz_mlps(seeds, (1,), 1, width, depth=3)
    stack = certified(minimise(drawn, loss, steps=steps, learning_rate=1e-2))
    margins = (stack(x.double()) * labels.double())[..., 0].amin(1)
    return margins.tolist(), layer_product(stack).max().item()


def run(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    counts: Sequence[int] = (2, 3, 4, 5, 6),
    margins: Sequence[float] = (0.25, 0.125, 0.1),
    length: float = 1.0,
    steps: int = 600,
) -> pd.DataFrame:
    """Margins of n points by construction and by networks; the points that each m allows.

    Raises
    ------
    ValueError
        If a margin or the length is not positive, or there are fewer than two points.
    """
    positive(length=length)
    whole, rows = Fraction(str(length)), []
    for margin in margins:
        exact = Fraction(str(margin))
        most = most_points(whole, exact)
        told = {"what": "margin", "margin": float(margin), "num_points": most}
        told["shattered"] = shattered(evenly(most, whole), exact) if most > 1 else True
        # Of one point more two lie at most L / most apart, which is nearer than 2m.
        told["one_more_fits"] = whole / most >= 2 * exact
        rows.append(told)
    for count in counts:
        if count < 2:
            raise ValueError(f"counts contains {count}: allowed are integers >= 2")
        points, best = evenly(count, whole), whole / (2 * (count - 1))
        every = itertools.product((-1, 1), repeat=count)
        least = min(constructed(points, labels, best) for labels in every)
        exact_row = {"what": "construction", "num_points": count, "best": float(best)}
        rows.append(exact_row | {"margin": float(least)})
        for seed in seeds:
            found, constant = trained_margins(count, whole, seed=seed, steps=steps)
            row = {"what": "network", "num_points": count, "seed": seed, "best": float(best)}
            fitted = sum(margin > 0.9 * float(best) for margin in found) / len(found)
            row |= {"margin": min(found), "fitted": fitted, "certified_constant": constant}
            rows.append(row)
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """Margin over the number of points."""
    figure, (axis,) = panels(1, height=2.8)
    made, nets, asked = (frame[frame["what"] == w] for w in ("construction", "network", "margin"))
    counts = np.linspace(made["num_points"].min(), made["num_points"].max(), 200)
    scale = (made["best"] * (made["num_points"] - 1)).iloc[0]
    axis.plot(counts, scale / (counts - 1), color=GREY, linewidth=0.8, label="L / (2 (n - 1))")
    axis.plot(made["num_points"], made["margin"], "o", markersize=7, markerfacecolor="none",
              color="black", label="construction, all labels")  # fmt: skip
    axis.plot(
        nets["num_points"], nets["margin"], linestyle="", **look(1), label="trained, all labels"
    )
    for _, row in asked.iterrows():
        axis.axhline(row["margin"], color=GREY, linestyle=":", linewidth=0.8)
        text = f"m = {row['margin']:g}: {row['num_points']:.0f} points"
        below = row["margin"] == asked["margin"].min()  # the lines lie closer the lower they are
        axis.annotate(
            text, (counts[0], row["margin"]), (-14, -2 if below else 1),
            textcoords="offset points", ha="left", va="top" if below else "bottom",
            fontsize=small(),
        )  # fmt: skip
    axis.set_xticks(made["num_points"])
    axis.set_ylim(bottom=0)
    axis.set(xlabel="number of points n", ylabel="margin fitted with all labels")
    key_of(figure, axis, columns=3)
    return figure

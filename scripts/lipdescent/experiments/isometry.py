"""Singular values of the input-output Jacobian of networks with orthonormal weights over depth.

64 units in every layer, initial weights (Anil et al. 2019, arXiv 1811.05381, section 4.1). Left:
median (line) and range (band) over points and seeds; 0 is drawn at 1e-17. Right: the largest
distance of a singular value from 1. Sorting activations keep every singular value at 1, ReLU
loses directions in every layer.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.bounds.jacobians.norms import one_model, rows
from lipdescent.experiments._drawing import key_of, look, panels
from lipdescent.experiments._fitting import certified
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.experiments.wasserstein import ACTIVATIONS
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator

FLOOR = 1e-17  # what is drawn for a singular value of 0


def singular_values(stack: ModelStack, points: Tensor) -> Tensor:
    """Of the Jacobian of the first model at points (n, d): float64 (n, min(d, outputs))."""
    function = one_model(stack)
    outputs = function(points[:1].double()).shape[1]
    return torch.linalg.svdvals(rows(function, points.double(), outputs))


def run(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    depths: Sequence[int] = (1, 2, 3, 5, 8, 12),
    width: int = 64,
    num_points: int = 20,
) -> pd.DataFrame:
    """One row per activation, depth (hidden layers) and seed."""
    table = []
    for activation, options in ACTIVATIONS.items():
        for depth in depths:
            drawn = lipschitz_mlps(seeds, (width,), width, width, depth=depth, **options)
            stack = certified(drawn)
            for i, seed in enumerate(seeds):
                random = generator("isometry", activation, depth, seed)
                points = torch.randn(num_points, width, generator=random)
                values = singular_values(stack[i : i + 1], points)
                quantiles = (values.min(), values.median(), values.max())
                table.append((activation, depth, seed, *[q.item() for q in quantiles]))
    columns = ["activation", "depth", "seed", "smallest", "median", "largest"]
    return pd.DataFrame(table, columns=columns)


def draw(frame: pd.DataFrame) -> Figure:
    """Singular values over depth, and how far they are from 1."""
    figure, (left, right) = panels(2)
    for i, (activation, part) in enumerate(frame.groupby("activation", sort=False)):
        # Two lie on each other: the one below is seen around the one above.
        style = look(i) | ({"markersize": 6.5, "markerfacecolor": "none"} if i == 1 else {})
        by_depth = part.groupby("depth")
        depth = sorted(part["depth"].unique())
        low = by_depth["smallest"].min().clip(lower=FLOOR)
        left.fill_between(depth, low, by_depth["largest"].max(), alpha=0.12, color=look(i)["color"])
        median = by_depth["median"].median().clip(lower=FLOOR)
        left.plot(depth, median, label=activation, **style)
        away = (1 - by_depth["smallest"].min()).combine(by_depth["largest"].max() - 1, max)
        right.plot(depth, away.clip(lower=FLOOR), **style)
    for axis, name in ((left, "singular values"), (right, "largest |singular value - 1|")):
        axis.set_yscale("log")
        axis.set(xlabel="hidden layers", ylabel=name)
    key_of(figure, left)
    return figure

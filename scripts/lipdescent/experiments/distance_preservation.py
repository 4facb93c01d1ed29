"""Do circular residual networks keep distances? (Smith et al. 2021, arXiv 2106.02469.)

MNIST1D; k is the largest constant of a branch, plain networks have none. Top: smallest singular
value of the feature map's Jacobian over test points, on the frequencies 0 to 3 (coloured) and on
all inputs (black dashes; 0 for every network with fewer features than inputs); the ratio of
largest to smallest on that band, median over points; mean energy per frequency of the directions
found in which the network is blind. Bottom: one such pair of inputs; linear networks, measured
(markers) against their closed form (lines); networks of one resolution with the low-band bound
2 - (1 + k)^2 that provably holds for them (line). A marker is one seed. Of the paper only abstract
and code were at hand.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.architectures import bilipschitz_resnet
from lipdescent.experiments import _circular_networks as circular_networks
from lipdescent.experiments import _colipschitz as colipschitz
from lipdescent.experiments._distance import (
    columns,
    feature_map,
    fit,
    measure_stack,
    network_name,
    numbered,
)
from lipdescent.experiments._drawing import key_of, look
from lipdescent.experiments._fitting import Fit, certified
from lipdescent.figures._axes import log_values
from lipdescent.figures._style import new_figure
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.draws import initial_stack

BLOCKS = 2
BAND = range(4)  # DFT frequencies


def _coefficient(k: float | None) -> float | None:
    """Of the two convolutions of a branch whose constant is at most k."""
    return None if k is None else k**0.5


def linear_networks(
    *, width: int, k: float | None, seeds: Sequence[int], length: int
) -> Iterable[dict[str, Any]]:
    """Untrained linear networks against their closed form, at every frequency and in full."""

    def build() -> torch.nn.Module:
        return bilipschitz_resnet.build(
            width,
            input_shape=(length,),
            num_classes=10,
            blocks=BLOCKS,
            coefficient=_coefficient(k),
            activation="none",
        )

    stack = initial_stack(build, seeds, (length,))
    for name, raw in stack.state.items():
        if name.endswith("original"):
            raw.mul_(10)  # far beyond what the constraint leaves
    features = feature_map(certified(stack))
    for i, seed in enumerate(seeds):
        one = features[i : i + 1]
        jacobian = colipschitz.jacobians(one, torch.zeros(1, length))[0]
        responses = circular_networks.frequency_responses(one)
        exact = circular_networks.singular_values(responses, len(jacobian) // width)
        found = colipschitz.band_singular_values(jacobian[None])[0]
        waves = torch.fft.fft(torch.eye(length, dtype=torch.complex128), norm="ortho").conj()
        lengths = torch.linalg.vector_norm(jacobian.to(waves) @ waves, dim=0)
        kept = length // 2 + 1
        yield (
            {"seed": seed, "linear_error": (found - exact).abs().max().item()}
            | numbered("response", lengths[:kept])
            | numbered("exact", responses.norm(dim=1)[:kept])
        )


def projected_smallest(features: ModelStack, points: Tensor, band: Sequence[int]) -> float:
    """Smallest |P(f(x + d) - f(x))| / |d| seen, d in the band: of Jacobians, of pairs of points."""
    length = points.shape[1]
    basis = colipschitz.band_basis(length, band)
    jacobian = colipschitz.jacobians(features, points)
    channels = jacobian.unflatten(1, (-1, length))
    on_band = torch.einsum("lb,ncld,de->ncbe", basis, channels, basis).flatten(1, 2)
    smallest = torch.linalg.svdvals(on_band)[:, -1].min()
    x = points.double()
    d = (x.roll(1, 0) - x) @ basis @ basis.T
    difference = (features(x + d) - features(x))[0].unflatten(1, (-1, length)) @ basis
    ratios = difference.flatten(1).norm(dim=1) / d.norm(dim=1)
    return min(smallest.item(), ratios.min().item())


def run(
    *,
    widths: Sequence[int] = (2, 8),
    constants: Sequence[float | None] = (None, 0.9, 0.5),
    bounded: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 600,
    learning_rate: float = 2e-2,
    num_points: int = 100,
    num_searches: int = 5,
) -> pd.DataFrame:
    """Rows of the tasks "trained", "linear" and "one_resolution" per width, k and seed.

    ``widths`` are channels, features are 10 times as many; k is 0 for none; ``bounded`` are the
    constants of the networks of one resolution, which have the first width.
    """
    data = lookup.resolve("datasets", "mnist1d").load(num_train=1000, num_test=1000, seed=0)
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    points = torch.from_numpy(data.test_inputs[:num_points])
    training: dict[str, Any] = {"seeds": seeds, "blocks": BLOCKS}
    training["how"] = Fit(steps, batch_size=100, learning_rate=learning_rate)
    rows = []
    for width in widths:
        for k in constants:
            stack = fit(inputs, labels, width=width, coefficient=_coefficient(k), **training)
            measured = measure_stack(
                stack,
                data,
                seeds=seeds,
                num_points=num_points,
                band=BAND,
                num_searches=num_searches,
            )
            about = {"task": "trained", "width": width, "k": k or 0.0}
            rows += [about | row for row in measured]
            linear = linear_networks(width=width, k=k, seeds=seeds, length=inputs.shape[1])
            rows += [about | {"task": "linear"} | row for row in linear]
            print(f"width {width}, k {k}: done", flush=True)
    for k in bounded:
        own = training | {"coefficient": _coefficient(k), "stages": 1}
        features = feature_map(fit(inputs, labels, width=widths[0], **own))
        for i, seed in enumerate(seeds):
            row = {"task": "one_resolution", "width": widths[0], "k": k, "seed": seed}
            row["bound"] = colipschitz.low_band_bound([k] * BLOCKS)
            row["projected_smallest"] = projected_smallest(features[i : i + 1], points, BAND)
            rows.append(row)
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """See the module's docstring."""
    figure, axes = new_figure(2, 3, height=4.4)
    trained = frame[frame["task"] == "trained"]
    groups = list(trained.groupby(["width", "k"], sort=False))
    draw_singular_values(axes[0, 0], axes[0, 1], groups)
    energies = columns(trained, "energy")
    for i, (_, part) in enumerate(groups):
        axes[0, 2].plot(range(len(energies)), part[energies].mean(), **look(i))
    axes[0, 2].set(title="counter-examples", ylabel="share of energy", xlabel="DFT frequency")
    _draw_pair(axes[1, 0], trained)
    _draw_linear(axes[1, 1], frame[frame["task"] == "linear"])
    _draw_bound(axes[1, 2], frame[frame["task"] == "one_resolution"])
    key_of(figure, axes[0, 0], columns=4)
    return figure


def draw_singular_values(left: Axes, middle: Axes, groups: Sequence[tuple]) -> None:
    """Smallest values on the band and on all inputs; the band's ratio. One place per network."""
    for i, ((width, k), part) in enumerate(groups):
        style = look(i) | {"linestyle": ""}
        name = network_name(width, k)
        left.plot([i] * len(part), part["dft_smallest"], label=name, **style)
        left.plot([i] * len(part), part["full_smallest"], "_", color="black", markersize=9)
        middle.plot([i] * len(part), part["dft_ratio"], **style)
    left.set(title="low band and all inputs", ylabel="smallest singular value")
    middle.set(title="low band", ylabel="largest / smallest singular value")
    log_values(middle)
    for axis in (left, middle):
        axis.set(xticks=[], xlim=(-0.6, len(groups) - 0.4))
    left.set_ylim(bottom=-0.06 * left.get_ylim()[1])
    left.plot([], [], "_", color="black", markersize=9, label="all inputs")


def _draw_pair(axis: Axes, trained: pd.DataFrame) -> None:
    """The two inputs that came closest together."""
    best = trained.sort_values("counter_ratio", kind="stable").iloc[0]
    start = best[columns(trained, "start")].to_numpy(float)
    other = start + best[columns(trained, "direction")].to_numpy(float)
    axis.plot(start, color="black", label="x")
    axis.plot(other, color="#D55E00", linestyle="--", label="x'")
    exponent = math.floor(math.log10(max(best["counter_ratio"], 1e-300)))
    name = network_name(best["width"], best["k"])
    axis.set_title(f"a pair ({name}):\nratio of distances < $10^{{{exponent + 1}}}$")
    axis.set(xlabel="position", ylabel="input")
    axis.legend(handlelength=1.5)


def _draw_linear(axis: Axes, linear: pd.DataFrame) -> None:
    """First seed of every k at the largest width."""
    part = linear[(linear["width"] == linear["width"].max())].drop_duplicates("k")
    for i, (_, row) in enumerate(part.iterrows()):
        style = look(i)
        exact, found = (row[columns(linear, n)].to_numpy(float) for n in ("exact", "response"))
        axis.plot(exact, color=style["color"])
        axis.plot(found, linestyle="", **style)
    error = linear["linear_error"].max()
    axis.set(title=f"linear networks, closed form within {error:.0e}", ylabel="response")
    axis.set_xlabel("DFT frequency")
    axis.set_ylim(bottom=-0.03)


def _draw_bound(axis: Axes, rows: pd.DataFrame) -> None:
    axis.plot(rows["k"], rows["projected_smallest"], linestyle="", **look(0))
    axis.plot(rows["k"], rows["bound"], color="black")
    axis.set_title("one resolution, low band: measured and proved")
    axis.set(ylabel="smallest singular value", xlabel="branch constant k")
    axis.set_ylim(bottom=-0.03)

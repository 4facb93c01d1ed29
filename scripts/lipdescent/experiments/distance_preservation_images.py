"""Do circular residual networks on images keep distances? (Smith et al. 2021, arXiv 2106.02469.)

Digits (8 x 8) and Fashion-MNIST (14 x 14); four blocks of BatchNorm, ReLU, convolution, twice; c is
the largest constant of each layer, so that a branch may have c^4; plain networks have none. One
resolution, average pools, or strided blocks. Top: smallest over largest singular value of the
feature map's Jacobian on DFT frequencies 0 and 1 of each axis, at the worst of the test points, and
the largest certified constant of a branch: at 1 (grey line) and above, the textbook's (1 - k)^L
says nothing. A marker is one seed. Bottom: two images that a strided plain network maps to nearly
the same, and the energy of the directions found, in which strided networks are blind, per pair of
DFT frequencies, means, plain and at the smallest c. Of the paper only abstract and code were at
hand.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from lipdescent.datasets import Dataset
from lipdescent.experiments import _colipschitz as colipschitz
from lipdescent.experiments import _options
from lipdescent.experiments._distance import columns, feature_map, fit, measure_stack
from lipdescent.experiments._drawing import key_of, log_values, look
from lipdescent.experiments._fitting import Fit
from lipdescent.figures._style import GREY, new_figure
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack

CHECK = _options.residual_images
BAND = range(2)  # DFT frequencies on both axes
TITLES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
# Resolutions: stages and blocks of each, four blocks in all.
DOWNSAMPLING = {"none": (1, 4), "average": (2, 2), "strided": (2, 2)}
NAMES = {"none": "one resolution", "average": "average pools", "strided": "strided"}


def load(dataset: str, *, num_train: int = 1000, num_test: int = 397) -> Dataset:
    """Digits, or Fashion-MNIST at half its resolution."""
    options = {"image_size": 14} if dataset == "fashion_mnist" else {}
    module = lookup.resolve("datasets", dataset)
    loaded: Dataset = module.load(num_train=num_train, num_test=num_test, seed=0, **options)
    return loaded


def network(downsampling: str, coefficient: float | None) -> dict[str, Any]:
    """Options of ``bilipschitz_resnet``."""
    stages, blocks = DOWNSAMPLING[downsampling]
    kind = "average" if downsampling == "none" else downsampling
    return {
        "stages": stages, "blocks": blocks, "downsampling": kind, "batchnorm": True,
        "coefficient": coefficient,
    }  # fmt: skip


def bounds(features: ModelStack, *, coefficient: float | None) -> dict[str, Any]:
    """What is proved of a single model: certified branch constants, lower bounds on distances.

    ``k_allowed`` is what the coefficient leaves a branch, ``k`` the largest that one has. Lower
    bounds are 0 where they say nothing: for a skip connection that is not the identity, at two
    resolutions.
    """
    found = colipschitz.branch_constants(features)
    constants = [constant.item() for constant, _ in found]
    identity = all(same for _, same in found)
    allowed = 0.0 if coefficient is None else coefficient**4
    lift = next(iter(features.state.values())).norm().item() * (1 - 1e-12)
    told: dict[str, Any] = {"k_allowed": allowed, "k": max(constants), "identity": identity}
    layers = cast(nn.Sequential, features.module)
    one = identity and len(layers) == 2 + len(constants)  # lift, blocks, flatten
    for name, each in (("allowed", [allowed] * len(constants)), ("certified", constants)):
        known = one and not (name == "allowed" and coefficient is None)
        textbook, low = colipschitz.textbook_bound, colipschitz.low_band_bound
        told[f"textbook_{name}"] = textbook(each, lift=lift) if known else 0.0
        told[f"low_band_{name}"] = low(each, lift=lift) if known else 0.0
    return told


def rows_of(
    data: Dataset,
    *,
    width: int,
    options: dict[str, Any],
    seeds: Sequence[int],
    how: Fit,
    **most: int,
) -> Iterable[dict[str, Any]]:
    """Train and measure the networks of one kind; ``seconds`` of the CPU of a step of them all."""
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    start = time.process_time()
    stack = fit(inputs, labels, width=width, seeds=seeds, how=how, **options)
    seconds = (time.process_time() - start) / max(1, how.steps)
    features = feature_map(stack)
    measured = measure_stack(stack, data, seeds=seeds, band=BAND, **most)
    for i, row in enumerate(measured):
        proved = bounds(features[i : i + 1], coefficient=options["coefficient"])
        yield row | proved | {"seconds": seconds}


def run(
    *,
    datasets: Sequence[Literal["digits", "fashion_mnist"]] = ("digits", "fashion_mnist"),
    downsampling: Sequence[Literal["none", "average", "strided"]] = ("none", "average", "strided"),
    widths: Sequence[int] = (2,),
    coefficients: Sequence[float | None] = (None, 0.9, 3.0, 6.0),
    seeds: Sequence[int] = (0, 1, 2, 3),
    steps: int = 150,
    batch_size: int = 50,
    learning_rate: float = 2e-2,
    num_points: int = 8,
    num_searches: int = 2,
    search_steps: int = 50,
) -> pd.DataFrame:
    """One row per data set, kind of network, width (channels), c (0 for none) and seed.

    Raises
    ------
    ValueError
        As :func:`lipdescent.experiments._options.residual_images`.
    """
    CHECK(
        datasets=datasets,
        downsampling=downsampling,
        widths=widths,
        coefficients=coefficients,
        seeds=seeds,
        steps=steps,
    )
    kinds = [(d, c) for d in downsampling for c in coefficients]
    options = {kind: network(*kind) for kind in kinds}
    how = Fit(steps, batch_size=batch_size, learning_rate=learning_rate)
    most = {"num_points": num_points, "num_searches": num_searches, "search_steps": search_steps}
    rows = []
    for dataset in datasets:
        data = load(dataset)
        for width in widths:
            for (down, c), own in options.items():
                found = rows_of(data, width=width, options=own, seeds=seeds, how=how, **most)
                about = {"dataset": dataset, "downsampling": down, "width": width}
                rows += [about | {"c": c or 0.0} | row for row in found]
            print(f"{dataset}, width {width}: done", flush=True)
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """See the module's docstring."""
    figure, axes = new_figure(2, 4, height=4.2)
    wide = frame[frame["width"] == frame["width"].max()]
    parts = list(wide.groupby("dataset", sort=False))
    for j, (dataset, part) in enumerate(parts):
        _draw_networks(axes[0, 2 * j], part, 1 / part["dft_worst_ratio"])
        axes[0, 2 * j].set_title(str(TITLES[str(dataset)]))
        axes[0, 2 * j].set_ylabel("smallest / largest\non the low band")
        _draw_networks(axes[0, 2 * j + 1], part, part["k"])
        axes[0, 2 * j + 1].axhline(1, color=GREY)
        axes[0, 2 * j + 1].set(
            title=str(TITLES[str(dataset)]), ylabel="largest branch constant\n(invertible: below 1)"
        )
    for axis in axes[0, 2 * len(parts) :]:
        axis.remove()
    _draw_pair(axes[1], frame[frame["dataset"] == frame["dataset"].iloc[-1]])
    key_of(figure, axes[0, 0], columns=3)
    return figure


def coefficient_name(c: Any) -> str:
    return f"{c:g}" if c else "plain"


def _draw_networks(axis: Axes, part: pd.DataFrame, values: pd.Series) -> None:
    """A place for every c, a colour for every kind of network."""
    coefficients = sorted(part["c"].unique(), key=lambda c: c or np.inf)
    for i, (down, own) in enumerate(part.groupby("downsampling", sort=False)):
        place = [coefficients.index(c) + 0.2 * (i - 1) for c in own["c"]]
        style = look(i) | {"linestyle": "", "markersize": 3}
        axis.plot(place, values[own.index], label=NAMES[str(down)], **style)
    axis.set_xticks(range(len(coefficients)), [coefficient_name(c) for c in coefficients])
    axis.set_xlabel("c")
    log_values(axis)


def _draw_pair(axes: Sequence[Axes], part: pd.DataFrame) -> None:
    """Two images and their difference, energies of plain and of the most limited networks."""
    last = part[part["downsampling"] == part["downsampling"].iloc[-1]]
    narrow = last[last["width"] == last["width"].min()]
    best = narrow.sort_values(["c", "counter_ratio"], kind="stable").iloc[0]
    start = best[columns(narrow, "start")].to_numpy(float)
    side = round(len(start) ** 0.5)
    other = start + best[columns(narrow, "direction")].to_numpy(float)
    low, high = min(start.min(), other.min()), max(start.max(), other.max())
    for axis, image, title in ((axes[0], start, "an image"), (axes[1], other, "another")):
        axis.imshow(image.reshape(side, side), cmap="gray", vmin=low, vmax=high)
        axis.set_title(title)
    exponent = int(np.floor(np.log10(max(best["counter_ratio"], 1e-300)))) + 1
    axes[1].set_title(f"another: ratio of\ndistances < $10^{{{exponent}}}$")
    energies = columns(narrow, "energy")
    limited = narrow[narrow["c"] == min(narrow["c"], key=lambda c: c or np.inf)]
    shown = {"plain": narrow[narrow["c"] == narrow["c"].min()], "limited": limited}
    sides = round(len(energies) ** 0.5)
    most = max(own[energies].mean().max() for own in shown.values())
    for axis, own in zip(axes[2:], shown.values(), strict=True):
        share = own[energies].mean().to_numpy().reshape(sides, sides)
        axis.imshow(share, origin="lower", vmin=0, vmax=most)
        axis.set_title(f"energy of the\ndifference, {coefficient_name(own['c'].iloc[0])}")
        axis.set(xlabel="DFT freq. (columns)", ylabel="DFT freq. (rows)")
    for axis in axes:
        axis.grid(False)
    for axis in axes[:2]:
        axis.set(xticks=[], yticks=[])

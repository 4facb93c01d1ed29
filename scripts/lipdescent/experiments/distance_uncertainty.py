"""Are far inputs told from near ones where distances are kept? (Smith et al., arXiv 2106.02469.)

Strided circular residual networks with BatchNorm, plain or with layers of a constant of at most c,
trained on eight of ten classes, the two left out by the seed. Uncertainty is the variance of a
Gaussian process on their features (RBF kernel, its length the median distance of training points).
Left, middle: area under the ROC curve, test images of the trained classes against far ones: shifted
by a pixel, of other classes, white noise, moved by a quarter of the median image's length in the
low band (DFT frequencies 0 and 1 of each axis) or outside of it; a marker is one seed, bars are
means. Black: the process on the pixels. Right: variance over the length of the move in the low band
(solid) and outside of it (dashed), Fashion-MNIST, means over seeds. Of the paper only abstract and
code were at hand.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.analysis import statistics
from lipdescent.datasets import Dataset
from lipdescent.experiments import _colipschitz as colipschitz
from lipdescent.experiments import _options
from lipdescent.experiments._distance import feature_map, fit
from lipdescent.experiments._drawing import key_of, look, panels
from lipdescent.experiments._fitting import Fit
from lipdescent.experiments._kernel_head import KernelHead, area_under_curve
from lipdescent.experiments.distance_preservation_images import BAND, TITLES, load, network
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator

CHECK = _options.residual_images
LEFT_OUT = 2
SHIFTS = (1, 2, 4)  # pixels
MOVES = (0.25, 0.5, 1.0, 2.0)  # of the median length of a test image
SHOWN = {
    ("shifted", 1.0): "shifted", ("other classes", 0.0): "other\nclasses", ("noise", 0.0): "noise",
    ("low band", 0.25): "low\nband", ("high band", 0.25): "high\nband",
}  # fmt: skip


def classes_left_out(seed: int, num_classes: int) -> list[int]:
    """Two neighbours; five seeds leave every class out once."""
    return [(LEFT_OUT * seed + i) % num_classes for i in range(LEFT_OUT)]


def far_inputs(near: Tensor, others: Tensor, *, seed: int) -> Iterator[tuple[str, float, Tensor]]:
    """Kind, amount and images (n, 1, side, side), of test images (n, 1, side, side).

    Shifts are circular, by pixels along rows; noise has mean and deviation of the near pixels;
    moves are random directions of one length, ``amount`` median lengths of a near image.
    """
    random = generator("far", seed)
    for pixels in SHIFTS:
        yield "shifted", float(pixels), near.roll(pixels, -1)
    yield "other classes", 0.0, others
    noise = torch.randn(near.shape, generator=random)
    yield "noise", 0.0, near.mean() + near.std() * noise
    flat = near.flatten(1)
    basis = colipschitz.band_basis(tuple(near.shape[2:]), BAND).to(near)
    length = flat.norm(dim=1).median()
    direction = torch.randn(flat.shape, generator=random)
    low = direction @ basis @ basis.T
    for kind, part in (("low band", low), ("high band", direction - low)):
        unit = torch.nn.functional.normalize(part, dim=1)
        for amount in MOVES:
            yield kind, amount, (flat + amount * length * unit).view_as(near)


def scores(
    stack: ModelStack, train: Tensor, labels: Tensor
) -> tuple[dict[str, Callable[[Tensor], Tensor]], KernelHead]:
    """Uncertainties of inputs (n, ...) -> (n,) of a single network, and its kernel head.

    "features", "pixels": variance of a Gaussian process on them; "entropy" of the softmax.
    """
    features = feature_map(stack)
    head = KernelHead.fit(features(train.double())[0], labels)
    pixels = KernelHead.fit(train.double().flatten(1), labels)

    def entropy(x: Tensor) -> Tensor:
        logarithms = stack(x.double())[0].log_softmax(-1)
        return -(logarithms.exp() * logarithms).sum(-1)

    return {
        "features": lambda x: head.variance(features(x.double())[0]),
        "pixels": lambda x: pixels.variance(x.double().flatten(1)),
        "entropy": entropy,
    }, head


def measure(data: Dataset, *, seed: int, how: Fit, **options: Any) -> Iterator[dict[str, Any]]:
    """Rows of one network: accuracies, then what each uncertainty tells of far inputs."""
    inputs, labels, test, test_labels = map(
        torch.from_numpy, (data.train_inputs, data.train_labels, data.test_inputs, data.test_labels)
    )
    left_out = torch.tensor(classes_left_out(seed, data.num_classes))
    kept, near_ones = (~torch.isin(own, left_out) for own in (labels, test_labels))
    train, labels = inputs[kept], labels[kept]
    near, others, truth = test[near_ones], test[~near_ones], test_labels[near_ones]
    stack = fit(train, labels, seeds=[seed], how=how, **options)
    uncertain, head = scores(stack, train, labels)
    features = feature_map(stack)(near.double())[0]
    for on, found in (("features", head.mean(features)), ("softmax", stack(near.double())[0])):
        right = (found.argmax(1) == truth).double().mean().item()
        yield {"quantity": "accuracy", "score": on, "value": right}
    sets = {("near", 0.0): near}
    sets |= {(kind, amount): x for kind, amount, x in far_inputs(near, others, seed=seed)}
    distances = [torch.cdist(x.flatten(1), train.flatten(1)).amin(1) for x in sets.values()]
    for score, function in uncertain.items():
        values = {at: function(x) for at, x in sets.items()}
        for row in _told(values, torch.cat(distances)):
            yield row | {"score": score}


def _told(values: dict[tuple[str, float], Tensor], distance: Tensor) -> Iterator[dict[str, Any]]:
    """Of the uncertainties of every set: means, areas against the first, Spearman's correlation.

    ``distance`` : of all inputs in that order, from their nearest training image.
    """
    (near, *_) = values.values()
    for i, ((kind, amount), own) in enumerate(values.items()):
        about = {"kind": kind, "amount": amount}
        yield about | {"quantity": "mean", "value": own.mean().item()}
        if i:
            yield about | {"quantity": "area", "value": area_under_curve(own, near)}
    every = torch.cat(list(values.values()))
    correlation = statistics.spearman(distance.double().numpy(), every.numpy())
    yield {"quantity": "correlation", "value": float(correlation)}


def run(
    *,
    datasets: Sequence[Literal["digits", "fashion_mnist"]] = ("digits", "fashion_mnist"),
    coefficients: Sequence[float | None] = (None, 0.9, 3.0, 6.0),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    width: int = 4,
    steps: int = 150,
    batch_size: int = 50,
    learning_rate: float = 2e-2,
) -> pd.DataFrame:
    """Tidy rows per data set, c (0 for none), seed, quantity, score, kind of far input, amount.

    Raises
    ------
    ValueError
        As :func:`lipdescent.experiments._options.residual_images`.
    """
    CHECK(datasets=datasets, coefficients=coefficients, seeds=seeds, width=width, steps=steps)
    how = Fit(steps, batch_size=batch_size, learning_rate=learning_rate)
    rows = []
    for dataset in datasets:
        data = load(dataset, num_test=250)
        for c in coefficients:
            options = network("strided", c) | {"width": width}
            for seed in seeds:
                about = {"dataset": dataset, "c": c or 0.0, "seed": seed}
                rows += [about | row for row in measure(data, seed=seed, how=how, **options)]
            print(f"{dataset}, c {c}: done", flush=True)
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """See the module's docstring."""
    figure, axes = panels(3, height=2.8)
    for axis, (dataset, part) in zip(axes, frame.groupby("dataset", sort=False), strict=False):
        _draw_areas(axis, part[part["quantity"] == "area"])
        axis.set(title=str(TITLES[str(dataset)]), ylabel="area under the ROC curve")
    for axis in axes[frame["dataset"].nunique() : 2]:
        axis.remove()
    last = frame[frame["dataset"] == frame["dataset"].iloc[-1]]
    _draw_moves(axes[2], last[(last["quantity"] == "mean") & (last["score"] == "features")])
    axes[2].set(title=str(TITLES[last["dataset"].iloc[0]]), ylabel="variance of moved images")
    key_of(figure, axes[0], columns=5)
    return figure


def network_name(c: Any) -> str:
    return f"c = {c:g}" if c else "plain"


def _draw_areas(axis: Axes, part: pd.DataFrame) -> None:
    groups = list(part[part["score"] == "features"].groupby("c", sort=False))
    pixels = part[(part["score"] == "pixels") & (part["c"] == part["c"].iloc[0])]
    for i, (c, own) in enumerate([*groups, (None, pixels)]):
        style = look(i) if c is not None else {"color": "black", "marker": "_"}
        for place, (kind, amount) in enumerate(SHOWN):
            values = own[(own["kind"] == kind) & (own["amount"] == amount)]["value"]
            x = place + 0.16 * (i - len(groups) / 2)
            name = "pixels" if c is None else network_name(c)
            label = None if place else name
            axis.plot([x] * len(values), values, linestyle="", markersize=3, label=label, **style)
            axis.plot([x - 0.07, x + 0.07], [values.mean()] * 2, color=style["color"])
    names = [name.replace("\n", " ") for name in SHOWN.values()]
    axis.set_xticks(range(len(SHOWN)), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlabel("images told from near ones")


def _draw_moves(axis: Axes, part: pd.DataFrame) -> None:
    for i, (_, own) in enumerate(part.groupby("c", sort=False)):
        for kind, line in (("low band", "-"), ("high band", "--")):
            values = own[own["kind"] == kind].groupby("amount")["value"].mean()
            values = pd.concat(
                [own[own["kind"] == "near"].groupby("amount")["value"].mean(), values]
            )
            axis.plot(values.index, values, linestyle=line, **look(i) | {"markersize": 3})
    axis.set_xlabel("length of the move,\nmedian image lengths")
    axis.set_ylim(bottom=np.nextafter(0, -1))

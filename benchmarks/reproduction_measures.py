"""What a study's results, or its file in docs/numbers, give for a statement of a paper.

Each takes the folder and, those that are ``asked``, what else is wanted of it: a statement takes
``growth("test loss")``, a function of the folder alone.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
from reproduction_words import Measured

from lipdescent import datasets
from lipdescent.analysis import bias_variance, ladder, power_law, statistics
from lipdescent.analysis.groups import Group, Series
from lipdescent.analysis.loading import load
from lipdescent.analysis.statistics import Array
from lipdescent.storage import checkpoints
from lipdescent.storage.variants import Value

Take = Callable[[Path], Measured]
LOWER, MEAN = "largest Jacobian norm on the training data", "mean Jacobian norm there"
UPPER, TEST_LOSS = "layer product", "test loss"
PAIRS = "largest quotient of two training points"
SERIES = {
    LOWER: Series("lower_jacobian", "lower", "l2", "train"),
    UPPER: Series("upper_layer_product", "upper", "l2", ""),
    PAIRS: Series("lower_pairs", "lower", "l2", "train"),
    MEAN: Series("jacobian_norm_mean", "metric", "l2", "train"),
}
NUMBER = r"-?\d*\.?\d+(?:e-?\d+)?"


class Missing(LookupError):
    """The study was run without something: the statement stays as it was recorded, or open."""


def asked(take: Callable[..., Measured]) -> Callable[..., Take]:
    """``take(folder, *options)`` as ``take(*options)(folder)``."""

    @functools.wraps(take)
    def given(*options: Any, **named: Any) -> Take:
        return lambda folder: take(folder, *options, **named)

    return given


def values(group: Group, name: str) -> Array:
    """One of the papers' curves, (W, N, E, S).

    Raises
    ------
    Missing
        If the study did not measure it.
    """
    if name == TEST_LOSS:
        return ladder.metric(group, "test_loss")
    if name in SERIES:
        if SERIES[name] not in group.series:
            raise Missing(f"{group.study}: no {name}")
        return group.series[SERIES[name]]
    found = [v for rung, v in ladder.rungs(group, "l2").items() if rung.quantity == name]
    if not found:
        raise Missing(f"{group.study}: no {name}")
    return found[0]


def _complete(group: Group, name: str) -> Array:
    """:func:`values`; Missing where a network of the last epoch has none, as one that diverged."""
    found = values(group, name)
    if not np.isfinite(found[:, 0, -1]).all():
        raise Missing(f"{group.study}: {name} is not there for all networks")
    return found


def all_groups(study: Path, architecture: str = "") -> list[Group]:
    """Every group of a study, or those of one architecture."""
    return [g for g in load(study).values() if architecture in ("", g.architecture)]


def _place(group: Group, axis: str, value: int) -> int:
    found = getattr(group, axis).tolist()
    if value not in found:
        raise Missing(f"{group.study}: no {axis} {value}")
    return found.index(value)


def _ends(lower: Array, upper: Array) -> tuple[float, float] | None:
    """Smallest lower and largest upper end, both rounded once; None where one is missing."""
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return None
    return float(np.nextafter(lower.min(), -np.inf)), float(np.nextafter(upper.max(), np.inf))


@asked
def growth(study: Path, name: str) -> Measured:
    """Last over first checkpoint at the largest width and the least noise."""
    (group,) = all_groups(study)
    curve = values(group, name)[-1, 0]
    lower, upper = (side[-1, 0] for side in ladder.bracket(group, "l2"))
    ends = _ends(lower[-1] / upper[0], upper[-1] / lower[0])
    return Measured((curve[-1] / curve[0]).tolist(), ends)


@asked
def at(
    study: Path, name: str, *, epoch: int | None = None, width: int | None = None, **point: Value
) -> Measured:
    """One checkpoint, the last and the widest where nothing else is said, at a point of axes."""
    (group,) = (g for g in all_groups(study) if g.point == point)
    w = -1 if width is None else _place(group, "width", width)
    e = -1 if epoch is None else _place(group, "epoch", epoch)
    lower, upper = (side[w, 0, e] for side in ladder.bracket(group, "l2"))
    return Measured(values(group, name)[w, 0, e].tolist(), _ends(lower, upper))


@asked
def metric(study: Path, quantity: str) -> Measured:
    """A loss or an accuracy at the last checkpoint, the largest width and the least noise."""
    (group,) = all_groups(study)
    return Measured(ladder.metric(group, quantity)[-1, 0, -1].tolist())


@asked
def exponent(
    study: Path,
    name: str,
    axis: str,
    *,
    start: float = 1,
    end: float = np.inf,
    epoch: int = -1,
    starts_from: float | None = None,
) -> Measured:
    """Log-log slope over epochs or a further axis, and between which ones the constant's lies.

    Parameters
    ----------
    start, end : first and last value of the axis that is fitted.
    epoch : place of the checkpoint, where the axis is another.
    starts_from : the note tells the largest mean slope of all starts from here on.
    """
    x, sides = _along(all_groups(study), name, axis, epoch)
    note = ""
    if starts_from is not None:
        starts = [s for s in x[: 1 - power_law.MIN_POINTS] if s >= starts_from]
        each = [
            (power_law.weights(x[x >= s])["least_squares"] @ np.log(sides[0][x >= s])).mean()
            for s in starts
        ]
        note = f"from any start, epoch {starts_from:g} on, at most {max(each):.3g}"
    kept = (x >= start) & (x <= end)
    x, (curve, lower, upper) = x[kept], [side[kept] for side in sides]
    slope = power_law.weights(x)["least_squares"] @ np.log(curve)
    if axis == "depth":  # hidden layers here; to count the output layer, too, is as natural
        more = power_law.weights(x + 1)["least_squares"] @ np.log(curve)
        note = f"over all layers, with the output layer, {more.mean():.3g}"
        note += f" ({more.min():.3g} to {more.max():.3g})"
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return Measured(slope.tolist(), note=note)
    proved = [
        power_law.bracketed(x, lower[:, [seed]], upper[:, [seed]], confidence=0.95)
        for seed in range(lower.shape[1])
    ]
    ranges = [found["least_squares"] for found in proved]
    ends = (min(found.low for found in ranges), max(found.high for found in ranges))
    return Measured(slope.tolist(), ends, None, note)


def _along(found: list[Group], name: str, axis: str, epoch: int) -> tuple[Array, list[Array]]:
    """An axis (P,); a curve, the lower and the upper end of the bracket along it, each (P, S)."""
    if axis == "epoch":
        (group,) = found
        sides = (values(group, name), *ladder.bracket(group, "l2"))
        return group.epoch.astype(np.float64), [side[-1, 0] for side in sides]
    found = sorted(found, key=lambda group: group.point[axis])
    each = [(values(group, name), *ladder.bracket(group, "l2")) for group in found]
    x = np.array([float(group.point[axis]) for group in found])
    return x, [np.stack([sides[i][-1, 0, epoch] for sides in each]) for i in range(3)]


@asked
def peak(study: Path, name: str) -> Measured:
    """Width of the largest value of each seed; between which the mean constant's can be."""
    (group,) = all_groups(study)
    found = group.width[_complete(group, name)[:, 0, -1].argmax(0)]
    can = _can_peak(group)
    ends = (float(can[0]), float(can[-1])) if can else None
    return Measured(found.astype(float).tolist(), ends)


def constant_peak(study: Path) -> Measured:
    """The widths at which the constant's mean over seeds can be largest."""
    (group,) = all_groups(study)
    can = _can_peak(group)
    if not can:
        raise Missing(f"{group.study}: no bracket at some width")
    told = f"one of {', '.join(map(str, can))}"
    return Measured([], (float(can[0]), float(can[-1])), None, told)


def _can_peak(group: Group) -> list[int]:
    lower, upper = (side[:, 0, -1] for side in ladder.bracket(group, "l2"))
    if not np.isfinite([lower, upper]).all():
        return []
    low, high = statistics.mean_bracket(lower, upper)
    return group.width[high >= low.max()].tolist()


@asked
def tandem(study: Path, names: Sequence[str]) -> Measured:
    """Whether the means over seeds of all curves peak inside the grid, at most a width apart."""
    (group,) = all_groups(study)
    means = [statistics.geometric_mean(_complete(group, name)[:, 0, -1]) for name in names]
    places = [int(mean.argmax()) for mean in means]
    inside = all(0 < place < len(group.width) - 1 for place in places)
    told = ", ".join(f"{n} at {group.width[p]}" for n, p in zip(names, places, strict=True))
    return Measured([], None, inside and max(places) - min(places) <= 1, told)


def fidelity(study: Path) -> Measured:
    """The largest Jacobian norm on the data over the least upper bound, all widths and seeds."""
    (group,) = all_groups(study)
    ratio = values(group, LOWER)[:, 0, -1] / ladder.best(group, "upper", "l2")[:, 0, -1]
    least = float(np.nextafter(ratio.min(), 0))
    return Measured(ratio.mean(0).tolist(), (least, 1.0))


@asked
def ratio(study: Path, quantity: str, other: str) -> Measured:
    """A bound over another on the same networks, the mean over widths of each seed."""
    (group,) = all_groups(study)
    each = values(group, quantity)[:, 0, -1] / values(group, other)[:, 0, -1]
    told = f"{each.min():.3f} to {each.max():.3f} over widths and seeds"
    return Measured(each.mean(0).tolist(), None, None, told)


@asked
def between_points(
    study: Path, name: str, axis: str, over: Value, under: Value, *, width: int = -1, **rest: Value
) -> Measured:
    """A curve at one point of an axis over that at another; also the constant's.

    ``rest`` are the points of other further axes, ``width`` -1 the largest.
    """
    ends = []
    for value in (over, under):
        (group,) = (g for g in all_groups(study) if g.point == {axis: value} | rest)
        place = width if width < 0 else _place(group, "width", width)
        sides = (_complete(group, name), *ladder.bracket(group, "l2"))
        ends.append([side[place, 0, -1] for side in sides])
    above, below = ends
    return Measured((above[0] / below[0]).tolist(), _ends(above[1] / below[2], above[2] / below[1]))


@asked
def best_is_inside(study: Path, axis: str, **rest: Value) -> Measured:
    """Whether some value of an axis but its first has a smaller mean test loss, intervals apart."""
    found = [g for g in all_groups(study) if rest.items() <= g.point.items()]
    found.sort(key=lambda group: group.point[axis])
    loss = np.stack([_complete(g, TEST_LOSS)[-1, 0, -1] for g in found])
    y = statistics.centre_estimate(loss, confidence=0.95)
    best = int(y.value.argmin())
    told = ", ".join(
        f"{group.point[axis]:g}: {value:.3f}" for group, value in zip(found, y.value, strict=True)
    )
    return Measured([], None, bool(y.high[best] < y.low[0]), f"test loss at {told}")


@asked
def below_caps(study: Path, axis: str, **rest: Value) -> Measured:
    """Whether the layer product of two layers is at most the cap's square, but for rounding."""
    found = [g for g in all_groups(study) if rest.items() <= g.point.items()]
    found.sort(key=lambda group: group.point[axis])
    shares = [values(g, UPPER)[-1, 0, -1].max() / g.point[axis] ** 2 for g in found]
    told = ", ".join(
        f"cap {group.point[axis]:g}: {share:.4g} of it"
        for group, share in zip(found, shares, strict=True)
    )
    return Measured([], None, bool(max(shares) <= 1 + 1e-4), told)


@asked
def softmax(study: Path, side: str) -> Measured:
    """A bound of the probabilities over that of the logits, widest networks; the constants'."""
    (group,) = all_groups(study)
    quantity = {"lower": "lower_jacobian", "upper": "upper_layer_product"}[side]
    both = []
    for norm in ("l2_softmax", "l2"):
        rungs = {rung.quantity: v for rung, v in ladder.rungs(group, norm).items()}
        if quantity not in rungs:
            raise Missing(f"{group.study}: no {quantity} in {norm}")
        both.append([rungs[quantity], *ladder.bracket(group, norm)])
    over, under = ([part[-1, 0, -1] for part in parts] for parts in both)
    return Measured((over[0] / under[0]).tolist(), _ends(over[1] / under[2], over[2] / under[1]))


@asked
def noise_effect(study: Path, name: str, architecture: str) -> Measured:
    """The most over the least label noise at the largest width; also the constant's."""
    (group,) = all_groups(study, architecture)
    curve = values(group, name)[-1, :, -1]
    lower, upper = (side[-1, :, -1] for side in ladder.bracket(group, "l2"))
    ends = _ends(lower[-1] / upper[0], upper[-1] / lower[0])
    return Measured((curve[-1] / curve[0]).tolist(), ends)


def variance_bound(study: Path) -> Measured:
    """Whether the variance over seeds is below its bound with certified constants everywhere."""
    (group,) = all_groups(study)
    found = bias_variance.parts(group)
    if found is None:
        raise Missing(f"{group.study}: no bias_variance")
    last = [part[:, :, -1] for part in (found.variance, found.certified, found.plug_in)]
    if not np.isfinite(last).all():
        raise Missing(f"{group.study}: not every width and noise has a bound of the variance")
    bound, plug_in = (side / last[0] for side in last[1:])
    told = f"{bound.min():.3g} to {bound.max():.3g} times the variance"
    told += f", the paper's plug-in {plug_in.min():.3g} to {plug_in.max():.3g} times"
    return Measured([], None, bool((bound >= 1).all()), told)


@asked
def linearised_share(study: Path, width: int) -> Measured:
    """Mean Jacobian norm of the linearised network over the network's, on the training points."""
    (group,) = all_groups(study)
    place = _place(group, "width", width)
    ours = group.series[Series("linearised_jacobian_norm_mean", "metric", "l2", "train")]
    return Measured((ours / values(group, MEAN))[place, 0, -1].tolist())


def nearer_with_width(study: Path) -> Measured:
    """Whether the relative difference from the linearised network falls from width to width."""
    (group,) = all_groups(study)
    found = group.series[Series("linearised_relative_error", "metric", "l2", "train")][:, 0, -1]
    mean = statistics.geometric_mean(found)
    told = ", ".join(f"{w}: {v:.3g}" for w, v in zip(group.width, mean, strict=True))
    return Measured([], None, bool((np.diff(mean) < 0).all()), f"relative difference at {told}")


@asked
def wrong_over_right(study: Path, split: str) -> Measured:
    """Mean Jacobian norm at points classified wrongly over rightly, widest and least noise."""
    (group,) = all_groups(study)
    wrong, right = (
        group.series[Series(f"jacobian_norm_mean_{name}", "metric", "l2", split)][-1, 0, -1]
        for name in ("wrong", "right")
    )
    return Measured((wrong / right).tolist())


def more_data_hurts(study: Path) -> Measured:
    """Whether at some width the mean test loss rises from one size of the training set to the next.

    With t intervals that are apart; else the note tells the largest rise.
    """
    found = sorted(all_groups(study), key=lambda group: group.point["num_train"])
    proved, largest, rise = [], "", 1.0
    for place, width in enumerate(found[0].width):
        loss = np.stack([values(g, TEST_LOSS)[place, 0, -1] for g in found])
        middle = statistics.centre_estimate(loss, confidence=0.95)
        for i in range(len(found) - 1):
            sizes = [found[i + k].point["num_train"] for k in (0, 1)]
            losses = f"{middle.value[i]:.2f} to {middle.value[i + 1]:.2f}"
            told = f"width {width}, {sizes[0]} to {sizes[1]} points: {losses}"
            if middle.low[i + 1] > middle.high[i]:
                proved.append(told)
            if middle.value[i + 1] / middle.value[i] > rise:
                largest, rise = (
                    f"{told}, intervals over seeds meet",
                    middle.value[i + 1] / middle.value[i],
                )
    return Measured([], None, bool(proved), "; ".join(proved) or largest)


def constant_peaks_over_sizes(study: Path) -> Measured:
    """Whether the bracket proves that the mean constant is largest inside of the range of sizes."""
    found = sorted(all_groups(study), key=lambda group: group.point["num_train"])
    told = []
    for place, width in enumerate(found[0].width):
        sides = [[side[place, 0, -1] for side in ladder.bracket(g, "l2")] for g in found]
        low, high = statistics.mean_bracket(*(np.stack(side) for side in zip(*sides, strict=True)))
        can = [g.point["num_train"] for g, top in zip(found, high, strict=True) if top >= low.max()]
        if found[0].point["num_train"] not in can and found[-1].point["num_train"] not in can:
            told.append(f"width {width}: largest at {' or '.join(map(str, can))}")
    return Measured([], None, bool(told), "; ".join(told))


def kinks(study: Path) -> Measured:
    """The toy's largest Jacobian norm on the data, and the norms within 1e-5 of that point."""
    found = at(LOWER)(study)
    (path,) = (study / "checkpoints").rglob("*.safetensors")
    state = checkpoints.read(path).state
    weights, biases = (
        [state[f"{i}.{part}"][-1, 0].double().numpy() for i in (0, 2, 4)]
        for part in ("weight", "bias")
    )
    data = datasets.read(study / "datasets/gaussians.npz").train_inputs.astype(np.float64)

    def norms(points: Array) -> Array:
        jacobian, hidden = np.eye(points.shape[1])[None], points
        for weight, bias in zip(weights[:2], biases[:2], strict=True):
            hidden = hidden @ weight.T + bias
            jacobian = (hidden > 0)[..., None] * (weight @ jacobian)
            hidden = np.maximum(hidden, 0)
        return np.linalg.norm(weights[2] @ jacobian, 2, axis=(1, 2))

    largest = data[norms(data).argmax()]
    around = largest + np.random.default_rng(0).uniform(-1e-5, 1e-5, (10_000, 2))
    near = [f"{norm:.3f}" for norm in np.unique(norms(around).round(3))]
    note = f"a training point lies within 1e-5 of kinks where the norm jumps: {', '.join(near)}"
    return found._replace(note=note if len(near) > 1 else "")


@asked
def cell(path: Path, key: str, row: str, column: int, *, place: int = 0) -> Measured:
    """Numbers of a cell of docs/numbers: one, or three seeds' as ``median (smallest largest)``."""
    text = _rows(path, key, row)[place][column]
    found = re.match(rf"({NUMBER})(?: \(({NUMBER}) ({NUMBER})\))?", text)
    if found is None:
        raise ValueError(f"{path.name}: {key}: {text!r} begins with no number")
    return Measured([float(number) for number in found.groups() if number is not None])


@asked
def holds(
    path: Path, key: str, test: Callable[[list[list[str]]], bool], *, row: str = ""
) -> Measured:
    """Whether something is true of rows of docs/numbers."""
    return Measured([], None, test(_rows(path, key, row)))


def _rows(path: Path, key: str, start: str) -> list[list[str]]:
    """Rows that start so; an empty first cell repeats the one above."""
    found, first = [], ""
    for line in json.loads(path.read_text())["texts"][key]["rows"]:
        first = line[0] or first
        if first.startswith(start):
            found.append([first, *line[1:]])
    return found

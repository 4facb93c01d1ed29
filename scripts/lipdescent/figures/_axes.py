"""Axes: ticks over widths, epochs and logarithmic values; what an empty panel says."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ruler
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from lipdescent.analysis import labels, ladder
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Axis
from lipdescent.figures import _style as style
from lipdescent.figures._style import GREY

NO_BRACKET = "needs a lower and\nan upper bound"
# Ends of logarithmic axes, which Matplotlib takes apart without overflow.
SMALLEST, LARGEST = 1e-300, 1e300
FAR = 8.0  # the largest over the smallest of numbers on a logarithmic axis


def width_axis(axes: Axes, widths: Axis) -> None:
    """Logarithmic x axis over ``widths``, named at as many as there is room for."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    shown = _spread(widths, most=_most_names(axes, widths))
    axes.set_xticks(shown, labels=[f"{value:g}" for value in shown])
    margin = max((widths[-1] / widths[0]) ** 0.05, 1.2)
    axes.set_xlim(widths[0] / margin, widths[-1] * margin)


def _most_names(axes: Axes, values: Axis) -> int:
    """How many of ``values`` can be named side by side, of letters as ticks have."""
    points = axes.get_window_extent().width / axes.figure.dpi * 72
    longest = max(len(f"{value:g}") for value in (values[0], values[-1]))
    return max(2, min(8, int(points / (0.62 * style.small() * (longest + 1)))))


def parameters_below(axes: Axes, group: Group) -> None:
    """A second x axis under the width's: parameters per training sample, where n is stored."""
    samples, widths = ladder.constant(group, "num_train"), group.width
    if samples is None or len(widths) < 2 or not (np.diff(group.num_parameters) > 0).all():
        return
    x, y = np.log(widths.astype(float)), np.log(group.num_parameters / samples)

    def share(width: ArrayLike) -> np.ndarray:
        return np.exp(_straight(np.log(np.maximum(np.asarray(width, float), 1e-9)), x, y))

    def width(share: ArrayLike) -> np.ndarray:
        return np.exp(_straight(np.log(np.maximum(np.asarray(share, float), 1e-9)), y, x))

    functions: Any = (share, width)
    below = axes.secondary_xaxis(0, functions=functions)
    below.spines["bottom"].set_position(("outward", 28 * style.enlarged()))
    below.spines["bottom"].set_linewidth(0.4)
    below.xaxis.set_minor_locator(NullLocator())
    ends = share(np.array(axes.get_xlim()))
    ticks = [t for t in 10.0 ** np.arange(-9, 10) if ends[0] <= t <= ends[1]]
    if len(ticks) < 2:
        ticks = log_ticks(*ends)
    below.set_xticks(ticks, labels=[short(tick) for tick in ticks])
    below.tick_params(colors=GREY, length=2)
    below.set_xlabel(labels.PER_SAMPLE, color=GREY)


def _straight(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight between the points, and on beyond them as between the last two."""
    inside = np.interp(at, x, y)
    first, last = np.diff(y)[[0, -1]] / np.diff(x)[[0, -1]]
    low, high = y[0] + first * (at - x[0]), y[-1] + last * (at - x[-1])
    return np.where(at < x[0], low, np.where(at > x[-1], high, inside))


def number_axis(axes: Axes, values: Axis) -> None:
    """x axis over increasing numbers: logarithmic where they are far apart, with room for a 0."""
    if values[0] > 0 and values[-1] >= FAR * values[0]:
        width_axis(axes, values)
        return
    if len(values) > 2 and values[0] == 0 and values[-1] >= FAR * values[1]:
        axes.set_xscale("symlog", linthresh=values[1], linscale=0.6)
        axes.xaxis.set_minor_locator(NullLocator())
        shown = [0.0, *_spread(values[1:], most=_most_names(axes, values[1:]) - 1)]
        axes.set_xticks(shown, labels=[f"{value:g}" for value in shown])
        axes.set_xlim(-0.2 * values[1], values[-1] * max((values[-1] / values[1]) ** 0.05, 1.2))
        return
    most = _most_names(axes, values)
    gap, shown = (values[-1] - values[0]) / most, [float(values[0])]
    for value in values[1:].tolist():
        if value - shown[-1] >= gap and (value == values[-1] or values[-1] - value >= gap):
            shown.append(value)
    axes.set_xticks(shown, labels=[f"{value:g}" for value in shown])
    margin = 0.05 * (values[-1] - values[0]) or 0.5
    axes.set_xlim(values[0] - margin, values[-1] + margin)


def epoch_axis(axes: Axes, epochs: Axis) -> None:
    """Logarithmic epochs with room for epoch 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    _epochs(axes.xaxis, axes.set_xlim, epochs)


def epoch_values(axes: Axes, epochs: Axis) -> None:
    """The same of a y axis."""
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    _epochs(axes.yaxis, axes.set_ylim, epochs)


def _epochs(axis: Ruler, set_limits: Callable, epochs: Axis) -> None:
    axis.set_minor_locator(NullLocator())
    places = [e for e in (0, 1, 10, 100, 1000, 10_000, 100_000) if epochs[0] <= e <= epochs[-1]]
    places = places if len(places) > 1 else sorted({epochs[0], epochs[-1]})
    axis.set_ticks(places, labels=[f"{e:g}" for e in places])
    set_limits(epochs[0] - 0.15, epochs[-1] * 1.3 + 0.15)


def _spread(values: Axis, *, most: int) -> list[float]:
    """About ``most`` of ``values``, apart on a log scale; both ends stay."""
    first, last = values[0], values[-1]
    gap = max(1.8, 0.99 * (last / first) ** (1 / max(most - 1, 1)))
    kept = [first]
    for value in values:
        if value >= gap * kept[-1] and last >= gap * value:
            kept.append(value)
    return kept if last == first else [*kept, last]


def log_values(*axes: Axes) -> None:
    """Logarithmic y axes over one range, with plain numbers (20, 50, 100); after the data.

    Axes without a finite value, as of models that have all diverged, stay as they are.
    """
    of = {place: [end for end in place.dataLim.intervaly if 0 < end < math.inf] for place in axes}
    ends = [end for own in of.values() for end in own]
    if not ends:
        return
    low, high = float(min(ends)), float(max(ends))
    margin = max((high / low) ** 0.05, 1.02)
    # A bound of many layers may be near the largest float64, and is at the edge then.
    low, high = max(low / margin, SMALLEST), min(high * margin, LARGEST)
    for place in filter(of.get, of):
        with np.errstate(over="ignore"):  # of the limits before those set here
            place.set_yscale("log")
        place.set_ylim(low, high)
        place.yaxis.set_minor_locator(NullLocator())
        place.yaxis.set_major_formatter(FuncFormatter(short))
        place.set_yticks(log_ticks(low, high))


def short(value: float, _: int | None = None) -> str:
    """At most three digits that count, without an exponent where that is readable."""
    return f"{float(f'{value:.3g}'):g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], between two and about seven."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    for steps in (
        (1,),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 7),
    ):
        ticks = [step * 10.0**power for power in powers for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside[:: -(-len(inside) // 7)]
    return inside if len(inside) > 1 else [low, high]


def say_nothing_here(
    axes: Axes, text: str, *, diverged: np.ndarray | None = None, ticks: bool = False
) -> None:
    """A panel that has no data says why: that its models have all ``diverged``, or ``text``.

    It has no ticks unless others of its row have data.
    """
    if not ticks:
        axes.set_yticks([])
    if diverged is not None and diverged.all():
        text = "all models diverged"
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=style.small(),
        color=GREY,
        wrap=True,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )

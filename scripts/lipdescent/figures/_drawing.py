"""Parts that several figures share: curves with a band, brackets, marks, what a panel is of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lipdescent.analysis import curve_shape, labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array, Axis, Estimate
from lipdescent.figures import _style as style
from lipdescent.figures._axes import epoch_axis, parameters_below, width_axis

Colour = str | tuple
RING: dict[str, Any] = {
    "marker": "o",
    "linestyle": "",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markeredgewidth": 1.1,
}
# Small: they tell brackets apart, the lines are what is read.
ON_BRACKET = 2.2
EQUALITY: dict[str, Any] = {"color": style.GREY, "linestyle": ":", "linewidth": 0.9, "gid": "p=n"}
CHANCE: dict[str, Any] = {"color": style.GREY, "linestyle": "-.", "linewidth": 0.7, "gid": "chance"}
BEST: dict[str, Any] = {
    "color": "black",
    "linestyle": (0, (2, 1.2)),
    "linewidth": 0.8,
    "marker": "",
    "markersize": ON_BRACKET,
    "markerfacecolor": "white",
}
LEVEL: dict[str, Any] = {"color": style.GREY, "linestyle": "--", "linewidth": 0.7, "gid": "level"}
LOWER: dict[str, Any] = {"color": "black", "linestyle": "--", "gid": "lower"}
# Name in a legend -> its look, of whatever may be in a panel beside curves.
MARKS: dict[str, dict[str, Any]] = {
    "interpolation threshold": RING | {"gid": "threshold"},
    "peak": RING | {"gid": "peak"},
    "interpolation accuracy": LEVEL,
    "at the best epoch": BEST | {"gid": "stopped"},
    "best epoch": BEST | {"gid": "best"},
    "lower bound": LOWER,
    "p = n": EQUALITY,
    "chance": CHANCE,
}
ON_TOP: dict[str, Any] = {"markevery": [1], "markersize": 3, "clip_on": False}


def curve(axes: Axes, x: Axis, y: Estimate, **look: Any) -> None:
    """Line through the values with a band over their intervals; bars where it is a single point.

    A band is pale and has an edge: where several lie on each other each can be followed.
    """
    (line,) = axes.plot(x, y.value, **{"marker": "o"} | look)
    if len(x) > 1:
        colour = line.get_color()
        axes.fill_between(
            x, y.low, y.high, facecolor=(colour, 0.1), edgecolor=(colour, 0.6), linewidth=0.4
        )
    else:
        axes.vlines(x, y.low, y.high, color=line.get_color())


def mean_curve(
    axes: Axes,
    x: Axis,
    values: Array,
    *,
    confidence: float,
    estimated: Callable[..., Estimate] = stats.centre_estimate,
    **look: Any,
) -> None:
    """:func:`curve` of the means over seeds of ``values`` (P, S); nothing where all are NaN."""
    if np.isfinite(values).any():
        curve(axes, x, estimated(values, confidence=confidence), **look)


def bracket(axes: Axes, x: Axis, lower: Array, upper: Array, *, look: Mapping[str, Any]) -> None:
    """Region between a dashed lower and a solid upper bound; a bar where it is a single point.

    ``look`` has colour and marker of what the bracket is of.
    """
    colour, marked = look["color"], {"marker": look["marker"], "markersize": ON_BRACKET}
    # One and the same is an estimate, not a bound.
    side = {} if lower is upper else {"gid": LOWER["gid"]}
    axes.plot(x, lower, "--", color=colour, **marked, **side)
    axes.plot(x, upper, "-", color=colour, **marked)
    if len(x) > 1:
        axes.fill_between(x, lower, upper, facecolor=(colour, 0.2), linewidth=0)
    else:
        axes.vlines(x, lower, upper, color=colour, linewidth=3, alpha=0.5)


def ring(
    axes: Axes, x: Axis, y: Array, at: ArrayLike, colour: Colour, *, gid: str = "threshold"
) -> None:
    """Mark the point of a curve at ``at`` (NaN: no mark)."""
    here = np.flatnonzero(x == at)
    if len(here) and np.isfinite(y[here[0]]):
        axes.plot(at, y[here[0]], zorder=4, gid=gid, **RING | {"markeredgecolor": colour})


def noise_legend(figure: Figure, looks: Mapping[float, Mapping]) -> None:
    """Levels of label noise by colour and marker, then marks."""
    names = [labels.noise_name(level) for level in looks]
    names[0] = f"label noise {names[0]}"
    legend(figure, dict(zip(names, looks.values(), strict=True)), columns=5)


def points(axes: Axes, x: Axis, y: Estimate, **look: Any) -> None:
    """Markers with a bar over each interval, no line."""
    axes.plot(x, y.value, markersize=4, **look | {"linestyle": ""})
    axes.vlines(x, y.low, y.high, color=look["color"], linewidth=1)


def shifts(count: int, *, step: float = 0.12) -> Array:
    """Places of ``count`` markers side by side around 0."""
    places = np.arange(count, dtype=np.float64) - (count - 1) / 2
    return step * places * min(1.0, 6 / max(count, 1))


def mean_of(name: str) -> tuple[Callable, Callable]:
    """Mean over seeds of what a panel shows, without and with its interval: plain of shares."""
    plain = name in (labels.ERROR, "train accuracy")
    return (stats.mean, stats.share_estimate) if plain else (stats.centre, stats.centre_estimate)


def short_title(name: str) -> str:
    """For the four narrow panels of a row: of bounds without whose they are."""
    return name.replace(" Lipschitz bound", " bound").replace(" per ", "\u00a0/\u00a0")


def equality_line(axes: Axes, group: Group) -> None:
    """Dotted: as many parameters as training points."""
    at = ladder.width_of_equality(group)
    if np.isfinite(at):
        axes.axvline(at, **EQUALITY)


def level_line(axes: Axes, level: float) -> None:
    """Dashed: the train accuracy that counts as interpolating."""
    axes.axhline(level, **LEVEL)


def chance_line(axes: Axes, level: float | None) -> None:
    """Dash-dotted: what a guess gives; no line where it lies outside of the panel."""
    low, high = axes.get_ylim()
    if level is not None and low <= level <= high:
        axes.axhline(level, **CHANCE)


def best_epochs(
    column: Iterable[Axes], group: Group, losses: Array, looks: Sequence[Mapping[str, Any]]
) -> None:
    """Lines at the epoch of the least loss (N, E), for the least and the most label noise.

    The level's marker stands on top of each, also where both are at the same epoch.
    """
    if len(group.epoch) < 2:
        return
    for place, noise in enumerate(group.noise_ends):
        if np.isfinite(losses[noise]).any():
            at, top = group.epoch[np.nanargmin(losses[noise])], 1 - 0.06 * place
            for axes in column:
                axes.axvline(at, ymax=top, gid="best", **BEST | dict(looks[noise]) | ON_TOP)


def over_width(panels: Iterable[Axes], group: Group) -> None:
    """Panels over width, after the data: p = n in each, both scales below the last of a column."""
    for axes in panels:
        width_axis(axes, group.width)
        equality_line(axes, group)
        place = axes.get_subplotspec()
        if place is None or place.is_last_row():
            axes.set_xlabel(labels.width_name(group.width_unit))
            parameters_below(axes, group)


def over_width_and_epochs(group: Group, level: float) -> dict[str, tuple[Any, Any, Axis]]:
    """Title -> places of width and epoch, and x: over width, over epochs at the telling widths."""
    over_epochs: dict[str, tuple[Any, Any, Axis]] = {
        f"width {group.width[width]} ({role})": (width, slice(None), group.epoch)
        for width, role in ladder.telling_widths(group, level).items()
    }
    return {f"epoch {group.epoch[-1]}": (slice(None), -1, group.width)} | over_epochs


def over_epochs(panels: NDArray[Any], group: Group) -> None:
    """Panels (rows, columns) over the training epoch, which is named below the last row."""
    for place in panels.flat:
        epoch_axis(place, group.epoch)
    for place in panels[-1]:
        place.set_xlabel("epoch")


def legend(figure: Figure, entries: Mapping[str, Mapping[str, Any]], *, columns: int) -> None:
    """A legend of lines, then of the marks that are in a panel."""
    style.legend(figure, {**entries, **MARKS}, columns=columns)


def outcomes(group: Group, loss: str) -> dict[str, Array]:
    """Test error and test loss by title."""
    return {
        labels.ERROR: ladder.test_error(group),
        labels.loss_name("test", loss): ladder.metric(group, "test_loss"),
    }


def chances(group: Group, loss: str) -> dict[str, float]:
    """Title of a panel -> what a guess gives there."""
    titles = {"error": labels.ERROR, "loss": labels.loss_name("test", loss)}
    return {titles[name]: level for name, level in ladder.chance(group, loss).items()}


def outcomes_and_bounds(group: Group, loss: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Test error, test loss, the best bounds on both sides in l2, and why a bound is absent.

    Shapes (width, label noise, epoch, seed).
    """
    sides = ladder.sides(group, "l2")
    panels = outcomes(group, loss) | {
        labels.bound_name(side, "l2"): values for side, values in sides.items()
    }
    return panels, {labels.bound_name(side, "l2"): ladder.absence(group, side) for side in sides}


def peak(curves: Array, confidence: float) -> int:
    """Place of the peak that the seeds' curves (P, S) show; -1: none."""
    if stats.has_logarithm(curves):
        curves = stats.logarithm(curves)
    return curve_shape.shape(curves, confidence=confidence).peak

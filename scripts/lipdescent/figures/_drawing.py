"""Parts that several figures share: curves with a band, heat maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from lipdescent.analysis import curve_shape, labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array, Axis, Estimate
from lipdescent.figures import _style as style
from lipdescent.figures._axes import (
    log_ticks,
    parameters_below,
    say_nothing_here,
    short,
    width_axis,
)

Colour = str | tuple
MAX_ROWS = 14  # room for the names of a heat map's rows
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
ON_TOP: dict[str, Any] = {"markevery": [1], "markersize": 3, "clip_on": False}
# Around lines in heat maps: seen on light and dark, in grey too.
HALO = [patheffects.withStroke(linewidth=2.6, foreground="white")]
LEAST: dict[str, Any] = {"color": "#D55E00", "linestyle": "-", "linewidth": 1.3}
PEAK: dict[str, Any] = {
    "marker": "o",
    "linestyle": "",
    "markersize": 3.4,
    "color": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.6,
}
HEAT_MAP_KEYS = {"peak over width": PEAK, "interpolation threshold": {"color": "black"}}


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
    axes.plot(x, lower, "--", color=colour, **marked)
    axes.plot(x, upper, "-", color=colour, **marked)
    if len(x) > 1:
        axes.fill_between(x, lower, upper, facecolor=(colour, 0.2), linewidth=0)
    else:
        axes.vlines(x, lower, upper, color=colour, linewidth=3, alpha=0.5)


def ring(axes: Axes, x: Axis, y: Array, at: ArrayLike, colour: Colour) -> None:
    """Mark the point of a curve at ``at`` (NaN: no mark)."""
    here = np.flatnonzero(x == at)
    if len(here) and np.isfinite(y[here[0]]):
        axes.plot(at, y[here[0]], zorder=4, **RING | {"markeredgecolor": colour})


def noise_legend(
    figure: Figure, looks: Mapping[float, Mapping], extra: Mapping[str, Mapping]
) -> None:
    """Levels of label noise by colour and marker, then ``extra`` lines."""
    names = [labels.noise_name(level) for level in looks]
    names[0] = f"label noise {names[0]}"
    entries = {**dict(zip(names, looks.values(), strict=True)), **extra}
    style.legend(figure, entries, columns=len(entries))


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
    return (stats.mean, stats.mean_estimate) if plain else (stats.centre, stats.centre_estimate)


def short_title(name: str) -> str:
    """For the four narrow panels of a row: of bounds without whose they are."""
    return name.replace(" Lipschitz bound", " bound").replace(" per ", "\u00a0/\u00a0")


def equality_line(axes: Axes, group: Group) -> None:
    """Dotted: as many parameters as training points."""
    at = ladder.width_of_equality(group)
    if np.isfinite(at):
        axes.axvline(at, **EQUALITY)


def equality_row(axes: Axes, group: Group) -> None:
    """The same in a heat map whose rows are widths."""
    at = ladder.width_of_equality(group)
    if np.isfinite(at):
        place = np.interp(np.log(at), np.log(group.width), np.arange(len(group.width)))
        axes.axhline(place, color="white", linewidth=1.8)
        axes.axhline(place, **EQUALITY | {"color": "black"})


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


def equality_legend(
    figure: Figure, panels: Iterable[Axes], entries: Mapping[str, Mapping], *, columns: int
) -> None:
    """A legend of lines that says what p = n is, if one of the panels has it."""
    style.legend(figure, {**entries, **mark_keys(panels)}, columns=columns)


def mark_keys(axes: Iterable[Axes]) -> dict[str, dict[str, Any]]:
    """Entries of a legend for the lines above, where one of ``axes`` has them."""
    looks = {"p = n": EQUALITY, "chance": CHANCE}
    there = [line.get_gid() for place in axes for line in place.lines]
    return {name: look for name, look in looks.items() if look["gid"] in there}


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


def common_log_norm(*values: Array) -> LogNorm | None:
    """Log colour scale over all positive values; None if there are none."""
    there = np.concatenate([v[np.isfinite(v) & (v > 0)].ravel() for v in values])
    if not len(there):
        return None
    low, high = there.min(), there.max()
    return LogNorm(low, high) if high > low else LogNorm(low / 1.1, high * 1.1)


def heat_map(
    axes: Axes,
    values: Array,
    x: Axis,
    y: Axis,
    *,
    norm: LogNorm | None,
    empty: str,
    diverged: NDArray[np.bool_],
) -> None:
    """Equal cells, ``values`` (len(y), len(x)), named by ``x`` and ``y``; hatched: no value.

    ``empty`` is said where there is no value at all, unless all models have ``diverged``.
    """
    axes.grid(False)
    axes.spines[:].set_visible(True)
    if norm is not None and np.isfinite(values).any():
        axes.patch.set(facecolor="#eeeeee", hatch="////", edgecolor="#bbbbbb")
        shown = np.ma.masked_invalid(np.where(values > 0, values, np.nan))
        axes.pcolormesh(
            np.arange(len(x) + 1) - 0.5,
            np.arange(len(y) + 1) - 0.5,
            shown,
            norm=norm,
            rasterized=True,
        )
    else:
        axes.set(xlim=(-0.5, len(x) - 0.5), ylim=(-0.5, len(y) - 0.5))
        say_nothing_here(axes, empty, diverged=diverged)
    longest = max(len(f"{name:g}") for name in x)
    room = axes.get_window_extent().width / axes.figure.dpi * 72 / style.small()
    columns = max(2, int(1.4 * room / (longest + 0.5)))
    for axis, names, most in ((axes.xaxis, x, columns), (axes.yaxis, y, MAX_ROWS)):
        ticks = list(range(len(names) - 1, -1, -len(names) // most))
        ticks[-1] = 0  # both ends have their name
        axis.set_ticks(ticks, labels=[f"{names[place]:g}" for place in ticks])


def least_line(axes: Axes, values: Array) -> None:
    """A line through the place of the least value of each row, over the row's height."""
    for row in np.flatnonzero(np.isfinite(values).any(axis=1)):
        axes.vlines(np.nanargmin(values[row]), row - 0.5, row + 0.5, path_effects=HALO, **LEAST)


def peak(curves: Array, confidence: float) -> int:
    """Place of the peak that the seeds' curves (P, S) show; -1: none."""
    if stats.has_logarithm(curves):
        curves = stats.logarithm(curves)
    return curve_shape.shape(curves, confidence=confidence).peak


def peak_marks(axes: Axes, values: Array, confidence: float, *, aside: bool = False) -> None:
    """White dots: the peak of each column (rows, columns, S) that has one beyond noise.

    ``aside``: at the right of their cells, which have numbers.
    """
    for column in range(values.shape[1]):
        row = peak(values[:, column], confidence)
        if row >= 0:
            axes.plot(column + 0.4 * aside, row, **PEAK)


def has_room(axes: Axes, x: Axis, y: Axis) -> bool:
    """Whether every cell of a heat map has room for a number."""
    box, unit = axes.get_window_extent(), axes.figure.dpi / 72 * style.small()
    return bool(box.width > 2.9 * unit * len(x) and box.height > 1.3 * unit * len(y))


def cell_numbers(axes: Axes, values: Array, norm: LogNorm | None) -> None:
    """The values in their cells, in black or white."""
    if norm is None:
        return
    for row, column in np.argwhere(np.isfinite(values) & (values > 0)):
        value = values[row, column]
        light = np.dot(ScalarMappable(norm).to_rgba(value)[:3], (0.2126, 0.7152, 0.0722))
        digits = max(0, 2 - int(np.floor(np.log10(max(value, 1)))))
        text = (
            f"{value:.2g}"
            if value < 0.1
            else short(value)
            if value >= 1000
            else (f"{value:.{digits}f}")
        )
        axes.text(column, row, text, ha="center", va="center", fontsize=style.small(),
                  color="black" if light > 0.45 else "white")  # fmt: skip


def boundary(axes: Axes, reached: NDArray[np.bool_]) -> None:
    """Black steps below the first row of each column that is true; columns without one are open."""
    first = np.where(reached.any(axis=0), reached.argmax(axis=0) - 0.5, np.nan)
    edges = np.arange(len(first) + 1) - 0.5
    axes.stairs(first, edges, baseline=None, color="black", linewidth=1.3, path_effects=HALO)


def colour_bar(figure: Figure, axes: Any, norm: LogNorm | None, *, most: int) -> None:
    """Log colour bar below one or more axes, with plain numbers, about ``most`` of them."""
    if norm is None or norm.vmin is None or norm.vmax is None:
        return
    bar = figure.colorbar(
        ScalarMappable(norm), ax=axes, location="bottom", aspect=3 * most, pad=0.02
    )
    ticks = log_ticks(norm.vmin, norm.vmax)
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.set_ticks(ticks[:: -(-len(ticks) // most)])
    bar.ax.xaxis.set_major_formatter(FuncFormatter(short))

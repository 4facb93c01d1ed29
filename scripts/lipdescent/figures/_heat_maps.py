"""Heat maps: cells with their numbers, lines and marks in them, colour bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from lipdescent.analysis import ladder
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array, Axis
from lipdescent.figures import _style as style
from lipdescent.figures._axes import log_ticks, say_nothing_here, short
from lipdescent.figures._drawing import EQUALITY, peak

MAX_TICKS = 40  # of a side; of more only those that are named have one
# Around lines: seen on light and dark, in grey too.
HALO = [patheffects.withStroke(linewidth=2.6, foreground="white")]
LEAST: dict[str, Any] = {"color": "#D55E00", "linestyle": "-", "linewidth": 1.3, "gid": "least"}
FIRST: dict[str, Any] = {"color": "black", "linewidth": 1.3, "gid": "boundary"}
PEAK: dict[str, Any] = {
    "marker": "o",
    "linestyle": "",
    "markersize": 3.4,
    "color": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.6,
    "gid": "peak over width",
}
KEYS = {
    "peak over width": PEAK,
    "interpolation threshold": FIRST,
    "best epoch": LEAST,
    "p = n": EQUALITY,
}


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
    box, unit = axes.get_window_extent(), axes.figure.dpi / 72 * style.small()
    # A letter is about 0.62 of the size of type wide, a line of letters 1.3 high.
    letters = [0.62 * (len(f"{name:g}") + 0.7) for name in x]
    for axis, names, room, sizes in (
        (axes.xaxis, x, box.width / unit / len(x), letters),
        (axes.yaxis, y, box.height / unit / len(y), [1.3] * len(y)),
    ):
        places = _named(sizes, room)
        ticks = range(len(names)) if len(names) <= MAX_TICKS else places
        axis.set_ticks(ticks, labels=[f"{names[n]:g}" if n in places else "" for n in ticks])


def _named(sizes: Sequence[float], room: float) -> list[int]:
    """Places that have room for their names: the last, the first, and from the last on others.

    ``sizes`` are those of the names, ``room`` that from one place to the next.
    """

    def apart(one: int, other: int) -> bool:
        return abs(one - other) * room >= (sizes[one] + sizes[other]) / 2

    last = len(sizes) - 1
    shown = [last, 0] if last and apart(0, last) else [last]
    for place in range(last - 1, 0, -1):
        if all(apart(place, other) for other in shown):
            shown.append(place)
    return sorted(shown)


def equality_row(axes: Axes, group: Group) -> None:
    """As many parameters as training points, in a heat map whose rows are widths."""
    at = ladder.width_of_equality(group)
    if np.isfinite(at):
        place = np.interp(np.log(at), np.log(group.width), np.arange(len(group.width)))
        axes.axhline(place, color="white", linewidth=1.8)
        axes.axhline(place, **EQUALITY | {"color": "black"})


def least_line(axes: Axes, values: Array) -> None:
    """A line through the place of the least value of each row, over the row's height."""
    for row in np.flatnonzero(np.isfinite(values).any(axis=1)):
        axes.vlines(np.nanargmin(values[row]), row - 0.5, row + 0.5, path_effects=HALO, **LEAST)


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
    if reached.any():
        axes.stairs(first, edges, baseline=None, path_effects=HALO, **FIRST)


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

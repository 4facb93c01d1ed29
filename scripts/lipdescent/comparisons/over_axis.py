"""Certified bracket, test loss and test error over any axis of the study.

x, colours and panels are axes that the configuration chooses: the study's further axes, the
architecture, label noise, width or epoch, as x the number of parameters too. Where it says nothing,
x is the first further axis of numbers, or else the width, and colours and panels are the axes that
are left; the heading names the value of every other: the largest width, the least label noise and
the last epoch. Top: the certified bracket on the Lipschitz constant in l2 (dashed: best lower,
solid: best upper bound; the true constants, in geometric mean over seeds, lie between). Below: the
test loss, losses of different kinds in rows of their own, and the test error, the share of test
points that are classified wrongly. Lines are means over seeds, geometric ones but of errors and of
losses that can be negative; bands are Student's t intervals of these means (95 % unless configured
otherwise), with fewer than four seeds the range over them: the heading says which. Of more than
five panels both ends and three between are shown. Diverged models are left out and counted in the
heading.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import axis_choice, labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.axis_choice import Choice
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style
from lipdescent.storage.variants import Value

# Asked before any job whether the options fit the study's axes.
CHOOSES_AXES = True
MAX_PANELS = 5
BRACKET, ERROR = "certified bracket", "test error"


@dataclass(frozen=True)
class Cell:
    """Networks of one width, label noise and epoch of a group: what they are, and every seed's.

    ``num_diverged`` is how many of them diverged by the study's last epoch.
    """

    places: dict[str, Value]
    values: dict[str, Array]
    lower: Array
    upper: Array
    num_diverged: int


def draw(
    groups: Mapping[str, Group],
    *,
    statistics: Mapping[str, Any],
    losses: Mapping[str, str],
    x: str | None = None,
    colour: str | None = None,
    panel: str | None = None,
    at: Mapping[str, Value] | None = None,
) -> Figure:
    """See the module: its docstring is the caption."""
    first = next(iter(groups.values()))
    grid = {name: getattr(first, name).tolist() for name in axis_choice.USUAL}
    axes = axis_choice.axes_of(((g.architecture, g.point) for g in groups.values()), grid)
    choice = axis_choice.choose(axes, x=x, colour=colour, panel=panel, at=at)
    cells = [cell for name, group in groups.items() for cell in _cells(group, losses[name], choice)]
    panels = _values(axes, choice.panel)
    panels = [panels[place] for place in side_by_side.spread(len(panels), most=MAX_PANELS)]
    # A row per kind of loss: they have no common unit.
    kinds = dict.fromkeys(name for cell in cells for name in cell.values if name != ERROR)
    rows = [BRACKET, *kinds, ERROR]
    figure, grid_of_axes = style.new_figure(
        len(rows), len(panels), height=0.9 + 1.6 * len(rows), sharex=True, sharey="row"
    )
    looks = _looks(axes, choice.colour)
    for column, value in zip(grid_of_axes.T, panels, strict=True):
        here = [cell for cell in cells if _is(cell, choice.panel, value)]
        for hue, look in looks.items():
            line = [cell for cell in here if _is(cell, choice.colour, hue)]
            line.sort(key=lambda cell: cell.places[choice.x])
            if line:
                _draw_line(column, rows, line, choice.x, look, statistics["confidence"])
        if choice.panel:
            column[0].set_title(_named(choice.panel, value))
    units = [group.width_unit for group in groups.values()]
    _finish(grid_of_axes, rows, cells, choice, units)
    coloured = looks.items() if choice.colour else ()
    drawing.legend(figure, {_named(choice.colour, hue): look for hue, look in coloured}, columns=6)
    told = [_named(name, value) for name, value in choice.at.items() if len(axes[name]) > 1]
    counts = _counts(cells, len(first.seed))
    style.heading_of(figure, first, *told, counts=counts, confidence=statistics["confidence"])
    return figure


def _counts(cells: list[Cell], seeds: int) -> tuple[int, int]:
    """Networks, and those that diverged: each once, whatever the number of its epochs shown."""
    last = max(cell.places["epoch"] for cell in cells)
    ends = [cell for cell in cells if cell.places["epoch"] == last]
    return len(ends) * seeds, sum(cell.num_diverged for cell in ends)


def _cells(group: Group, loss: str, choice: Choice) -> Iterator[Cell]:
    """Cells of a group at the values that the choice fixes."""
    lower, upper = ladder.bracket(group, "l2")
    shown = {
        f"test {loss}": ladder.metric(group, "test_loss"),
        ERROR: 1 - ladder.metric(group, "test_accuracy"),
    }
    names = ("width", "label_noise", "epoch")
    own: dict[str, Value] = {"architecture": group.architecture, **group.point}
    for index in np.ndindex(*(len(getattr(group, name)) for name in names)):
        places = own | {
            name: getattr(group, name)[place].item()
            for name, place in zip(names, index, strict=True)
        }
        places[axis_choice.PARAMETERS] = group.num_parameters[index[0]].item()
        fits = all(places.get(name) == value for name, value in choice.at.items() if name in places)
        if fits and choice.x in places:
            values = {name: array[index] for name, array in shown.items()}
            diverged = int(group.diverged[index[:2]].any(axis=0).sum())
            yield Cell(places, values, lower[index], upper[index], diverged)


def _is(cell: Cell, axis: str | None, value: Value | None) -> bool:
    return axis is None or cell.places.get(axis) == value


def _values(axes: axis_choice.Axes, axis: str | None) -> list[Value | None]:
    """Of an axis; None alone where nothing is chosen."""
    return [None] if axis is None else [*axes[axis]]


def _looks(axes: axis_choice.Axes, colour: str | None) -> dict[Value | None, dict[str, Any]]:
    """Colour and marker of every line: ordered colours of numbers."""
    values = _values(axes, colour)
    numbers = sorted(value for value in values if isinstance(value, int | float))
    if len(numbers) < len(values):
        styles = side_by_side.styles(map(str, values))
        return {value: styles[str(value)] for value in values}
    ordered: dict[Any, dict[str, Any]] = {**style.level_looks(numbers)}
    return ordered


def _draw_line(
    column: np.ndarray,
    rows: list[str],
    line: list[Cell],
    x: str,
    look: dict[str, Any],
    confidence: float,
) -> None:
    """One line in every row of a panel."""
    at = np.array([cell.places[x] for cell in line], dtype=float)
    for place, name in zip(column, rows, strict=True):
        if name == BRACKET:
            sides = (
                np.stack([getattr(cell, side) for cell in line]) for side in ("lower", "upper")
            )
            lower, upper = map(stats.geometric_mean, sides)
            if np.isfinite(lower).any():
                drawing.bracket(place, at, lower, upper, look=look)
            continue
        there = [cell for cell in line if name in cell.values]
        if there:
            values = np.stack([cell.values[name] for cell in there])
            estimated = stats.share_estimate if name == ERROR else stats.centre_estimate
            drawn = np.array([cell.places[x] for cell in there], dtype=float)
            drawing.curve(place, drawn, estimated(values, confidence=confidence), **look)


def _finish(
    grid: np.ndarray, rows: list[str], cells: list[Cell], choice: Choice, units: list[str]
) -> None:
    """Names and scales of the axes; ``units`` are what widths count."""
    values = np.unique([float(cell.places[choice.x]) for cell in cells])
    for name, row in zip(rows, grid, strict=True):
        title = labels.constant_name(name, "l2") if name == BRACKET else name
        loss = name.removeprefix("test ")
        row[0].set_ylabel(title if name in (BRACKET, ERROR) else labels.loss_name("test", loss))
        if not any(place.lines for place in row):
            for place in row:
                _axes.say_nothing_here(place, _axes.NO_BRACKET)
            continue
        for place in row:
            if not place.lines:
                why = _axes.NO_BRACKET if name == BRACKET else "another loss"
                _axes.say_nothing_here(place, why, ticks=True)
        if name != ERROR:
            _scale(row, cells, name)
    scales = {"epoch": _axes.epoch_axis, axis_choice.PARAMETERS: _axes.width_axis}
    for place in grid.flat:
        scales.get(choice.x, _axes.number_axis)(place, values)
    for place in grid[-1]:
        place.set_xlabel(labels.axis_name(choice.x, *units))


def _scale(row: np.ndarray, cells: list[Cell], name: str) -> None:
    """Logarithmic, unless a loss is negative somewhere."""
    found = [cell.values[name] for cell in cells if name in cell.values]
    if name == BRACKET or stats.has_logarithm(np.concatenate(found)):
        shown: list[Axes] = list(row)
        _axes.log_values(*shown)


def _named(axis: str | None, value: Value | None) -> str:
    """``depth 3``, ``adam``, ``label noise 20 %``."""
    return "" if axis is None or value is None else labels.place_name(axis, value)

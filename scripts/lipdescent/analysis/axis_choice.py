"""Which axes of a study a figure shows: as x, as colours, as panels, and at which value the rest.

Asked of the configuration before any job, and again of the table when the figure is drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lipdescent.plugins import lookup
from lipdescent.storage import variants
from lipdescent.storage.variants import Point, Value

Axes = dict[str, list[Value]]
# The number of parameters stands for the width that it follows from.
PARAMETERS, WIDTH = "num_parameters", "width"
# Where nothing is said of an axis of the grid: place of its value among the increasing ones.
USUAL = {"label_noise": 0, WIDTH: -1, "epoch": -1}


@dataclass(frozen=True)
class Choice:
    """Names of axes, and the value of every axis that is none of them."""

    x: str
    colour: str | None
    panel: str | None
    at: dict[str, Value]


def axes_of(of: Iterable[tuple[str, Point]], grid: Mapping[str, Sequence[float]]) -> Axes:
    """Axis -> its values: the study's further axes first, then architectures, then the grid's.

    Parameters
    ----------
    of : architecture and point of every group that is drawn.
    grid : label noise, widths and epochs.
    """
    found: Axes = {}
    names: list[Value] = []
    for architecture, point in of:
        names.append(architecture)
        for axis, value in point.items():
            found.setdefault(axis, []).append(value)
    found["architecture"] = names
    found = {axis: list(dict.fromkeys(values)) for axis, values in found.items()}
    return found | {name: sorted(grid[name]) for name in USUAL}


def numeric(values: Iterable[Value]) -> bool:
    """Whether an axis is of numbers."""
    return not any(isinstance(value, str) for value in values)


def choose(
    axes: Axes,
    *,
    x: str | None = None,
    colour: str | None = None,
    panel: str | None = None,
    at: Mapping[str, Value] | None = None,
) -> Choice:
    """What is said, and for what is not: x is the first further axis of numbers, or the width.

    Colours and panels are the axes that are left, in their order; then label noise, if it varies.

    Raises
    ------
    ValueError
        If there is no such axis or value, an axis is named twice, x has no numbers, or an axis with
        several values is left over; the message says what is allowed.
    """
    if at is not None and not isinstance(at, Mapping):
        raise ValueError(f"at = {at!r}: allowed is a mapping, {{AXIS: value}}")
    fixed = {name: _value(axes, name, value) for name, value in (at or {}).items()}
    numbers = [name for name, values in axes.items() if numeric(values)]
    own = [name for name in numbers if name not in (*USUAL, *fixed, colour, panel)]
    if x is None:
        x = next((name for name in own if len(axes[name]) > 1), WIDTH)
    lookup.check("axis x", x, [*numbers, PARAMETERS])
    for what, name in (("colour", colour), ("panel", panel)):
        if name is not None:
            lookup.check(f"axis {what}", name, list(axes))
    taken = [WIDTH if x == PARAMETERS else x, *filter(None, [colour, panel]), *fixed]
    for name in taken:
        if taken.count(name) > 1:
            raise ValueError(f"{name} is chosen twice, of x, colour, panel and at: allowed is once")
    several = [
        name
        for name, values in axes.items()
        if len(values) > 1 and name not in taken and (name not in USUAL or name == "label_noise")
    ]
    free = iter(several)
    colour = colour or next(free, None)
    panel = panel or next(free, None)
    left = [name for name in free if name not in USUAL]
    if left:
        raise ValueError(
            f"axis {left[0]} has {len(axes[left[0]])} values and is neither x ({x}), colour "
            f"({colour}) nor panel ({panel}): allowed is one of them, such as at: "
            f"{{{left[0]}: {variants.label(axes[left[0]][0])}}}"
        )
    chosen = {*taken, colour, panel}
    usual = {n: axes[n][place] for n, place in USUAL.items() if n not in chosen}
    return Choice(x, colour, panel, usual | fixed)


def _value(axes: Axes, name: str, value: Value) -> Value:
    """The axis's own value that ``at`` names."""
    lookup.check("axis at", name, list(axes))
    for known in axes[name]:
        if variants.label(known) == variants.label(value):
            return known
    listed = ", ".join(map(variants.label, axes[name]))
    raise ValueError(f"at.{name} = {value}: allowed is one of {listed}")

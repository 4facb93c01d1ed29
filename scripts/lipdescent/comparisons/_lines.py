"""Lines of a figure: groups of one architecture that differ along one further axis alone."""

from collections.abc import Mapping

from lipdescent.analysis import labels
from lipdescent.analysis.groups import Group


def first_axis(group: Group) -> str | None:
    """The first of its further axes whose values are numbers."""
    return next((n for n, value in group.point.items() if not isinstance(value, str)), None)


def lines(groups: Mapping[str, Group], *, axis: str | None = None) -> dict[str, list[Group]]:
    """``mlp, tau 4`` -> the groups that differ in ``axis`` alone, by their value of it.

    ``axis`` None: of each group its own first one of numbers. Groups without it are lines of one.
    """
    found: dict[str, list[Group]] = {}
    for group in groups.values():
        along = axis or first_axis(group)
        rest = [labels.place_name(n, value) for n, value in group.point.items() if n != along]
        found.setdefault(", ".join([group.architecture, *rest]), []).append(group)
    return {name: sorted(line, key=lambda g: _at(g, axis)) for name, line in found.items()}


def _at(group: Group, axis: str | None) -> float:
    along = axis or first_axis(group)
    return float(group.point[along]) if along in group.point else 0.0

"""What an entry of the configuration's ``bounds`` says: which bound, where, and its name.

``NAME: {bound: lower_jacobian, points: pgd, points_options: {radius: 0.5}, norms: [l2]}``; without
``bound``, NAME is the bound's. Imports neither torch nor the plug-ins.
"""

from collections.abc import Mapping
from typing import Any

from lipdescent.plugins import signatures

# Of any bound; what else an entry has goes to the bound's measure().
COMMON = ("bound", "norms", "outputs", "points", "points_options")


def bound_of(name: str, entry: Mapping[str, Any]) -> str:
    """The file of bounds/ behind an entry."""
    return entry.get("bound", name)


def own_options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What goes to the bound's ``measure``."""
    return {key: value for key, value in entry.items() if key not in COMMON}


def files(entry: Mapping[str, Any]) -> list[str]:
    """Files that its points are read from."""
    if "points" not in entry:
        return []
    given = entry.get("points_options", {})
    return [str(given[key]) for key in signatures.paths("points", entry["points"]) if key in given]


def label(name: str, entry: Mapping[str, Any]) -> str:
    """What follows an @ in the table's quantities: the entry's own name, or its set of points.

    Nothing for a bound under its own name, on the data.
    """
    return name if bound_of(name, entry) != name else entry.get("points", "")


def called(quantity: str, name: str, entry: Mapping[str, Any]) -> str:
    """``lower_jacobian@pgd``, the quantity's name in the table."""
    own = label(name, entry)
    return f"{quantity}@{own}" if own else quantity

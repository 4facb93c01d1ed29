"""Names of an architecture at a point of a study's further axes, in files' names and figures.

``mlp`` where nothing varies, ``mlp+depth=3+optimizer=adam`` at a point; a data set that an axis
changes is called likewise. Names hold neither + nor =, and no comma: Snakemake hands wildcards to
the jobs of a cluster as a list with commas.
"""

from collections.abc import Mapping

# Of an axis: a number, or a word.
Value = int | float | str
Point = Mapping[str, Value]


def label(value: Value) -> str:
    """``3`` of 3 and of 3.0, ``0.005``, ``adam``: equal numbers have equal labels."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def name(of: str, point: Point) -> str:
    """Of an architecture, or of a data set, at a point."""
    return "+".join([of, *(f"{axis}={label(value)}" for axis, value in point.items())])


def split(variant: str) -> tuple[str, dict[str, str]]:
    """Architecture, or data set, and axis -> label."""
    of, *places = variant.split("+")
    return of, dict(place.split("=", 1) for place in places)

"""The two ends of a bracket, from the table of its bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Not bounds of the global Lipschitz constant: around a point, or over all activation patterns.
LOCAL, PATTERNS = "upper_local", "fgl"


def best(table: pd.DataFrame) -> tuple[float, float]:
    """Largest lower and smallest upper bound of the global constant, NaN where there is none."""
    (lower, _), (upper, _) = holders(table)
    return lower, upper


def check_order(table: pd.DataFrame) -> None:
    """Raise RuntimeError where the largest lower bound exceeds the smallest upper one."""
    (lower, by), (upper, other) = holders(table)
    if lower > upper:
        raise RuntimeError(f"{by} = {lower!r} exceeds {other} = {upper!r}")


def holders(table: pd.DataFrame) -> list[tuple[float, str]]:
    """The ends of :func:`best`, each with the first bound that gives it, "" where there is none."""
    sound = table[(table.status == "ok") & ~table.quantity.str.startswith(LOCAL)]
    lower = sound[(sound.direction == "lower") & ~sound.quantity.str.contains(PATTERNS)]
    upper = sound[sound.direction == "upper"]
    return [
        (float(end), next(iter(rows[rows.value == end].quantity), ""))
        for rows, end in ((lower, lower.value.max()), (upper, upper.value.min()))
    ]

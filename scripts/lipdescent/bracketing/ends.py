"""The two ends of a bracket, from the table of its bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Not bounds of the global Lipschitz constant: around a point, or over all activation patterns.
LOCAL, PATTERNS = "upper_local", "fgl"


def best(table: pd.DataFrame) -> tuple[float, float]:
    """Largest lower and smallest upper bound of the global constant, NaN where there is none."""
    sound = table[(table.status == "ok") & ~table.quantity.str.startswith(LOCAL)]
    lower = sound[(sound.direction == "lower") & ~sound.quantity.str.contains(PATTERNS)]
    return float(lower.value.max()), float(sound[sound.direction == "upper"].value.min())


def check_order(table: pd.DataFrame) -> None:
    """Raise RuntimeError where the largest lower bound exceeds the smallest upper one."""
    lower, upper = best(table)
    if lower > upper:
        sound = table[table.status == "ok"]
        pair = [sound[sound.value == value].quantity.iloc[0] for value in (lower, upper)]
        raise RuntimeError(f"{pair[0]} = {lower!r} exceeds {pair[1]} = {upper!r}")

"""What :func:`lipdescent.bracket` gives: the ends of the bracket, and the table behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from lipdescent.bracketing.ends import best
from lipdescent.bracketing.text import text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Bracket:
    """Certified bounds of one network's Lipschitz constant; printing it gives them as a table.

    Attributes
    ----------
    table : one row per quantity and split: quantity, direction ("upper", "lower", "estimate" for a
        lower bound whose rounding is not proved, "metric"), norm, value, status ("ok",
        "not_applicable", "not_in_budget", or "error" where the method raised or gave no number),
        seconds (of its method), split, reason (why it is not applicable, not proved, stopped, or
        what went wrong).
    norm : "l2", "linf" or "l1", on inputs and outputs.
    """

    table: pd.DataFrame
    norm: str

    @cached_property
    def _ends(self) -> tuple[float, float]:
        return best(self.table)

    @property
    def lower(self) -> float:
        """Largest proved lower bound of the constant; NaN without one."""
        return self._ends[0]

    @property
    def upper(self) -> float:
        """Smallest certified upper bound of the constant; NaN without one."""
        return self._ends[1]

    @property
    def ratio(self) -> float:
        """``upper / lower``, rounded up: at least 1; infinite or NaN where an end says nothing."""
        lower, upper = self._ends
        if lower == 0:
            return math.nan if upper == 0 or math.isnan(upper) else math.inf
        return upper / lower if upper == lower else math.nextafter(upper / lower, math.inf)

    def __repr__(self) -> str:
        return text(self.table, self.norm)

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(f"a bracket is no table: say bracket(...).table[{key!r}]")

    def __getattr__(self, name: str) -> NoReturn:
        hint = f"; its rows are in .table, such as bracket(...).table.{name}"
        known = "table" in vars(self) and name[0] != "_" and hasattr(self.table, name)
        raise AttributeError(f"a bracket has no {name!r}" + (hint if known else ""))

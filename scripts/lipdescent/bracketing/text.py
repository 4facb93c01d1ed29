"""A bracket as text: the table of bounds, what does not apply, the best bracket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lipdescent.arithmetic import decimals
from lipdescent.bracketing.ends import LOCAL, best

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {"lower": decimals.at_least, "upper": decimals.at_most}


def text(frame: pd.DataFrame, norm: str) -> str:
    """The values with what they are; what does not apply, with its reason; the best bracket."""
    found, absent = frame[frame.status == "ok"], frame[frame.status != "ok"]
    lines = [_table(found)] if len(found) else []
    for (side, reason), rows in found[found.reason != ""].groupby(
        ["direction", "reason"], sort=False
    ):
        lines.append(f"\n{side}: {', '.join(dict.fromkeys(rows.quantity))}: {reason}")
    for status, rows in absent.groupby("status", sort=False):
        lines.append(f"\n{str(status).replace('_', ' ')}:")
        lines += [f"  {row.quantity}: {row.reason}" for row in rows.itertuples()]
    return "\n".join([*lines, f"\nbest bracket ({norm}): {_bracket(frame)}"])


def _table(found: pd.DataFrame) -> str:
    columns = ["quantity", "direction", "norm", "value", "split", "seconds"]
    values = [_value(row) for row in found.itertuples()]
    shown = found[columns].assign(value=values)
    return shown.to_string(index=False, formatters={"seconds": "{:.2f}".format})


def _value(row: Any) -> str:
    side = "upper" if row.quantity.startswith(LOCAL) else row.direction
    return SHOWN.get(side, "{:.7g}".format)(row.value)


def _bracket(frame: pd.DataFrame) -> str:
    """``lower <= L <= upper; ratio at most r``, less what there is not, and why it is not."""
    lower, upper = best(frame)
    low = "" if math.isnan(lower) else f"{decimals.at_least(lower)} <= "
    high = "" if math.isnan(upper) else f" <= {decimals.at_most(upper)}"
    if low and high:
        known = lower > 0 and math.isfinite(upper)
        return f"{low}L{high}" + (
            f"; ratio at most {decimals.ratio(upper, lower)}" if known else ""
        )
    missing = [
        f"no {side} bound: {_why(frame, side)}"
        for side, there in (("lower", low), ("upper", high))
        if not there
    ]
    return "; ".join([*([f"{low}L{high}"] if low or high else []), *missing])


def _why(frame: pd.DataFrame, side: str) -> str:
    """Why a side's methods gave nothing; for upper bounds that of the one for most networks."""
    own = frame[frame.quantity.str.startswith(f"{side}_") & ~frame.quantity.str.startswith(LOCAL)]
    for general in ("upper_graph", "upper_layer_product"):
        if (own.quantity == general).any():
            own = own[own.quantity == general]
            break
    reasons = dict.fromkeys(own.reason)
    return "; ".join(filter(None, reasons)) or "none was asked for"

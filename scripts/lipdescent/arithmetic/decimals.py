"""Bounds as text: a lower bound is rounded down to the digits shown, an upper bound up."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext


def at_least(value: float, form: str = ".7g") -> str:
    """``value`` in the format ``form``, never above it: 1.0955262 -> ``1.095526``."""
    return _text(Decimal(value), form, ROUND_FLOOR)


def at_most(value: float, form: str = ".7g") -> str:
    """``value`` in the format ``form``, never below it: 1.0955262 -> ``1.095527``."""
    return _text(Decimal(value), form, ROUND_CEILING)


def ratio(upper: float, lower: float, form: str = ".5g") -> str:
    """``upper / lower`` of the values themselves, not of those shown, rounded up."""
    with localcontext(rounding=ROUND_CEILING):
        quotient = Decimal(upper) / Decimal(lower)
    return _text(quotient, form, ROUND_CEILING)


def _text(value: Decimal, form: str, rounding: str) -> str:
    if not value.is_finite():
        return str(float(value))
    with localcontext(rounding=rounding):  # which Decimal's format obeys, and float's does not
        return format(value, form)

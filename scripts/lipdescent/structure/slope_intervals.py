"""Slope intervals [a, b] of elementwise activations: (f(x) - f(y)) / (x - y) is always in [a, b].

The numbers are those of :mod:`lipdescent.layers.activation`, rounded outwards.
"""

import math
from fractions import Fraction

from torch import nn

from lipdescent.layers import activation
from lipdescent.layers.operations import function_slopes
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import declaration_of
from lipdescent.networks.operations import Function

Interval = tuple[float, float]


def slope_interval(module: nn.Module) -> Interval | None:
    """[a, b] of an activation, a <= b, or None where there is none that holds for all models."""
    if type(module) is nn.Identity:
        return 1.0, 1.0
    if (declared := declaration_of(module)) is not None:
        return declared.slopes
    if type(module) not in (*activation.SLOPES, Function) or any(True for _ in module.parameters()):
        return None
    try:
        if isinstance(module, Function):
            return function_slopes(module, {})
        low, high = activation.slopes(module, {})
    except NotApplicable:
        return None
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def compose(outer: Interval, inner: Interval) -> Interval:
    """Slopes of outer(inner(x)), rounded outwards."""
    products = [x * y for x in outer for y in inner]
    low, high = min(products), max(products)
    if {outer, inner} <= {(0.0, 1.0), (1.0, 1.0)}:
        return low, high
    return math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


def recentred(interval: Interval) -> tuple[float, float]:
    """m and r, r rounded up, with [a, b] inside [m - r, m + r].

    Raises
    ------
    ValueError
        Unless a and b are finite and a <= b.
    """
    low, high = map(float, interval)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"slopes {interval}: allowed are finite a <= b")
    middle = low / 2 + high / 2
    centre = Fraction(middle)
    exact = max(Fraction(high) - centre, centre - Fraction(low))
    radius = float(exact)
    return middle, radius if Fraction(radius) >= exact else math.nextafter(radius, math.inf)

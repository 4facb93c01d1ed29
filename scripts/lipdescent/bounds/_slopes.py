"""Slope intervals [a, b] of elementwise activations: (f(x) - f(y)) / (x - y) is always in [a, b].

Extrema of GELU, SiLU and Mish were computed with 30 digits; every number is rounded outwards.
Activations with a jump (Hardshrink, Threshold, Softplus with a low threshold) have no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from torch import nn

Interval = tuple[float, float]
_GELU = {"none": 1.12890414518515478, "tanh": 1.12899306865877177}
_SILU = 1.09983932012886692


def _outwards(low: float, high: float) -> Interval:
    return math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


def _gelu(module: nn.GELU) -> Interval:
    top = _GELU[module.approximate]  # f'(x) + f'(-x) = 1
    return _outwards(1 - top, top)


def _softplus(module: nn.Softplus) -> Interval | None:
    # torch switches to the identity above the threshold; the jump there is exp(-threshold) / beta.
    return (0.0, 1.0) if module.threshold >= 20 and module.beta > 0 else None


def _leaky(module: nn.LeakyReLU) -> Interval:
    return min(module.negative_slope, 1.0), max(module.negative_slope, 1.0)


def _elu(module: nn.ELU) -> Interval:
    return min(module.alpha, 0.0), max(module.alpha, 1.0)


def _unit(module: nn.Module) -> Interval:
    return 0.0, 1.0


_TABLE: dict[type[nn.Module], Callable[..., Interval | None]] = {
    **dict.fromkeys(
        (
            nn.ReLU,
            nn.ReLU6,
            nn.Hardtanh,
            nn.Tanh,
            nn.Tanhshrink,
            nn.Softshrink,
            nn.Softsign,
            nn.LogSigmoid,
        ),
        _unit,
    ),
    nn.CELU: lambda module: (0.0, 1.0) if module.alpha > 0 else None,
    nn.ELU: _elu,
    nn.GELU: _gelu,
    nn.Hardsigmoid: lambda module: _outwards(0.0, 0.16666667163372042),  # torch's float32 1/6
    nn.Hardswish: lambda module: (-0.5, 1.5),
    nn.Identity: lambda module: (1.0, 1.0),
    nn.LeakyReLU: _leaky,
    nn.Mish: lambda module: _outwards(-0.112526122389462557, 1.08849816125172787),
    nn.SELU: lambda module: _outwards(0.0, 1.75809934084737686),
    nn.SiLU: lambda module: _outwards(1 - _SILU, _SILU),
    nn.Sigmoid: lambda module: (0.0, 0.25),
    nn.Softplus: _softplus,
}


def slope_interval(module: nn.Module) -> Interval | None:
    """[a, b] of an activation, a <= b, or None where the table has none (subclasses included)."""
    entry = _TABLE.get(type(module))
    interval = entry(module) if entry else None
    return interval if interval and all(map(math.isfinite, interval)) else None


def compose(outer: Interval, inner: Interval) -> Interval:
    """Slopes of outer(inner(x)), rounded outwards."""
    products = [x * y for x in outer for y in inner]
    exact = {outer, inner} <= {(0.0, 1.0), (1.0, 1.0)}
    return (min(products), max(products)) if exact else _outwards(min(products), max(products))


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

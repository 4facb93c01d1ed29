"""Functions of one number: their values and slopes on an interval, rounded outwards.

Between the points where f' changes its sign f is monotone, and between those where f'' does f' is:
extremes lie at these points or at the interval's ends. What torch computes of f and f' is off by a
few units in the last place of the result and, where 1 + erf cancels, of the argument; 2^-45 of both
is allowed for. No slope interval is larger than that of :mod:`lipdescent.layers.activation`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipdescent.bounds.graph.ranges import Range, around
from lipdescent.layers import activation
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import declaration_of
from lipdescent.networks.operations import Function

_PAD = 2.0**-45
Formula = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scalar:
    """f and f'.

    Attributes
    ----------
    turns : where f has an extremum.
    bends : where f' has one or jumps, with its values there.
    ends : limits of f and of f' at minus and plus infinity.
    pad : what torch's f may be off by, besides rounding.
    limits : values that f does not pass, however it is rounded.
    """

    function: Formula
    slope: Formula
    turns: tuple[float, ...] = ()
    bends: tuple[tuple[float, tuple[float, ...]], ...] = ()
    ends: tuple[float, float, float, float] = (-math.inf, math.inf, 0.0, 1.0)
    pad: float = 0.0
    exact: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)
    period: tuple[tuple[float, float], ...] = ()  # (extremum of f, its value), modulo 2 pi

    def values(self, x: Range) -> Range:
        """f([low, high])."""
        at_low = torch.where(x.low == -math.inf, self.ends[0], self.function(x.low))
        at_high = torch.where(x.high == math.inf, self.ends[1], self.function(x.high))
        low, high = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
        for turn in self.turns:
            value = self.function(torch.full_like(low[:1].flatten()[:1], turn))
            inside = (x.low <= turn) & (x.high >= turn)
            low = torch.where(inside, torch.minimum(low, value), low)
            high = torch.where(inside, torch.maximum(high, value), high)
        for place, peak in self.period:
            inside = _holds(x, place)
            low = torch.where(inside, low.clamp_max(peak), low)
            high = torch.where(inside, high.clamp_min(peak), high)
        if self.exact:
            return _sound(low, high)
        size = x.size().clamp_max(64.0)
        pad = _PAD * size + self.pad
        found = _sound(low - pad - _PAD * low.abs(), high + pad + _PAD * high.abs())
        return Range(found.low.clamp(*self.limits), found.high.clamp(*self.limits))

    def slopes(self, x: Range) -> Range:
        """f'([low, high]), one-sided slopes at kinks included."""
        at_low = torch.where(x.low == -math.inf, self.ends[2], self.slope(x.low))
        at_high = torch.where(x.high == math.inf, self.ends[3], self.slope(x.high))
        low, high = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
        for place, values in self.bends:
            inside = (x.low <= place) & (x.high >= place)
            low = torch.where(inside, low.clamp_max(min(values)), low)
            high = torch.where(inside, high.clamp_min(max(values)), high)
        for place, value in self.period:  # f' of a sine is the sine a quarter further
            inside = _holds(x, place - math.pi / 2)
            low = torch.where(inside, low.clamp_max(value), low)
            high = torch.where(inside, high.clamp_min(value), high)
        if self.exact:
            return _sound(low, high)
        return _sound(low - _PAD * (1 + low.abs()), high + _PAD * (1 + high.abs()))


def _sound(low: Tensor, high: Tensor) -> Range:
    """What is no number is unbounded."""
    unknown = low.isnan() | high.isnan()
    return Range(torch.where(unknown, -math.inf, low), torch.where(unknown, math.inf, high))


def _holds(x: Range, place: float) -> Tensor:
    """Whether an interval may hold ``place`` + 2 pi k for an integer k."""
    first = (x.low - place) / (2 * math.pi)
    last = (x.high - place) / (2 * math.pi)
    slack = 1e-12 * (1 + first.abs() + last.abs())
    inside = torch.ceil(first - slack) <= torch.floor(last + slack)
    return inside | ~(first.isfinite() & last.isfinite()) | (slack > 0.1)


def _leaky(negative: float) -> Scalar:
    return Scalar(
        lambda x: torch.where(x > 0, x, negative * x),
        # Not of two numbers, which would be one in float32.
        lambda x: torch.where(x > 0, torch.ones_like(x), torch.full_like(x, negative)),
        turns=(0.0,),
        bends=((0.0, (1.0, negative)),),
        ends=(-math.inf * negative if negative else 0.0, math.inf, negative, 1.0),
        exact=negative in (0.0, 1.0),
    )


def _clipped(low: float, high: float) -> Scalar:
    return Scalar(
        lambda x: x.clamp(low, high),
        lambda x: ((x > low) & (x < high)).to(x),
        bends=((low, (0.0, 1.0)), (high, (0.0, 1.0))),
        ends=(low, high, 0.0, 0.0),
        exact=True,
    )


def _exponential(scale: float, alpha: float) -> Scalar:
    """ELU and SELU."""
    return Scalar(
        lambda x: scale * torch.where(x > 0, x, alpha * torch.expm1(x.clamp_max(0.0))),
        lambda x: scale * torch.where(x > 0, 1.0, alpha * torch.exp(x.clamp_max(0.0))),
        turns=(0.0,),
        bends=((0.0, (scale, scale * alpha)),),
        ends=(-scale * alpha, math.inf, 0.0, scale),
    )


def _gelu_slope(x: Tensor) -> Tensor:
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


_SIGMOID = Scalar(
    torch.sigmoid,
    lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    bends=((0.0, (0.25,)),),
    ends=(0.0, 1.0, 0.0, 0.0),
    limits=(0.0, 1.0),
)
_TANH = Scalar(
    torch.tanh,
    lambda x: 1 - torch.tanh(x) ** 2,
    bends=((0.0, (1.0,)),),
    ends=(-1.0, 1.0, 0.0, 0.0),
    limits=(-1.0, 1.0),
)
_GELU = Scalar(
    F.gelu,
    _gelu_slope,
    turns=(-0.7517915248,),  # the value there is off by 1e-21: f' vanishes
    bends=((-math.sqrt(2), (-0.1289041451851549,)), (math.sqrt(2), (1.1289041451851549,))),
    ends=(0.0, math.inf, 0.0, 1.0),
)
_SILU = Scalar(
    F.silu,
    _silu_slope,
    turns=(-1.2784645428,),
    bends=((-2.3993572805, (-0.0998393201288670,)), (2.3993572805, (1.0998393201288670,))),
    ends=(0.0, math.inf, 0.0, 1.0),
)
_HARDSWISH = Scalar(
    F.hardswish,
    lambda x: torch.where(x > 3, 1.0, torch.where(x < -3, 0.0, (2 * x + 3) / 6)),
    turns=(-1.5,),
    bends=((-3.0, (0.0, -0.5)), (3.0, (1.0, 1.5))),
    ends=(0.0, math.inf, 0.0, 1.0),
)


def _softplus(beta: float) -> Scalar:
    return Scalar(
        lambda x: F.softplus(x, beta),
        lambda x: torch.sigmoid(beta * x),
        ends=(0.0, math.inf, 0.0, 1.0),
        pad=2.0**-28 / beta,  # beyond a threshold torch takes the identity
    )


# Any slope where f jumps.
_ANY = (-math.inf, math.inf)


def _hard_shrink(end: float) -> Scalar:
    """x where |x| > end, else 0; it never falls. The identity where end <= 0."""
    return Scalar(
        lambda x: F.hardshrink(x, end),
        lambda x: ((x.abs() > end) | (end <= 0)).to(x),
        bends=((-end, _ANY), (end, _ANY)) if end > 0 else (),
        ends=(-math.inf, math.inf, 1.0, 1.0),
        exact=True,
    )


def _soft_shrink(end: float) -> Scalar:
    return Scalar(
        lambda x: F.softshrink(x, end),
        lambda x: (x.abs() > end).to(x),
        bends=((-end, (0.0, 1.0)), (end, (0.0, 1.0))),
        ends=(-math.inf, math.inf, 1.0, 1.0),
    )


def _threshold(place: float, value: float) -> Scalar:
    """x where x > place, else ``value``; it falls at ``place`` alone, if ``value`` is above it."""
    return Scalar(
        lambda x: torch.where(x > place, x, value),
        lambda x: (x > place).to(x),
        turns=(math.nextafter(place, math.inf),) if value > place else (),
        bends=((place, (0.0, 1.0) if value == place else _ANY),),
        ends=(value, math.inf, 0.0, 1.0),
        exact=value <= place,
    )


MODULES: dict[type[nn.Module], Callable[[Any], Scalar | None]] = {
    nn.ReLU: lambda m: _leaky(0.0),
    nn.LeakyReLU: lambda m: _leaky(m.negative_slope),
    nn.ReLU6: lambda m: _clipped(0.0, 6.0),
    nn.Hardtanh: lambda m: _clipped(m.min_val, m.max_val),
    nn.ELU: lambda m: _exponential(1.0, m.alpha),
    nn.SELU: lambda m: _exponential(activation.SELU_SCALE, activation.SELU_ALPHA),
    nn.Sigmoid: lambda m: _SIGMOID,
    nn.Tanh: lambda m: _TANH,
    nn.SiLU: lambda m: _SILU,
    nn.Hardswish: lambda m: _HARDSWISH,
    nn.Hardshrink: lambda m: _hard_shrink(m.lambd),
    nn.Softshrink: lambda m: _soft_shrink(m.lambd),
    nn.Threshold: lambda m: _threshold(m.threshold, m.value),
    # Below, torch's jumps so far that it is another function.
    nn.Softplus: lambda m: _softplus(m.beta) if m.threshold >= 20 else None,
}

_SQUARE = Scalar(
    torch.square, lambda x: 2 * x, turns=(0.0,), ends=(math.inf, math.inf, -math.inf, math.inf)
)
_SINE = Scalar(
    torch.sin, torch.cos, ends=(0.0,) * 4, period=((math.pi / 2, 1.0), (-math.pi / 2, -1.0))
)
_COSINE = Scalar(
    torch.cos, lambda x: -torch.sin(x), ends=(0.0,) * 4, period=((0.0, 1.0), (math.pi, -1.0))
)
# By the name of the function in torch.
FUNCTIONS: dict[str, Scalar] = {
    "abs": Scalar(
        torch.abs,
        torch.sign,
        turns=(0.0,),
        bends=((0.0, (-1.0, 1.0)),),
        ends=(math.inf, math.inf, -1.0, 1.0),
        exact=True,
    ),
    "sign": Scalar(
        torch.sign, torch.zeros_like, bends=((0.0, _ANY),), ends=(-1.0, 1.0, 0.0, 0.0), exact=True
    ),
    "exp": Scalar(torch.exp, torch.exp, ends=(0.0, math.inf, 0.0, math.inf)),
    "sin": _SINE,
    "cos": _COSINE,
    "square": _SQUARE,
    "reciprocal": Scalar(
        lambda x: 1 / x,
        lambda x: -1 / x.square(),
        bends=((0.0, (-math.inf,)),),
        turns=(0.0, -0.0),
        ends=(0.0, 0.0, 0.0, 0.0),
    ),
    "expm1": Scalar(torch.expm1, torch.exp, ends=(-1.0, math.inf, 0.0, math.inf)),
    "log1p": Scalar(torch.log1p, lambda x: 1 / (1 + x), ends=(math.nan, math.inf, math.nan, 0.0)),
    "atan": Scalar(
        torch.atan,
        lambda x: 1 / (1 + x.square()),
        bends=((0.0, (1.0,)),),
        ends=(-math.pi / 2, math.pi / 2, 0.0, 0.0),
    ),
    "asinh": Scalar(
        torch.asinh,
        lambda x: (1 + x.square()).rsqrt(),
        bends=((0.0, (1.0,)),),
        ends=(-math.inf, math.inf, 0.0, 0.0),
    ),
    "erf": Scalar(
        torch.erf,
        lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x.square()),
        bends=((0.0, (2 / math.sqrt(math.pi),)),),
        ends=(-1.0, 1.0, 0.0, 0.0),
    ),
    "sinh": Scalar(
        torch.sinh,
        torch.cosh,
        bends=((0.0, (1.0,)),),
        ends=(-math.inf, math.inf, math.inf, math.inf),
    ),
    "cosh": Scalar(
        torch.cosh, torch.sinh, turns=(0.0,), ends=(math.inf, math.inf, -math.inf, math.inf)
    ),
    "sqrt": Scalar(torch.sqrt, lambda x: 0.5 / x.sqrt(), ends=(math.nan, math.inf, math.nan, 0.0)),
    "rsqrt": Scalar(torch.rsqrt, lambda x: -0.5 * x**-1.5, ends=(math.nan, 0.0, math.nan, 0.0)),
    "log": Scalar(torch.log, lambda x: 1 / x, ends=(math.nan, math.inf, math.nan, 0.0)),
}


def _stretched(base: Scalar, by: float, factor: float, function: Formula) -> Scalar:
    """``factor`` f(by x) / by of a gated function f(x) = x g(x); ``by`` may be negative."""
    return Scalar(
        function,
        lambda x: factor * base.slope(by * x),
        turns=tuple(turn / by for turn in base.turns),
        bends=tuple(
            (place / by, tuple(factor * v for v in values)) for place, values in base.bends
        ),
        ends=(0.0, math.inf, 0.0, factor) if by > 0 else (-math.inf, 0.0, factor, 0.0),
        # Where a gate is 0 but for rounding, x times its error: beyond |by x| = 8 it is exact.
        pad=64 * _PAD / abs(by),
    )


def _softsign(e: float) -> Scalar:
    return Scalar(
        lambda x: x / (x.abs() + e),
        lambda x: e / (x.abs() + e).square(),
        bends=((0.0, (1 / e,)),),
        ends=(-1.0, 1.0, 0.0, 0.0),
    )


def _root_unit(e: float) -> Scalar:
    """x / sqrt(x^2 + e)."""
    return Scalar(
        lambda x: x / torch.hypot(x, torch.full_like(x, e).sqrt()),
        lambda x: e * (x.square() + e) ** -1.5,
        bends=((0.0, (1 / math.sqrt(e),)),),
        ends=(-1.0, 1.0, 0.0, 0.0),
    )


def _bell(c: float) -> Scalar:
    """exp(-c x^2), steepest at +-1 / sqrt(2 c)."""
    place, steep = 1 / math.sqrt(2 * c), math.sqrt(2 * c / math.e)
    return Scalar(
        lambda x: torch.exp(-c * x.square()),
        lambda x: -2 * c * x * torch.exp(-c * x.square()),
        turns=(0.0,),
        bends=((-place, (steep,)), (place, (-steep,))),
        ends=(0.0,) * 4,
    )


_LOG_COSH = Scalar(
    lambda x: x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2),
    torch.tanh,
    turns=(0.0,),
    ends=(math.inf, math.inf, -1.0, 1.0),
    pad=_PAD,  # near 0 two numbers of size log 2 cancel
)


def scalar_of(operation: Any) -> Scalar | None:
    """The function that an operation applies entry by entry, or None."""
    if type(operation) is nn.GELU:
        return _GELU if operation.approximate == "none" else None
    if type(operation) in MODULES:
        return MODULES[type(operation)](operation)
    return _function(operation) if type(operation) is Function else None


def _function(operation: Function) -> Scalar | None:
    power = operation.argument
    if operation.name == "at_most":
        return _clipped(-math.inf, power)
    if operation.name == "power" and power == int(power) and power >= 2:
        even = power % 2 == 0
        return Scalar(
            lambda x: x**power,
            lambda x: power * x ** (power - 1),
            turns=(0.0,),
            bends=((0.0, (0.0,)),),
            ends=(math.inf, math.inf, -math.inf, math.inf)
            if even
            else (-math.inf, math.inf, math.inf, math.inf),
        )
    if operation.name == "power" and power not in (0.0, 1.0):  # where x > 0, NaN elsewhere
        steep = math.inf if power > 1 else 0.0
        return Scalar(
            lambda x: torch.where(x > 0, x, math.nan) ** power,
            lambda x: power * torch.where(x > 0, x, math.nan) ** (power - 1),
            ends=(math.nan, math.inf if power > 0 else 0.0, math.nan, steep),
        )
    own = {
        "swish": lambda a: _stretched(_SILU, a, 1.0, operation),
        "erf_gate": lambda a: _stretched(_GELU, math.sqrt(2) * a, 2.0, operation),
        "softsign": _softsign,
        "isru": _root_unit,
        "gaussian": _bell,
        "logcosh": lambda a: _LOG_COSH,
        "softplus": lambda a: _softplus(1.0),
    }.get(operation.name)
    return FUNCTIONS.get(operation.name) if own is None else own(power)


def within(operation: object, values: Range) -> Range:
    """The part of ``values`` that is within what is declared of a layer."""
    declared = declaration_of(operation)
    if declared is None or declared.range is None:
        return values
    low, high = (torch.full_like(values.low, end) for end in declared.range)
    return values.meet(Range(low, high))


def bounded_slopes(operation: Any, x: Range) -> tuple[Range, Range] | None:
    """Values and slopes of an elementwise operation on ``x``; None if it is none."""
    scalar = scalar_of(operation)
    if scalar is None and type(operation) is Function:
        infinite = torch.full_like(x.low, math.inf)
        return Range(-infinite, infinite), Range(-infinite, infinite)
    tensors = (*operation.named_parameters(), *operation.named_buffers())
    own = {name: t.detach()[None] for name, t in tensors}
    declared = declaration_of(operation)
    everywhere: tuple[Any, Any] | None = declared.slopes if declared is not None else None
    if type(operation) in activation.SLOPES:
        try:
            everywhere = activation.slopes(operation, own)
        except NotApplicable:
            everywhere = None
    if scalar is None and everywhere is None:
        return None
    if scalar is None:
        assert everywhere is not None
        low, high = (torch.as_tensor(end, dtype=torch.float64) for end in everywhere)
        slopes = Range(low.expand_as(x.low), high.expand_as(x.low))
        middle, half = x.middle()
        value = operation(middle)
        reach = slopes.size() * half + _PAD * (value.abs() + middle.abs().clamp_max(64.0))
        values = around(value, torch.where(reach.isnan(), math.inf, reach) * (1 + _PAD))
        return within(operation, values), slopes
    slopes = scalar.slopes(x)
    if everywhere is not None:
        least, most = (float(end) for end in everywhere)
        slopes = Range(slopes.low.clamp_min(least), slopes.high.clamp_max(most))
    return scalar.values(x), slopes

"""What is known of one vertex of a graph on each of B regions, and how it is made tighter."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipdescent.arithmetic.blocks import spectral_norm_by_blocks
from lipdescent.arithmetic.certified_norms import (
    certified_spectral_norm,
    length_up,
    norm_frobenius,
    norm_l1,
    norm_linf,
)
from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.graph.linear_maps import Linear
from lipdescent.bounds.graph.ranges import Range, around
from lipdescent.domains.domain import Regions


@dataclass(frozen=True)
class Form:
    """value = constant + sum_k linear_k t_k +- error, with |t_k| <= 1: a zonotope.

    The first n symbols t_k are (x - centre)_k / half width_k, of the n inputs. Each further one is
    what one unit that is not linear on the region adds: all values that depend on it share it, so
    that errors cancel where they do (Ghorbal et al. 2009; Singh et al. 2018, DeepZ). Where there
    would be too many symbols it is ``error`` that grows.

    Attributes
    ----------
    constant, error : (B, *shape).
    linear : (B, K, *shape), the first K of all symbols; a value depends on no later one.
    """

    constant: Tensor
    linear: Tensor
    error: Tensor

    def with_symbols(self, count: int) -> Tensor:
        """``linear`` with zeros for later symbols, (B, count, *shape)."""
        missing = count - self.linear.shape[1]
        if not missing:
            return self.linear
        shape = self.linear.shape
        return torch.cat([self.linear, self.linear.new_zeros(shape[0], missing, *shape[2:])], 1)


class Symbols:
    """How many symbols there are; new ones have the numbers that follow."""

    limit = 2**17  # entries of one form on one region

    def __init__(self, count: int) -> None:
        self.count = count

    def added(self, form: Form, error: Tensor) -> Form:
        """A symbol of its own for each entry's ``error`` (B, *shape), where there is room."""
        size = error[0].numel()
        if (self.count + size) * size > self.limit:
            return Form(form.constant, form.linear, round_up(form.error + error))
        start, self.count = self.count, self.count + size
        shape = error.shape
        own = torch.diag_embed(error.flatten(1)).reshape(shape[0], size, *shape[1:])
        return Form(form.constant, torch.cat([form.with_symbols(start), own], 1), form.error)


@dataclass(frozen=True)
class Slope:
    """Every Jacobian in center +- radius, (B, n, *shape): the derivative by each of n inputs."""

    center: Tensor
    radius: Tensor


@dataclass(frozen=True)
class Known:
    """One vertex.

    Attributes
    ----------
    span : its values. point : its value at the region's centre.
    constant : (B,), its Lipschitz constant from the input, perhaps infinite.
    length : (B, *shape[:-1]), l2 lengths along the last axis, or None.
    radius : (B,), of rows about a centre that all rows of a matrix have, or None.
    form, slope : where affordable.
    slopes : of an elementwise operation, its slopes on the values of its input; else None.
    depends : bool (n,), the inputs on which it may depend, or None.
    """

    span: Range
    point: Range
    constant: Tensor
    length: Tensor | None = None
    form: Form | None = None
    slope: Slope | None = None
    slopes: Range | None = None
    depends: Tensor | None = None
    radius: Tensor | None = None


@dataclass(frozen=True)
class Domain:
    """B regions in the norm of the constant."""

    regions: Regions
    norm: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reach", self.regions.reach(self.norm))
        object.__setattr__(self, "half", self.regions.half().flatten(1))

    reach: Tensor = None  # type: ignore[assignment]
    half: Tensor = None  # type: ignore[assignment]


def times(a: Tensor, b: Tensor) -> Tensor:
    """Product of numbers >= 0 rounded up; 0 times infinity is 0."""
    value = a * b
    return torch.where((a == 0) | (b == 0), 0.0, round_up(value))


def linear_known(linear: Linear, x: Known, constant: Tensor, shape: torch.Size) -> Known:
    """An affine operation of x."""
    form = slope = None
    if x.form is not None:
        form = _linear_form(linear, x.form, shape)
    if x.slope is not None:
        size, radius = x.slope.center.abs(), x.slope.radius
        lead = size.shape[:2]
        flat = [t.flatten(0, 1) for t in (x.slope.center, size, radius)]
        center = linear.apply(flat[0])
        reach = linear.spread(flat[1], flat[2])
        slope = Slope(*(t.reshape(*lead, *t.shape[1:]) for t in (center, reach)))
    return Known(linear.range(x.span), linear.range(x.point), constant, None, form, slope)


def _linear_form(linear: Linear, form: Form, shape: torch.Size) -> Form:
    # As |t_k| <= 1, what rounding does to the coefficients is at most its sum over k.
    lead = form.linear.shape[:2]
    both = torch.cat([form.constant[:, None], form.linear], 1)
    moved = linear.apply(both.flatten(0, 1))
    moved = moved.reshape(lead[0], lead[1] + 1, *moved.shape[1:])
    constant = moved[:, 0]
    error = linear.spread(both.abs().sum(1), form.error) + 2.0**-1000
    if linear.bias is not None:
        constant = constant + linear.bias
        error = error + 2.0**-52 * constant.abs()
    if linear.bias_error is not None:
        error = error + linear.bias_error
    return Form(constant, moved[:, 1:], round_up(error, 3))


def input_known(domain: Domain, *, dense: bool) -> Known:
    """The input itself. Forms count in units of the half widths, so that \\|t_k\\| <= 1."""
    regions = domain.regions
    count, shape = len(regions), regions.low.shape[1:]
    n = math.prod(shape)
    form = slope = None
    if dense:
        eye = torch.eye(n, dtype=torch.float64, device=regions.low.device)
        center = eye.reshape(1, n, *shape).expand(count, n, *shape)
        slope = Slope(center, torch.zeros_like(center))
        if regions.bounded:
            half = domain.half
            scaled = torch.diag_embed(half).reshape(count, n, *shape)
            form = Form(regions.center, scaled, torch.zeros_like(regions.center))
    point = Range(regions.center, regions.center)
    one = torch.ones(count, dtype=torch.float64, device=regions.low.device)
    return Known(Range(regions.low, regions.high), point, one, None, form, slope)


def tightened(known: Known, domain: Domain) -> Known:
    """With the values that form, Jacobians and the distance to the centre's value leave."""
    span = known.span
    if known.form is not None:
        form = known.form
        n = form.linear.shape[1]
        spread = round_up(form.linear.abs().sum(1) + form.error, n + 1)
        span = span.meet(around(form.constant, spread))
        radius = domain.regions.radius
        if radius is not None:
            size = domain.half.shape[1]
            rest = round_up(form.linear[:, size:].abs().sum(1), n + 1)
            # t_k = (x - centre)_k / half_k, in l2 at most radius / half: half is radius but for
            # rounding.
            ratio = round_up(radius / domain.half.amin(1).clamp_min(2.0**-1000), 2)
            length = round_up(form.linear[:, :size].square().sum(1).sqrt(), n + 3)
            ratio = ratio.reshape(-1, *[1] * (length.ndim - 1))
            reach = round_up(ratio * length + rest + form.error, 3)
            span = span.meet(around(form.constant, reach))
    if known.slope is not None and domain.regions.bounded:
        span = span.meet(_by_mean_values(known, known.slope, domain))
    distance = times(domain.reach, known.constant)
    if bool(distance.isfinite().any()):
        middle, doubt = known.point.middle()
        distance = distance.reshape(-1, *[1] * (middle.ndim - 1))
        span = span.meet(around(middle, round_up(distance + doubt)))
    # Rounded outwards both ends hold the values; what crosses has no value but for rounding.
    return replace(known, span=Range(span.low, torch.maximum(span.low, span.high)))


def _by_mean_values(known: Known, slope: Slope, domain: Domain) -> Range:
    """f(x) = f(c) + J (x - c), J between the Jacobians of the region, as it is convex.

    An entry moves by at most its own row of |J|: times the half widths, or in l2 times the radius.
    """
    n = slope.center.shape[1]
    size = round_up(slope.center.abs() + slope.radius)
    half = domain.half.reshape(*domain.half.shape, *[1] * (size.ndim - 2))
    reach = round_up(torch.where(half == 0, 0.0, size * half).sum(1), n + 2)
    radius = domain.regions.radius
    if radius is not None:
        length = round_up(size.square().sum(1).sqrt(), n + 3)
        radius = radius.reshape(-1, *[1] * (length.ndim - 1))
        reach = torch.minimum(reach, torch.where(radius == 0, 0.0, round_up(radius * length)))
    middle, doubt = known.point.middle()
    return around(middle, round_up(torch.where(reach.isnan(), math.inf, reach) + doubt))


def slope_norm(slope: Slope, norm: str) -> Tensor:
    """Largest norm (B,) of a Jacobian in center +- radius.

    In l_inf and l1 the largest row (column) sum of |center| + radius is attained. In l2 the
    smaller one of |center| + |radius| and | |center| + radius |, as |J| <= | |J| | entry by entry.
    """
    center, radius = slope.center.flatten(2), slope.radius.flatten(2)  # (B, inputs, outputs)
    sound = center.isfinite().flatten(1).all(1) & radius.isfinite().flatten(1).all(1)
    center = torch.where(sound[:, None, None], center, 0.0)
    radius = torch.where(sound[:, None, None], radius, 0.0)
    total = round_up(center.abs() + radius)
    if norm == "l2":
        apart = certified_spectral_norm(center) + certified_spectral_norm(radius)
        value = torch.minimum(round_up(apart), certified_spectral_norm(total))
    else:
        value = norm_l1(total) if norm == "linf" else norm_linf(total)
    return torch.where(sound, value, math.inf)


def matrix_norm(center: Tensor, radius: Tensor, norm: str) -> Tensor:
    """As :func:`slope_norm` where the radius is rounding: (..., inputs, outputs) to (...)."""
    if norm == "l2":
        return spectral_norm_by_blocks(center, error=norm_frobenius(radius))
    total = round_up(center.abs() + radius)
    return norm_l1(total) if norm == "linf" else norm_linf(total)


def group_lengths(x: Tensor) -> Tensor:
    """l2 lengths of the last axis, infinite where an entry is."""
    finite = x.isfinite().all(-1)
    value = length_up(torch.where(finite[..., None], x, 0.0))
    return torch.where(finite, value, math.inf)


def rounding(count: int, size: Tensor) -> Tensor:
    """gamma(count) size, rounded up."""
    return round_up(gamma(count) * size, 2)

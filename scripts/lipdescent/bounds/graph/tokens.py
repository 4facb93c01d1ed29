"""Normalisation, softmax and attention: what is known of them from their inputs.

Normalisation of d numbers, z = P x / s with P = I - 1 1' / d (or I) and s^2 = |P x|^2 / d + eps:
J = diag(gamma) (P - z z' / d) / s. The middle factor lies between 0 and I, so in l2 the constant is
max |gamma| / sqrt(v + eps), v a lower bound of the variance; in l_inf and l1 its rows and columns
sum to at most 2 + sqrt(d), as |z_i| <= sqrt(d) and sum |z_j| <= d. |x| -> |P x| is 1-Lipschitz:
sqrt(v) >= (|P c| - |x - c|) / sqrt(d). Values: |z_i| <= sqrt(d), |z| <= sqrt(d).

Attention O = P V, P = softmax(S), S = s Q K' + B with n queries, minus infinity in B for keys left
out. dO_i = sum_j P_ij dv_j + sum_j P_ij (v_j - E v) dS_ij, E the mean under P_i; in the second sum
k may be counted from any centre. So dO_i is the sum of (in l2 as Kim et al. 2021, arXiv
2006.04710, bounded anew)

- sum_j P_ij dv_j: |P|_2^2 <= |P|_1 |P|_inf <= n, so sqrt(n) |dV|_F;
- s Cov_i(v, k) dq_i, the covariance under P_i: at most s R_v R_k |dq_i|, R the lengths of v, k
  about any common centre (|E (v - E v)(k - E k)'| <= sd(v) sd(k));
- s sum_j P_ij (v_j - E v) q_i' dk_j: by Cauchy-Schwarz at most
  s |q_i| sd(v) sqrt(sum_j P_ij |dk_j|^2); squares summed over i, at most n |dK|_F^2;
- sum_j P_ij (v_j - E v) dB_ij: at most sd(v) |dB_i|.

So L <= sqrt(n) L_v + s R_v R_k L_q + s sqrt(n) R_q R_v L_k + R_v L_B; heads side by side only add
squares, and n may be the largest sum of P over the queries. In the other norms, with R^1 and R^inf
the l1 and l_inf lengths of rows, of k and v about a common centre:

- l_inf: E |v - E v| <= sd(v) <= R^inf_v for each entry, so each is at most R^inf_v max_j |dS_ij|:
  L <= L_v + R^inf_v (s R^1_k L_q + s R^1_q L_k + L_B);
- l1: E |v - E v|_1 <= R^1_v and |v_j - E v|_1 <= 2 R^1_v, so
  L <= n L_v + s R^inf_k R^1_v L_q + 2 s n R^inf_q R^1_v L_k + 2 R^1_v L_B.

Or, if that is less, the bound of the three products one after another, V from its common centre
once more, as the rows of dP have the sum 0.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import gamma, round_down, round_up
from lipdescent.bounds.graph import derivatives, elementwise, ranges
from lipdescent.bounds.graph.elementwise import aligned
from lipdescent.bounds.graph.known import Domain, Known, Slope, group_lengths, times
from lipdescent.bounds.graph.ranges import Range, around
from lipdescent.layers.operations import gather as gather_constant
from lipdescent.networks.operations import Gather

NORMALISATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def normalised(operation: Any, x: Known, domain: Domain) -> Known:
    """Layer, group, RMS and instance norm of x."""
    shape = x.span.low.shape[1:]
    groups, centred = _groups(operation, shape), not isinstance(operation, nn.RMSNorm)
    center, doubt = x.point.middle()
    flat = center.reshape(len(center), groups, -1)
    d = flat.shape[2]
    away = torch.maximum(x.span.high - center, center - x.span.low)
    away = group_lengths(round_up(away).reshape_as(flat))
    if domain.norm != "linf":
        distance = times(domain.reach, x.constant)[:, None]
        away = torch.minimum(away, distance + group_lengths(doubt.reshape_as(flat)))
    about = flat - flat.mean(-1, keepdim=True) if centred else flat
    length = round_down(torch.linalg.vector_norm(about, dim=-1), 2 * d + 8)
    length = length - gamma(4 * d + 16) * group_lengths(flat)
    spread = round_down(length - round_up(away)).clamp_min(0.0).nan_to_num(0.0)
    variance = round_down(spread.square() / d, 4).clamp_min(0.0)
    eps = operation.eps
    if eps is None:
        eps = torch.finfo(torch.float64).eps
    weight = torch.ones(1) if operation.weight is None else operation.weight.detach()
    steep = float(weight.abs().max().double())
    slope = round_up(steep / (variance + eps).sqrt(), 6).amax(1)
    if domain.norm != "l2":
        slope = round_up(slope * (2 + math.sqrt(d)), 3)
    constant = times(slope, x.constant)
    span = _normalised_values(operation, shape, d)
    value = operation(center)
    size = center.abs().flatten(1).amax(1) * slope + value.abs().flatten(1).amax(1) + 1
    error = gamma(8 * d + 64) * size + times(slope, group_lengths(doubt.flatten(1)))
    point = around(value, error.reshape(-1, *[1] * len(shape)).expand_as(value))
    # Rows: gamma z + beta, |z| <= sqrt(d) where the last axis lies in one group.
    rows = None
    if shape[-1] <= d:
        bias = getattr(operation, "bias", None)
        shift = 0.0 if bias is None else float(bias.detach().double().abs().max())
        shift *= math.sqrt(shape[-1])
        rows = torch.full_like(x.span.low[..., 0], (steep * math.sqrt(d) + shift) * (1 + 2.0**-40))
    found = None
    if x.slope is not None and bool(away.isfinite().all()):
        sizes = (length, away, eps)
        found = _normalised_slope(operation, x.slope, about, sizes, centred=centred)
    values = Range(*(e.expand_as(center) for e in span))
    return Known(values, point, constant, rows, None, found)


def _normalised_slope(
    operation: Any,
    slope: Slope,
    about: Tensor,
    sizes: tuple[Tensor, Tensor, float],
    *,
    centred: bool,
) -> Slope:
    """Jacobians of groups: ``about`` is P c (B, groups, d), of ``sizes`` |P c|, |x - c| and eps.

    z is 1/s-Lipschitz: |z - z(c)| <= |x - c| / s at the smallest s of the region.
    """
    length, away, eps = sizes
    d = about.shape[-1]
    slack = gamma(8 * d + 32) * group_lengths(about)
    least = round_down((length - away).clamp_min(0.0).square() / d, 6).clamp_min(0.0) + eps
    most = round_up((length + 2 * slack + away).square() / d, 2 * d + 16) + eps
    inverse = Range(round_down(most.rsqrt(), 4)[..., None], round_up(least.rsqrt(), 4)[..., None])
    at = about * (length.clamp_min(0.0).square() / d + eps).rsqrt()[..., None]
    reach = times(away + 4 * slack, inverse.high[..., 0])[..., None].expand_as(at)
    z = around(at, round_up(reach + gamma(8 * d + 32) * at.abs(), 2))
    largest = math.sqrt(d) * (1 + 2.0**-50)
    z = z.meet(Range(torch.full_like(at, -largest), torch.full_like(at, largest)))
    z = Range(torch.minimum(z.low, z.high), torch.maximum(z.low, z.high))
    lead, shape = slope.center.shape[:2], slope.center.shape[2:]
    weight = torch.ones((), dtype=torch.float64) if operation.weight is None else operation.weight
    weight = weight.detach().double()
    if weight.ndim:
        weight = _per_entry(operation, weight, shape).reshape(about.shape[1:])
    grouped = Slope(*(t.reshape(*lead, *about.shape[1:]) for t in (slope.center, slope.radius)))
    found = derivatives.normalised(grouped, z, inverse, weight, centred=centred)
    return Slope(*(t.reshape(*lead, *shape) for t in (found.center, found.radius)))


def _groups(operation: Any, shape: torch.Size) -> int:
    """How many groups of numbers that follow each other are normalised on their own."""
    if isinstance(operation, (nn.LayerNorm, nn.RMSNorm)):
        return math.prod(shape) // math.prod(operation.normalized_shape)
    return operation.num_groups if isinstance(operation, nn.GroupNorm) else shape[0]


def _per_entry(operation: Any, tensor: Tensor, shape: torch.Size) -> Tensor:
    tensor = tensor.detach().double()
    if isinstance(operation, (nn.LayerNorm, nn.RMSNorm)):
        return tensor.expand(shape)
    return tensor.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


def _normalised_values(operation: Any, shape: torch.Size, d: int) -> tuple[Tensor, Tensor]:
    one = torch.ones(())
    weight = one if operation.weight is None else operation.weight
    bias = getattr(operation, "bias", None)
    bias = torch.zeros(()) if bias is None else bias
    if weight.ndim:
        weight = _per_entry(operation, weight, shape)
    if bias.ndim:
        bias = _per_entry(operation, bias, shape)
    size = round_up(weight.detach().double().abs() * math.sqrt(d), 3)
    bias = bias.detach().double()
    return round_down(bias - size), round_up(bias + size)


def softmax(operation: Any, x: Known, norm: str, classes: int) -> Known:
    """p along one axis: J = diag(p) - p p', at most 1/2 in each norm (see layers.activation)."""
    axis = 1 if isinstance(operation, nn.Softmax2d) else operation.dim
    axis = axis if axis >= 0 else x.span.low.ndim + axis
    own = x if not isinstance(operation, nn.Softmin) else _negated(x)
    span, point = probabilities(own.span, axis), probabilities(own.point, axis)
    constant = _softmax_constant(span, x.constant)
    constant = constant if classes > 1 else torch.zeros_like(constant)
    slope = None if own.slope is None else derivatives.softmax(own.slope, span, axis)
    return Known(span, point, constant, None, None, slope)


def _negated(x: Known) -> Known:
    span, point = (Range(-own.high, -own.low) for own in (x.span, x.point))
    slope = None if x.slope is None else Slope(-x.slope.center, x.slope.radius)
    return Known(span, point, x.constant, None, None, slope)


def probabilities(x: Range, axis: int) -> Range:
    """1 / (1 + sum_j exp(x_j - x_i)), smallest at the lowest x_i and highest others."""

    def value(own: Tensor, others: Tensor, least: float) -> Tensor:
        top = others.amax(axis, keepdim=True)
        top = torch.where(top.isfinite(), top, 0.0)
        every = (others - top).exp()
        total = every.sum(axis, keepdim=True)
        # The others alone, up to what cancels; ``least`` is 1 for a lower bound of the ratio.
        rest = (total - every + (1 - 2 * least) * 2.0**-40 * total).clamp_min(0.0)
        ratio = rest * (top - own).exp()
        return 1 / (1 + torch.where(ratio.isnan(), 0.0 if least else math.inf, ratio))

    low = value(x.low, x.high, 0.0) * (1 - 2.0**-40) - 2.0**-1000
    high = value(x.high, x.low, 1.0) * (1 + 2.0**-40) + 2.0**-1000
    low = torch.where(x.low.isfinite(), low, 0.0)
    return Range(low.nan_to_num(0.0).clamp(0.0, 1.0), high.nan_to_num(1.0).clamp(0.0, 1.0))


def attention(scale: float, known: list[Known], norm: str) -> Known:
    """softmax(scale Q K' + B) V of queries (..., n, d), keys, values and perhaps biases."""
    lengths = [_row_lengths(own) for own in known[:3]]
    radii = [_radius(own) for own in known[1:3]]
    q, k, v, *rest = aligned(known)
    bias = rest[0] if rest else None
    spans, points = (
        [pick(own) for own in (q, k, v, *rest)] for pick in (lambda o: o.span, lambda o: o.point)
    )
    p, at = (
        probabilities(_scores(scale, *s[:2], *s[3:]), q.span.low.ndim - 1) for s in (spans, points)
    )
    span, point = _weighted(p, v.span), _weighted(at, v.point)
    slope = _attention_slope(scale, (q, k, v, bias), p)
    if len({own.span.low.shape[:-2] for own in (q, k, v)}) > 1:
        return Known(span, point, torch.full_like(v.constant, torch.inf), None, None, slope)
    columns = round_up(p.high.sum(-2), p.low.shape[-2]).flatten(1).amax(1)
    columns = columns.clamp_max(float(p.low.shape[-2]))  # at least |P|_1
    total = _attention_constant(abs(scale), (q, k, v, bias), (lengths[0], *radii), columns, norm)
    total = torch.minimum(total, _of_products(abs(scale), (q, k, v, bias), p, norm))
    return Known(span, point, total, None, None, slope)


def _attention_constant(
    scale: float,
    known: tuple[Any, ...],
    lengths: Sequence[Tensor],
    columns: Tensor,
    norm: str,
) -> Tensor:
    """The sum of the four terms (B,); ``lengths`` are R_q, R_k, R_v in l2."""
    q, k, v, bias = known
    s = torch.full_like(columns, scale)
    if norm == "l2":
        size_q, rk, rv = lengths
        own = of_k = round_up(columns.sqrt(), 2)
        of_q = of_bias = rv
    elif norm == "linf":
        rk, rv = _about_common(k.span, "l1"), _about_common(v.span, "linf")
        own = of_k = torch.ones_like(columns)
        of_q, size_q, of_bias = rv, _largest_row(q.span), rv
    else:
        rk, rv = _about_common(k.span, "linf"), _about_common(v.span, "l1")
        own = columns
        of_q, of_k, of_bias = rv, 2 * columns, 2 * rv
        size_q = q.span.size().flatten(1).amax(1)
    terms = [
        times(own, v.constant),
        times(times(times(s, of_q), rk), q.constant),
        times(times(times(s, of_k), times(size_q, rv)), k.constant),
    ]
    if bias is not None:
        terms.append(times(of_bias, bias.constant))
    return round_up(torch.stack(terms).sum(0), 5)


def _of_products(scale: float, known: tuple[Any, ...], p: Range, norm: str) -> Tensor:
    """L_S = s (|K| L_q + |Q| L_k) + L_B, and then |P| L_v + |V| L_S / 2."""
    q, k, v, bias = known
    turned = replace(k, span=k.span.each(lambda t: t.transpose(-1, -2)))
    scores = times(
        torch.full_like(q.constant, scale), elementwise.product_of_matrices(q, turned, norm)
    )
    if bias is not None:
        scores = round_up(scores + bias.constant)
    low, high = v.span.low.amin(-2, keepdim=True), v.span.high.amax(-2, keepdim=True)
    half = round_up((high - low) / 2, 4).nan_to_num(math.inf).expand_as(v.span.low)
    weights = replace(v, span=p, constant=_softmax_constant(p, scores))
    centred = replace(v, span=Range(-half, half))
    return elementwise.product_of_matrices(weights, centred, norm)


def _softmax_constant(p: Range, scores: Tensor) -> Tensor:
    """|J|_2 <= |J|_inf = 2 max p (1 - p): less than 1/2 where no p comes near 1/2."""
    high = p.high.flatten(1).amax(1).clamp_max(0.5)
    return times(round_up(2 * high * (1 - high), 4).clamp_max(0.5), scores)


def _attention_slope(scale: float, known: tuple[Any, ...], p: Range) -> Slope | None:
    """Scores, softmax and the weighted sum, one after another."""
    q, k, v, bias = known
    if any(own is not None and own.slope is None for own in known):
        return None
    if not derivatives.finite(q.span, k.span, v.span):
        return None
    axis = q.span.low.ndim - 1
    turned = k.span.each(lambda t: t.transpose(-1, -2)), derivatives.transposed(k.slope)
    scores = derivatives.matrix_product((q.span, q.slope), turned)
    radius = round_up(scores.radius * abs(scale) + gamma(1) * (scale * scores.center).abs(), 3)
    scores = Slope(scores.center * scale, radius)
    if bias is not None:
        scores = elementwise.added(scores, bias.slope)
    weights = derivatives.softmax(scores, p, axis)
    return derivatives.matrix_product((p, weights), (v.span, v.slope))


def left_out(operation: Gather, x: Known, norm: str) -> Known:
    """Entries of x, and minus infinity in other places."""
    shown = torch.full_like(x.constant, gather_constant(operation, {}, norm=norm))
    slope = None
    if x.slope is not None:
        move = Gather(operation.index)
        lead = x.slope.center.shape[:2]
        center, radius = (
            move(t.flatten(0, 1)).unflatten(0, lead) for t in (x.slope.center, x.slope.radius)
        )
        slope = Slope(center, radius)
    span, point = (own.each(operation) for own in (x.span, x.point))
    return Known(span, point, times(shown, x.constant), None, None, slope)


def matrix_product(a: Known, b: Known, norm: str) -> Known:
    """A B with its Jacobians, where the values are bounded."""
    found = elementwise.matrix_product(a, b, norm)
    a, b = aligned([a, b])
    if a.slope is None or b.slope is None or not derivatives.finite(a.span, b.span):
        return found
    slope = derivatives.matrix_product((a.span, a.slope), (b.span, b.slope))
    return replace(found, slope=slope)


def _scores(scale: float, q: Range, k: Range, bias: Range | None = None) -> Range:
    scores = ranges.matrix_product(q, k.each(lambda t: t.transpose(-1, -2)))
    if bias is None:
        return ranges.summed([scores], [scale])
    out = bias.high == -math.inf
    total = ranges.summed([scores, bias.each(lambda t: torch.where(out, 0.0, t))], [scale, 1.0])
    return total.each(lambda t: torch.where(out, -math.inf, t))


def _weighted(p: Range, v: Range) -> Range:
    """P V lies between the smallest and largest values, column by column."""
    shape = (*p.low.shape[:-1], v.low.shape[-1])
    low, high = v.low.amin(-2, keepdim=True), v.high.amax(-2, keepdim=True)
    hull = Range(low.expand(shape), high.expand(shape))
    return hull.meet(ranges.matrix_product(p, v))


def _row_lengths(own: Known) -> Tensor:
    """Largest length (B,) of a row."""
    rows = ranges.lengths(own.span)
    if own.length is not None:
        rows = torch.minimum(rows, own.length)
    return rows.flatten(1).amax(1)


def _about_common(x: Range, norm: str) -> Tensor:
    """Largest length (B,) of rows about the middle of all rows of a head."""
    low, high = x.low.amin(-2), x.high.amax(-2)
    half = round_up((high - low) / 2, 4).nan_to_num(math.inf)
    if norm == "l1":
        half = round_up(half.sum(-1), half.shape[-1])
    elif norm == "l2":
        half = group_lengths(half)
    return half.reshape(len(half), -1).amax(1)


def _radius(own: Known) -> Tensor:
    """Largest length (B,) of rows about a common centre: 0, their box's, or one that is known."""
    best = torch.minimum(_row_lengths(own), _about_common(own.span, "l2"))
    return best if own.radius is None else torch.minimum(best, own.radius)


def _largest_row(x: Range) -> Tensor:
    """Largest l1 length (B,) of a row."""
    return round_up(x.size().sum(-1), x.low.shape[-1]).flatten(1).amax(1)

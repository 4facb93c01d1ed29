"""Elementwise operations and joins of two values: what is known of them from their inputs.

Constants, for values a, b with constants L_a, L_b on a convex region:

- f(a), entry by entry: sup |f'| L_a, as df = f'(a) da.
- a + b: L_a + L_b. Side by side: root of the sum of squares in l2, sum in l1, maximum in l_inf.
- a b: sup |a| L_b + sup |b| L_a, as d(ab) = a db + b da. Where b is shown m times along axes that
  a alone has, |a db| <= max over entries of b of the (l2, l1, l_inf) length of a along them.
- a / b = a (1 / b): d(1 / b) = - db / b^2.
- max(a, b): each entry moves by at most the larger move, so as side by side.
- A B: |dA B|_F <= |dA|_F |B|_2 and |B|_2^2 <= |B|_1 |B|_inf (Golub & Van Loan, 2.3.9); entries of
  dA B are at most the largest entry of dA times a column of |B|, their sum a sum over dA times a
  row of |B|, and so for A dB.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.certified_norms import length_up
from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.graph import ranges
from lipdescent.bounds.graph.known import Form, Known, Slope, Symbols, times
from lipdescent.bounds.graph.ranges import Range
from lipdescent.bounds.graph.scalars import bounded_slopes


def elementwise(operation: nn.Module, x: Known, symbols: Symbols) -> Known | None:
    """f(x); None if ``operation`` does not act entry by entry."""
    found = bounded_slopes(operation, x.span)
    if found is None:
        return None
    values, slopes = found
    at = bounded_slopes(operation, x.point)
    assert at is not None
    steepest = slopes.size().flatten(1).amax(1)
    middle, half = slopes.middle()
    finite = bool(half.isfinite().all())
    form = _form(operation, x, middle, half, symbols) if x.form is not None and finite else None
    slope = None
    if x.slope is not None and finite:
        slope = scaled(x.slope, middle, half)
    constant = times(steepest, x.constant)
    return Known(values, at[0], constant, None, form, slope, slopes)


def scaled(slope: Slope, middle: Tensor, half: Tensor) -> Slope:
    """Slopes in middle +- half times Jacobians in C +- R: m C +- (|m| R + r (|C| + R))."""
    m, r = middle[:, None], half[:, None]
    center = m * slope.center
    radius = m.abs() * slope.radius + r * (slope.center.abs() + slope.radius)
    return Slope(center, round_up(radius + gamma(2) * center.abs(), 5))


def _form(operation: nn.Module, x: Known, middle: Tensor, half: Tensor, symbols: Symbols) -> Form:
    """m x + (f(x) - m x), the bracket within [low, high] over the values of x.

    Its slopes are within +- r: |f(x) - m x - (f(c) - m c)| <= r |x - c|. ReLU with ends l < 0 < u
    and m = u / (u - l): between 0 and the larger of - m l and u - m u, as it is convex.
    """
    assert x.form is not None
    center, reach = x.span.middle()
    if type(operation) is nn.ReLU:
        low, high = x.span.low.clamp_max(0.0), x.span.high.clamp_min(0.0)
        crosses = (low < 0) & (high > 0)
        middle = torch.where(crosses, high / (high - low), middle)
        top = torch.maximum(round_up(-middle * low), round_up(high - middle * high, 4))
        error = round_up(torch.where(crosses, top / 2, 0.0))
        offset = torch.where(crosses, top / 2, 0.0)
        error = torch.where(half > 0, error, 0.0)
        # A slope interval [0, 1] though the values do not cross: one end is 0, so f is exact.
        one_sided = ~crosses & (half > 0)
        middle = torch.where(one_sided, (x.span.low >= 0).to(middle), middle)
    else:
        found = bounded_slopes(operation, Range(center, center))
        assert found is not None
        value, doubt = found[0].middle()
        offset = value - middle * center
        size = value.abs() + (middle * center).abs()
        error = round_up(times(half, reach) + doubt + gamma(3) * size, 4)
    constant = middle * x.form.constant + offset
    linear = middle[:, None] * x.form.linear
    size = linear.abs().sum(1) + (middle * x.form.constant).abs() + offset.abs()
    n = linear.shape[1]
    rest = middle.abs() * x.form.error + gamma(n + 4) * size + 2.0**-1000
    return symbols.added(Form(constant, linear, round_up(rest, n + 8)), error)


def aligned(known: Sequence[Known]) -> list[Known]:
    """With axes of length 1 behind the region's (and the input's), so that all have as many."""
    most = max(k.span.low.ndim for k in known)

    def wide(t: Tensor, lead: int) -> Tensor:
        return t.reshape(*t.shape[:lead], *[1] * (most - t.ndim + lead - 1), *t.shape[lead:])

    found = []
    for k in known:
        span, point = k.span.each(lambda t: wide(t, 1)), k.point.each(lambda t: wide(t, 1))
        form, slope = k.form, k.slope
        if form is not None:
            form = Form(wide(form.constant, 1), wide(form.linear, 2), wide(form.error, 1))
        if slope is not None:
            slope = Slope(wide(slope.center, 2), wide(slope.radius, 2))
        found.append(Known(span, point, k.constant, None, form, slope, depends=k.depends))
    return found


def combination(factors: Sequence[float], known: Sequence[Known], norm: str) -> Known:
    """Sum of factor times value."""
    known = aligned(known)
    span = ranges.summed([k.span for k in known], factors)
    point = ranges.summed([k.point for k in known], factors)
    constant, parts = known[0].constant, []
    for factor, k in zip(factors, known, strict=True):
        repeats = span.low[0].numel() / max(1, k.span.low[0].numel())
        shown = {"l2": repeats**0.5, "l1": repeats, "linf": 1.0}[norm]
        share = torch.full_like(constant, abs(factor) * shown * (1 + 2.0**-50))
        share = torch.where(share == 1 + 2.0**-50, 1.0, share)
        parts.append(k.constant if bool((share == 1).all()) else times(share, k.constant))
    constant = together(parts, [k.depends for k in known], norm)
    form = slope = None
    count = len(known) + 2
    if all(k.form is not None for k in known):
        pairs: list[Any] = [(f, k.form) for f, k in zip(factors, known, strict=True)]
        most = max(o.linear.shape[1] for _, o in pairs)
        size = sum(abs(f) * (o.constant.abs() + o.linear.abs().sum(1)) for f, o in pairs)
        error = sum(abs(f) * o.error for f, o in pairs) + gamma(2 * count + 2) * size
        form = Form(
            sum(f * o.constant for f, o in pairs),
            sum(f * o.with_symbols(most) for f, o in pairs),
            round_up(error, 2 * count + most),
        )
    if all(k.slope is not None for k in known):
        pairs = [(f, k.slope) for f, k in zip(factors, known, strict=True)]
        size = sum(abs(f) * o.center.abs() for f, o in pairs)
        radius = sum(abs(f) * o.radius for f, o in pairs) + gamma(count) * size
        slope = Slope(sum(f * o.center for f, o in pairs), round_up(radius, 2 * count))
    return Known(span, point, constant, None, form, slope)


def concatenation(axis: int, known: Sequence[Known], norm: str) -> Known:
    """The values side by side."""

    def joined(tensors: list[Tensor], lead: int) -> Tensor:
        return torch.cat(tensors, axis + lead)

    def both(own: list[Range]) -> Range:
        return Range(joined([r.low for r in own], 1), joined([r.high for r in own], 1))

    form = slope = None
    if all(k.form is not None for k in known):
        forms: list[Any] = [k.form for k in known]
        most = max(f.linear.shape[1] for f in forms)
        form = Form(
            joined([f.constant for f in forms], 1),
            joined([f.with_symbols(most) for f in forms], 2),
            joined([f.error for f in forms], 1),
        )
    if all(k.slope is not None for k in known):
        slopes: list[Any] = [k.slope for k in known]
        slope = Slope(joined([s.center for s in slopes], 2), joined([s.radius for s in slopes], 2))
    constants = [k.constant for k in known]
    if apart([k.depends for k in known]):
        constant = torch.stack(constants).amax(0)
    else:
        constant = side_by_side(constants, norm)
    return Known(
        both([k.span for k in known]), both([k.point for k in known]), constant, None, form, slope
    )


def side_by_side(constants: Sequence[Tensor], norm: str) -> Tensor:
    """Constant of values side by side: (B,)."""
    stacked = torch.stack(list(constants))
    if norm == "linf":
        return stacked.amax(0)
    if norm == "l1":
        return round_up(stacked.sum(0), len(stacked))
    finite = stacked.isfinite().all(0)
    value = length_up(torch.where(finite, stacked, 0.0).mT)
    return torch.where(finite, value, torch.inf)


def apart(depends: Sequence[Tensor | None]) -> bool:
    """Whether values are known to depend on different inputs each."""
    known = [own for own in depends if own is not None]
    return len(known) == len(depends) and bool((torch.stack(known).sum(0) <= 1).all())


def together(changes: Sequence[Tensor], depends: Sequence[Tensor | None], norm: str) -> Tensor:
    """Constant (B,) of a sum whose parts have the constants ``changes``.

    Where the parts depend on different inputs, sum_k L_k |dx_k| is at most the l2 length of all L_k
    times |dx| (Cauchy-Schwarz), and in l1 the largest L_k times it.
    """
    if len(changes) == 1:
        return changes[0]
    if norm != "linf" and apart(depends):
        return side_by_side(changes, "l2") if norm == "l2" else torch.stack(list(changes)).amax(0)
    return round_up(torch.stack(list(changes)).sum(0), len(changes))


def product(a: Known, b: Known, norm: str) -> Known:
    """a b, entry by entry."""
    a, b = aligned([a, b])
    span, point = ranges.product(a.span, b.span), ranges.product(a.point, b.point)
    shape = span.low.shape
    parts = [
        times(weight(x.span.size(), y.span.low.shape, shape, norm), y.constant)
        for x, y in ((a, b), (b, a))
    ]
    constant = together(parts, [b.depends, a.depends], norm)
    slope = None
    if a.slope is not None and b.slope is not None:
        (ma, ra), (mb, rb) = a.span.middle(), b.span.middle()
        if bool(ra.isfinite().all() and rb.isfinite().all()):
            one, two = scaled(b.slope, ma, ra), scaled(a.slope, mb, rb)
            slope = added(one, two)
    return Known(span, point, constant, None, None, slope)


def quotient(a: Known, b: Known, norm: str) -> Known:
    """a / b: the product of a and 1 / b."""
    inverse = _reciprocal(b)
    return product(a, inverse, norm)


def _reciprocal(b: Known) -> Known:
    span, point = ranges.reciprocal(b.span), ranges.reciprocal(b.point)
    steep = round_up(span.size().square(), 2)
    constant = times(steep.flatten(1).amax(1), b.constant)
    slope = None
    if b.slope is not None and bool(steep.isfinite().all()):
        low = -steep
        smallest = torch.minimum(span.low.abs(), span.high.abs()).square()
        high = -(smallest * (1 - 2.0**-50))
        middle, half = Range(low, high).middle()
        slope = scaled(b.slope, middle, half)
    return Known(span, point, constant, None, None, slope)


def extremum(largest: bool, a: Known, b: Known, norm: str) -> Known:
    """Larger or smaller of two values, entry by entry."""
    a, b = aligned([a, b])
    pick = torch.maximum if largest else torch.minimum

    def best(x: Range, y: Range) -> Range:
        return Range(pick(x.low, y.low), pick(x.high, y.high))

    span = best(a.span, b.span)
    slope = None
    if a.slope is not None and b.slope is not None:
        low = torch.minimum(a.slope.center - a.slope.radius, b.slope.center - b.slope.radius)
        high = torch.maximum(a.slope.center + a.slope.radius, b.slope.center + b.slope.radius)
        middle = low / 2 + high / 2
        size = low.abs() + high.abs()
        slope = Slope(
            middle, round_up(torch.maximum(high - middle, middle - low) + gamma(4) * size, 2)
        )
    parts = [
        times(weight(torch.ones_like(span.low), k.span.low.shape, span.low.shape, norm), k.constant)
        for k in (a, b)
    ]
    return Known(span, best(a.point, b.point), side_by_side(parts, norm), None, None, slope)


def matrix_product(a: Known, b: Known, norm: str) -> Known:
    """A B over the last axes; axes before them broadcast only where both have them."""
    a, b = aligned([a, b])
    span, point = (ranges.matrix_product(x, y) for x, y in ((a.span, b.span), (a.point, b.point)))
    infinite = torch.full_like(a.constant, torch.inf)
    lead = torch.broadcast_shapes(a.span.low.shape[:-2], b.span.low.shape[:-2])
    if a.span.low.shape[:-2] != lead or b.span.low.shape[:-2] != lead:
        return Known(span, point, infinite)
    return Known(span, point, product_of_matrices(a, b, norm))


def product_of_matrices(a: Known, b: Known, norm: str) -> Tensor:
    """Constant (B,) of A B, of as many matrices each."""
    sums = {"l2": (None, None), "linf": (-2, -1), "l1": (-1, -2)}[norm]
    sizes = [_matrix_size(own.span.size(), axis) for own, axis in zip((b, a), sums, strict=True)]
    parts = [times(sizes[0], a.constant), times(sizes[1], b.constant)]
    return together(parts, [a.depends, b.depends], norm)


def _matrix_size(size: Tensor, axis: int | None) -> Tensor:
    """Largest sum (B,) over an axis of entries up to ``size``; the largest l2 norm without one."""
    if axis is None:
        return _spectral(size)
    return round_up(size.sum(axis), size.shape[axis]).flatten(1).amax(1)


def _spectral(size: Tensor) -> Tensor:
    """Largest l2 norm (B,) of matrices (..., m, n) with entries up to ``size``."""
    rows = round_up(size.sum(-1).amax(-1), size.shape[-1])
    columns = round_up(size.sum(-2).amax(-1), size.shape[-2])
    return (
        round_up((rows * columns).sqrt(), 4).flatten(1).amax(1)
        if size.ndim > 3
        else round_up((rows * columns).sqrt(), 4)
    )


def weight(size: Tensor, own: torch.Size, shape: torch.Size, norm: str) -> Tensor:
    """Largest length (B,) of what multiplies one entry of a value of shape ``own``."""
    size = size.expand(shape)
    axes = [i for i in range(1, len(shape)) if own[i] == 1 and shape[i] > 1]
    if axes and norm != "linf":
        count = 1
        for i in axes:
            count *= shape[i]
        power = 2 if norm == "l2" else 1
        total = round_up((size**power).sum(axes, keepdim=True), count + 2)
        size = round_up(total.sqrt(), 2) if norm == "l2" else total
    return size.flatten(1).amax(1)


def added(a: Slope, b: Slope) -> Slope:
    """Every sum of two Jacobians."""
    center = a.center + b.center
    size = a.center.abs() + b.center.abs()
    return Slope(center, round_up(a.radius + b.radius + gamma(2) * size, 3))

"""Intervals that hold every Jacobian behind a normalisation, a softmax and a matrix product.

With dx within C +- R and the factors' values within m +- r (:func:`elementwise.scaled`):

- normalisation: d(gamma z) = gamma / s (P dx - z (z' dx) / d), see :mod:`tokens`;
- softmax: dp = p dx - p (p' dx);
- A B: dA B + A dB; attention is a product, a softmax and another product.
"""

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.graph.elementwise import added, scaled
from lipdescent.bounds.graph.known import Slope
from lipdescent.bounds.graph.ranges import Range


def normalised(slope: Slope, z: Range, inverse: Range, weight: Tensor, *, centred: bool) -> Slope:
    """Of groups of d numbers: slope (B, n, groups, d), z (B, groups, d), 1 / s (B, groups, 1).

    ``weight`` broadcasts with (groups, d).
    """
    d = slope.center.shape[-1]
    middle, half = z.middle()
    along = scaled(slope, middle, half)
    mean = _mean(along)
    both = scaled(
        Slope(*(t.expand_as(slope.center) for t in (mean.center, mean.radius))), middle, half
    )
    about = slope
    if centred:
        own = _mean(slope)
        about = added(slope, Slope(-own.center, own.radius))
    total = added(about, Slope(-both.center, both.radius))
    middle, half = inverse.middle()
    factor = middle * weight
    reach = round_up(half * weight.abs() + gamma(2) * factor.abs(), 3)
    shape = (len(middle), *slope.center.shape[2:3], d)
    return scaled(total, factor.expand(shape), reach.expand(shape))


def _mean(slope: Slope) -> Slope:
    """Mean over the last axis, which stays with length 1."""
    d = slope.center.shape[-1]
    center = slope.center.mean(-1, keepdim=True)
    size = slope.center.abs().mean(-1, keepdim=True)
    radius = slope.radius.mean(-1, keepdim=True) + gamma(d + 4) * size
    return Slope(center, round_up(radius, d + 4))


def softmax(slope: Slope, p: Range, axis: int) -> Slope:
    """p in its range (B, *shape), ``axis`` counted with the axis of regions."""
    middle, half = p.middle()
    along = scaled(slope, middle, half)
    count = along.center.shape[axis + 1]
    size = along.center.abs().sum(axis + 1, keepdim=True)
    radius = along.radius.sum(axis + 1, keepdim=True) + gamma(count + 2) * size
    center = along.center.sum(axis + 1, keepdim=True)
    shape = along.center.shape
    total = Slope(center.expand(shape), round_up(radius, count + 4).expand(shape))
    other = scaled(total, middle, half)
    return added(along, Slope(-other.center, other.radius))


def matrix_product(a: tuple[Range, Slope], b: tuple[Range, Slope]) -> Slope:
    """Of values (B, ..., m, k) and (B, ..., k, l)."""
    left = _times(a[1], b[0], right=True)
    right = _times(b[1], a[0], right=False)
    return added(left, right)


def _times(slope: Slope, own: Range, *, right: bool) -> Slope:
    middle, half = (t[:, None] for t in own.middle())

    def product(x: Tensor, y: Tensor) -> Tensor:
        return x @ y if right else y @ x

    size = slope.center.abs()
    radius = product(size, half) + product(slope.radius, middle.abs() + half)
    k = middle.shape[-2 if right else -1]
    radius = radius + gamma(k + 2) * product(size, middle.abs())
    return Slope(product(slope.center, middle), round_up(radius + 2.0**-1000, 2 * k + 8))


def transposed(slope: Slope) -> Slope:
    """Of the value with its last two axes exchanged."""
    return Slope(slope.center.transpose(-1, -2), slope.radius.transpose(-1, -2))


def finite(*ranges: Range) -> bool:
    """Whether the values are bounded: infinity times 0 is no number."""
    return all(bool(torch.isfinite(r.low).all() & torch.isfinite(r.high).all()) for r in ranges)

"""Interval arithmetic on tensors, rounded outwards: the values that a vertex may take.

Notation and rounding as in :mod:`lipdescent.arithmetic.ulps`. An end may be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import TINY, gamma, round_down, round_up


@dataclass(frozen=True)
class Range:
    """low <= value <= high, entry by entry; float64 (B, *shape)."""

    low: Tensor
    high: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.low.shape

    def size(self) -> Tensor:
        """Largest absolute values, entry by entry."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def middle(self) -> tuple[Tensor, Tensor]:
        """A middle, finite, and how far the ends are from it, rounded up, perhaps infinite."""
        middle = self.low / 2 + self.high / 2
        middle = torch.where(middle.isfinite(), middle, 0.0)
        half = torch.maximum(self.high - middle, middle - self.low)
        return middle, torch.where(half == 0, half, round_up(half))

    def each(self, function: Callable[[Tensor], Tensor]) -> Range:
        """An operation that only moves entries, or one that is monotone and exact."""
        return Range(function(self.low), function(self.high))

    def meet(self, other: Range) -> Range:
        """The values in both."""
        return Range(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high))


def around(center: Tensor, radius: Tensor) -> Range:
    """[center - radius, center + radius], rounded outwards; what is no number is unbounded."""
    low, high = round_down(center - radius), round_up(center + radius)
    low = torch.where(low.isnan(), -math.inf, low)
    return Range(low, torch.where(high.isnan(), math.inf, high))


def summed(ranges: Sequence[Range], factors: Sequence[float]) -> Range:
    """Sum of factor times value; shapes broadcast."""
    middle, radius = torch.zeros(()), torch.zeros(())
    size = torch.zeros(())
    for own, factor in zip(ranges, factors, strict=True):
        m, r = own.middle()
        middle, radius = middle + factor * m, radius + abs(factor) * r
        size = size + abs(factor) * m.abs()
    count = len(ranges) + 2
    return around(middle, round_up(radius + gamma(count) * size, 2 * count))


def added(a: Range, number: Tensor) -> Range:
    """A number more, entry by entry."""
    exact = number == 0
    low, high = a.low + number, a.high + number
    return Range(torch.where(exact, low, round_down(low)), torch.where(exact, high, round_up(high)))


def product(a: Range, b: Range) -> Range:
    """Entry by entry; 0 times what is unbounded is 0."""
    ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    ends = [torch.where(end.isnan(), 0.0, end) for end in ends]
    stacked = torch.stack(torch.broadcast_tensors(*ends))
    low, high = stacked.amin(0), stacked.amax(0)
    exact = (low == 0) & (high == 0)
    return Range(torch.where(exact, low, round_down(low)), torch.where(exact, high, round_up(high)))


def reciprocal(a: Range) -> Range:
    """1 / value; unbounded where 0 is among the values."""
    safe = (a.low > 0) | (a.high < 0)
    low, high = round_down(1 / a.high), round_up(1 / a.low)
    return Range(torch.where(safe, low, -math.inf), torch.where(safe, high, math.inf))


def matrix_product(a: Range, b: Range) -> Range:
    """a @ b. With middles m and radii r: |ab - m_a m_b| <= |m_a| r_b + r_a (|m_b| + r_b)."""
    (ma, ra), (mb, rb) = a.middle(), b.middle()
    k = ma.shape[-1]
    size = ma.abs() @ mb.abs()
    radius = ma.abs() @ rb + ra @ (mb.abs() + rb)
    return around(ma @ mb, round_up(radius + gamma(k + 2) * size + k * TINY, 2 * k + 6))


def lengths(own: Range) -> Tensor:
    """Upper bounds of the l2 lengths along the last axis: (B, *shape[:-1])."""
    size = own.size()
    total = round_up(size.square().sum(-1), size.shape[-1] + 2)
    return round_up(total.sqrt(), 2)

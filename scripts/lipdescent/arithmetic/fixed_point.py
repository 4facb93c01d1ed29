"""Tensors of numbers with as many digits as are wanted, whose sums of products are exact.

A number is a sum of limbs. The limb of level l is a multiple of 2^(-b l), at most 2^(b - 1) times
that; b is ``bits``. Products of two limbs of levels i and j are multiples of 2^(-b (i + j)), and a
sum of at most T of them is below T 2^(2 b - 2) such units: if that is below 2^53, float64 has it
without any rounding, in whichever order it is summed, fused or not (the splitting of Ozaki et al.
2012, Numer. Algorithms 59, 95-118). So matrix products and convolutions of limbs are those of
float64, and exact. What is rounded is said: limbs behind the last one that is kept.

The limbs behind level l add up to at most 2^(-b l) / 2 (1 + 2^(2 - b)) < 2^(-b l): the sign of a
number is that of its first limb that is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import gamma

_RANGE = 450  # bits before and behind the point: a product of two neither over- nor underflows


@dataclass(frozen=True)
class Fixed:
    """Limbs of consecutive levels, from ``first`` on: float64 tensors of one shape."""

    limbs: list[Tensor]
    first: int
    bits: int

    @property
    def shape(self) -> torch.Size:
        return self.limbs[0].shape

    def map(self, function: Callable[[Tensor], Tensor]) -> Fixed:
        """What chooses, moves or negates entries, limb by limb."""
        return replace(self, limbs=[function(limb) for limb in self.limbs])

    def levels(self) -> Iterator[tuple[int, Tensor]]:
        return enumerate(self.limbs, self.first)

    def unit(self) -> float:
        """Of the last limb."""
        return 2.0 ** (-self.bits * (self.first + len(self.limbs) - 1))

    def value(self) -> Tensor:
        """The numbers in float64, to within :meth:`rounding`; their signs are right.

        From the last limb on: what is added so far is less than the next limb that is not 0.
        """
        total = torch.zeros_like(self.limbs[0])
        for limb in reversed(self.limbs):
            total = total + limb
        return total

    def rounding(self) -> Tensor:
        """Bound on the error of each entry of :meth:`value`."""
        size = sum((limb.abs() for limb in self.limbs), torch.zeros_like(self.limbs[0]))
        return gamma(2 * len(self.limbs) + 2) * size


def bits_for(terms: int, limbs: int) -> int:
    """Bits of a limb such that sums of ``terms`` products, and all pairs of limbs, are exact."""
    return (52 - math.ceil(math.log2(max(1, terms) * max(1, limbs)))) // 2


def fixed(x: Tensor, bits: int, limbs: int) -> tuple[Fixed, float]:
    """Finite float64 numbers, and a bound on what more than ``limbs`` limbs would hold of each.

    Raises
    ------
    OverflowError
        For numbers whose limbs leave float64's range.
    """
    exponent = int(torch.frexp(x.abs().amax())[1])
    first = (bits - 1 - exponent) // bits
    _check(first, first + limbs, bits)
    found: list[Tensor] = []
    for level in range(first, first + limbs):
        unit = 2.0 ** (-bits * level)
        found.append(torch.round(x / unit) * unit)
        x = x - found[-1]
        if not bool(x.any()):
            break
    return Fixed(found, first, bits), float(x.abs().amax())


def whole(numbers: list[int], last: int, bits: int, like: Tensor) -> Fixed:
    """Whole numbers of units of level ``last``: (len(numbers),)."""
    half, base = 1 << (bits - 1), 1 << bits
    digits: list[list[int]] = []
    while any(numbers):
        digits.append([(n + half) % base - half for n in numbers])
        numbers = [(n - d) // base for n, d in zip(numbers, digits[-1], strict=True)]
    digits = digits or [[0] * len(numbers)]
    first = last - len(digits) + 1
    _check(first, last, bits)
    levels = enumerate(reversed(digits), first)
    return Fixed([like.new_tensor(d) * 2.0 ** (-bits * level) for level, d in levels], first, bits)


def carried(sums: Mapping[int, Tensor], bits: int, limbs: int) -> tuple[Fixed, float]:
    """Limbs of sums by level, each below 2^52 units, and a bound on what is cut off of each entry.

    Half a unit too much goes to the level above, and so on.
    """
    lowest, highest = max(sums), min(sums)
    like = sums[lowest]
    found: list[Tensor] = []
    carry, level = torch.zeros_like(like), lowest
    while level >= highest or bool(carry.any()):
        total = sums[level] + carry if level in sums else carry
        above = 2.0 ** (-bits * (level - 1))
        carry = torch.round(total / above) * above
        found.append(total - carry)
        level -= 1
    found.reverse()
    first = level + 1
    while len(found) > 1 and not bool(found[0].any()):
        found, first = found[1:], first + 1
    number = Fixed(found[:limbs], first, bits)
    _check(first, first + len(number.limbs), bits)
    return number, number.unit() if len(found) > limbs else 0.0


def added(*terms: Fixed, limbs: int) -> tuple[Fixed, float]:
    """Sum of numbers (broadcast), and a bound on what is cut off of each entry."""
    sums: dict[int, Tensor] = {}
    for term in terms:
        for level, limb in term.levels():
            sums[level] = sums[level] + limb if level in sums else limb
    shape = torch.broadcast_shapes(*(limb.shape for limb in sums.values()))
    return carried({k: s.expand(shape) for k, s in sums.items()}, terms[0].bits, limbs)


def multiplied(
    a: Fixed, b: Fixed, product: Callable[[Tensor, Tensor], Tensor], *, limbs: int
) -> tuple[Fixed, float]:
    """A bilinear ``product`` of two numbers, and a bound on what is cut off of each entry.

    ``bits`` are those of :func:`bits_for` its number of terms and the limbs of a and b.
    """
    sums: dict[int, Tensor] = {}
    for i, left in a.levels():
        for j, right in b.levels():
            part = product(left, right)
            sums[i + j] = sums[i + j] + part if i + j in sums else part
    return carried(sums, a.bits, limbs)


def side_by_side(parts: list[Fixed], dim: int) -> Fixed:
    """Concatenation along ``dim``."""
    first = min(part.first for part in parts)
    last = max(part.first + len(part.limbs) for part in parts)
    rows = []
    for level in range(first, last):
        own = [dict(part.levels()).get(level, torch.zeros_like(part.limbs[0])) for part in parts]
        rows.append(torch.cat(own, dim))
    return Fixed(rows, first, parts[0].bits)


def _check(first: int, last: int, bits: int) -> None:
    if not -_RANGE < bits * first <= bits * last < _RANGE:
        raise OverflowError(f"limbs of {bits} bits of the levels {first} to {last} leave float64")

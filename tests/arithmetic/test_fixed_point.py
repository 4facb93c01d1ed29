"""Numbers of many limbs, against whole numbers and fractions of Python."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipdescent.arithmetic.fixed_point import (
    Fixed,
    added,
    bits_for,
    fixed,
    multiplied,
    side_by_side,
    whole,
)

BITS = 18


def exact(number: Fixed) -> list[Fraction]:
    """Each entry as a fraction; limbs are multiples of their units, and no larger than half."""
    total = [Fraction(0)] * number.limbs[0].numel()
    for level, limb in number.levels():
        unit = Fraction(2) ** (-number.bits * level)
        for i, value in enumerate(map(Fraction, limb.flatten().tolist())):
            assert (value / unit).denominator == 1
            assert abs(value / unit) <= 2 ** (number.bits - 1)
            total[i] += value
    return total


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(-30, 30, shape, generator=generator).double()
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2.0**size


@pytest.mark.parametrize("limbs", [1, 2, 12])
def test_numbers_and_what_is_lost_of_them(limbs):
    x = drawn(200)
    number, lost = fixed(x, BITS, limbs)
    off = [abs(a - Fraction(b)) for a, b in zip(exact(number), x.tolist(), strict=True)]
    assert max(off) <= lost
    assert (lost == 0) == (limbs == 12)
    apart = (number.value() - x).abs() <= number.rounding() + lost
    assert bool(apart.all())


@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=5), st.integers(-3, 9))
def test_whole_numbers(numbers, last):
    like = torch.zeros((), dtype=torch.float64)
    unit = Fraction(2) ** (-BITS * last)
    assert exact(whole(numbers, last, BITS, like)) == [n * unit for n in numbers]


@given(st.integers(0, 2**32))
def test_sums_products_and_their_signs(seed):
    a, _ = fixed(drawn(3, 5, seed=seed), BITS, 12)
    b, _ = fixed(drawn(5, 2, seed=seed + 1), BITS, 12)
    c, _ = fixed(drawn(3, 2, seed=seed + 2), BITS, 12)
    product, cut = multiplied(a, b, torch.matmul, limbs=40)
    assert cut == 0.0
    left, right = exact(a), exact(b)
    truth = [
        sum(left[5 * i + k] * right[2 * k + j] for k in range(5))
        for i in range(3)
        for j in range(2)
    ]
    assert exact(product) == truth
    total, cut = added(product, c.map(torch.neg), limbs=40)
    truth = [t - s for t, s in zip(truth, exact(c), strict=True)]
    assert exact(total) == truth
    assert cut == 0.0
    short, cut = added(product, c.map(torch.neg), limbs=3)
    assert all(abs(s - t) <= cut for s, t in zip(exact(short), truth, strict=True))
    signs = torch.tensor([(t > 0) - (t < 0) for t in truth], dtype=torch.float64)
    assert torch.equal(total.value().sign().flatten(), signs)


def test_signs_of_differences_that_float64_does_not_see():
    one = torch.ones(1, dtype=torch.float64)
    tiny, _ = fixed(one * 2.0**-200, BITS, 3)
    large, _ = fixed(one * (2.0**60 + 2.0**20), BITS, 9)
    above, _ = added(large, tiny, limbs=40)
    for sign in (1.0, -1.0):
        apart, cut = added(
            above.map(lambda t, s=sign: t * s), large.map(lambda t, s=sign: -t * s), limbs=40
        )
        assert cut == 0.0
        assert float(apart.value()) == sign * 2.0**-200


def test_side_by_side_of_numbers_of_different_sizes():
    parts = [fixed(drawn(2, n, seed=n) * 2.0 ** (40 * n), BITS, 12)[0] for n in (1, 3)]
    both = side_by_side(parts, 1)
    assert both.shape == (2, 4)
    assert exact(both.map(lambda t: t[:, 1:])) == exact(parts[1])
    assert exact(both.map(lambda t: t[:, :1])) == exact(parts[0])


@pytest.mark.parametrize(("terms", "limbs"), [(1, 1), (4608, 9), (25088, 20)])
def test_the_longest_sum_of_the_largest_limbs_is_exact(terms, limbs):
    bits = bits_for(terms, limbs)
    assert terms * limbs * 2 ** (2 * bits - 2) < 2**52
    assert terms * limbs * 2 ** (2 * bits + 2) > 2**51


def test_numbers_out_of_range_are_refused():
    with pytest.raises(OverflowError, match="leave float64"):
        fixed(torch.tensor([1e200], dtype=torch.float64), BITS, 4)

"""float64 rounded up and down, and scaled by powers of two.

Notation: u = 2^-53, gamma(k) = k u / (1 - k u), the relative error after k roundings (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, lemma 3.1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-53
TINY = 2.0**-1074  # the smallest positive float64: a result that underflows is off by at most half
_EPS = 2.0**-52
_INFINITE = torch.tensor(torch.inf, dtype=torch.float64)  # on every device: it has no axes


def gamma(k: int) -> float:
    """Upper bound of k u / (1 - k u): the relative error after k roundings."""
    if not 0 <= k < 2**50:
        raise ValueError(f"gamma({k}): allowed are 0 to 2^50 roundings")
    return k * UNIT_ROUNDOFF / (1 - k * UNIT_ROUNDOFF) * (1 + 4 * _EPS)


def round_up(x: Tensor, ulps: int = 1) -> Tensor:
    """A number at least x + ``ulps`` units in the last place, for float64 of either sign.

    It exceeds the true value of any x computed by at most ``ulps`` roundings of relative size u.
    """
    x = x.to(torch.float64)
    y = x + (x.abs() * (ulps * _EPS) + ulps * TINY)
    return torch.nextafter(y, _INFINITE)


def round_down(x: Tensor, ulps: int = 1) -> Tensor:
    """A number at most x - ``ulps`` units in the last place, for float64 of either sign."""
    return -round_up(-x, ulps)


def product_up(factors: Sequence[Tensor]) -> Tensor:
    """Product of non-negative float64 tensors of one shape, rounded up, free of under/overflow.

    0 exactly where a factor is 0.
    """
    total, power = torch.frexp(factors[0])
    power = power.to(torch.int64)
    for factor in factors[1:]:
        mantissa, exponent = torch.frexp(factor)
        total, carry = torch.frexp(total * mantissa)
        power = power + exponent + carry
    total = round_up(total, len(factors))
    total = torch.where(power > 1100, torch.inf, unscaled_up(total, power.clamp(-1100, 1100)))
    zero = torch.stack([factor == 0 for factor in factors]).any(0)
    return torch.where(zero, 0.0, total)


def scaled_to_one(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix / 2^exponent with its largest entry in [1/2, 1), and the exponents (...).

    Exact but for entries below 2^-1022 of the largest.
    """
    exponent = torch.frexp(matrix.abs().amax((-1, -2)))[1].to(torch.int64)
    return times_power(matrix, -exponent[..., None, None]), exponent


def times_power(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent; exact unless it leaves the normal range."""
    # torch.ldexp takes the power in float32. Three factors, as one may leave float64's range: of
    # the thirds floor((e + i) / 3), i = 0, 1, 2, whose sum is e, with the bits of their powers.
    # Beyond 2190 every float64 but 0 has left it, whatever it was.
    biased = torch.arange(3 * 1023, 3 * 1023 + 3, device=exponent.device)  # i, and the bias thrice
    thirds = exponent.clamp(-2190, 2190)[..., None] + biased
    powers = torch.div(thirds, 3, rounding_mode="floor") << 52
    for factor in powers.view(torch.float64).unbind(-1):
        x = x * factor
    return x


def unscaled_up(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent, one ulp up unless it is exactly 0."""
    y = times_power(x, exponent)
    return torch.where(x == 0, y, round_up(y))

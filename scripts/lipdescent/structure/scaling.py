"""Networks scaled by powers of two into float64's range, with what is lost on the way.

For bounds that only know slopes: the Jacobian W_L S_{L-1} ... S_1 W_1 scales with every layer, and
with every hidden unit (row of W_i up, column of W_{i+1} down). Scaling is exact unless an entry
falls below 2^-1022, where it rounds by at most 2^-1075, or vanishes. Two rules follow:

- a unit is dead if all its incoming or all its outgoing weights, or those of all its neighbours,
  are exactly zero *before* any scaling;
- every entry that has changed adds 2^-1074 times the sizes of all other layers and of the steepest
  slopes to a bound ("lost"). Exactly 0 for networks of ordinary weights.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import TINY, product_up, round_up, scaled_to_one, times_power
from lipdescent.shapes import Float64, Int64
from lipdescent.structure.slope_intervals import Interval

_ORDINARY = 4.0  # slopes between a quarter and this stay as they are
_FAR = 200  # exponents by which units may differ before they are moved together once more


class Scaled(NamedTuple):
    """A chain whose bound in the units of the given one is 2^exponent (bound + lost).

    ``weights`` float64 (S, width_i, width_{i-1}) each, ``slopes`` at most 4 in size, ``exponent``
    int64 (S,), ``lost`` float64 (S,), which holds in l1, l2 and l_inf alike.
    """

    weights: list[Tensor]
    slopes: list[Interval]
    exponent: Tensor
    lost: Tensor


class Units(NamedTuple):
    """One hidden layer with unit k's weights p_k and q_k of about equal length.

    ``rows`` (S, w, n_in) and ``columns`` (S, w, n_out) hold them; 2^exponent is what a bound must
    be multiplied by; ``lost`` (S,) is to be added before, times the steepest slope. ``shift``
    (S, w): rows were multiplied and columns divided by 2^shift, after both layers were scaled to
    largest entries in [1/2, 1) and beside a common power of two. Dead units are 0 in both.
    """

    rows: Tensor
    columns: Tensor
    shift: Tensor
    exponent: Tensor
    lost: Tensor


def without_dead(weights: Sequence[Tensor]) -> list[Tensor]:
    """The same weights, with zeros for all those of units that no path leads through."""
    live = [torch.ones_like(weights[0][:, 0], dtype=torch.bool)]
    for weight in weights:
        live.append(((weight != 0) & live[-1][:, None]).any(-1))
    for i in range(len(weights) - 1, -1, -1):
        live[i] = live[i] & ((weights[i] != 0) & live[i + 1][..., None]).any(-2)
    return [
        torch.where(live[i + 1][..., None] & live[i][:, None], weight, 0.0)
        for i, weight in enumerate(weights)
    ]


def scaled_slopes(slopes: Sequence[Interval]) -> tuple[list[Interval], int]:
    """Intervals with steepest slopes in [1/4, 4], and the exponent of their product's scale."""
    found, total = [], 0
    for low, high in slopes:
        steep = max(abs(low), abs(high))
        power = 0 if 1 / _ORDINARY <= steep <= _ORDINARY or steep == 0 else math.frexp(steep)[1]
        small = [math.ldexp(slope, -power) for slope in (low, high)]
        if math.ldexp(small[0], power) != low:
            small[0] = math.nextafter(small[0], -math.inf)
        if math.ldexp(small[1], power) != high:
            small[1] = math.nextafter(small[1], math.inf)
        found.append((small[0], small[1]))
        total += power
    return found, total


def scaled_chain(
    weights: Sequence[Tensor], slopes: Sequence[Interval], powers: Sequence[Tensor] | None = None
) -> Scaled:
    """Every layer scaled to a largest entry in [1/2, 1), dead units to 0.

    ``powers``: one int64 (S, width_i) per hidden layer, by which its units are scaled before.
    """
    small, changed, total = [], [], torch.zeros(len(weights[0]), dtype=torch.int64)
    total = total.to(weights[0].device)
    plain = without_dead(weights)
    for i, weight in enumerate(plain):
        own = torch.zeros_like(total)[:, None, None]
        if powers is not None:
            own = own + (powers[i][..., None] if i < len(powers) else 0)
            own = own - (powers[i - 1][:, None] if i else 0)
        exponent = _largest_exponent(weight, own)
        scaled, off = times_power_counted(weight, own - exponent[:, None, None])
        small.append(scaled)
        changed.append(off)
        total = total + exponent
    slopes, power = scaled_slopes(slopes)
    return Scaled(small, slopes, total + power, lost_paths(small, changed, slopes))


def times_power_counted(
    x: Float64[Tensor, "*models m n"], exponent: Int64[Tensor, " ..."]
) -> tuple[Float64[Tensor, "*models m n"], Float64[Tensor, "*models"]]:
    """x 2^exponent for matrices (..., m, n), and how many of their entries changed: (...).

    Changed entries are off by at most 2^-1074 unless they overflow, which they must not.
    """
    exponent = exponent.clamp(-2190, 2190)
    scaled = times_power(x, exponent)
    changed = times_power(scaled, -exponent) != x
    return scaled, changed.to(torch.float64).sum((-1, -2))


def lost_paths(
    weights: Sequence[Tensor], changed: Sequence[Tensor], slopes: Sequence[Interval]
) -> Tensor:
    """What ``changed`` (S,) entries per layer, off by 2^-1074 each, may add to a bound: (S,).

    By telescoping: e_i times the product of all other layers' norms, each at most the sum of its
    absolute entries, in l1, l2 and l_inf.
    """
    total = torch.zeros_like(changed[0])
    if not any(bool(count.any()) for count in changed):
        return total
    sizes = [
        round_up(w.abs().sum((-1, -2)) + c * TINY, w[0].numel() + 2)
        for w, c in zip(weights, changed, strict=True)
    ]
    steep = [torch.full_like(total, max(abs(a), abs(b))) for a, b in slopes]
    for i, count in enumerate(changed):
        others = [size for j, size in enumerate(sizes) if j != i]
        total = total + product_up([count * TINY, *others, *steep])
    return torch.where(total > 0, round_up(total, len(weights)), total)


def balanced(
    first: Float64[Tensor, "models units inputs"], second: Float64[Tensor, "models outputs units"]
) -> Units:
    """The units of second . phi . first, float64 (S, w, n_in) and (S, n_out, w)."""
    first, second = without_dead([first, second])
    rows, columns = first, second.mT
    e_row, e_column = scaled_to_one(rows)[1], scaled_to_one(columns)[1]
    (unit, f_row), (unit_column, f_column) = (
        scaled_to_one(x[..., None, :]) for x in (rows, columns)
    )
    live = (rows != 0).any(-1)
    # Lengths relative to the layer's largest entry: |p_k| = length 2^offset.
    length, length_column = (u[..., 0, :].norm(dim=-1) for u in (unit, unit_column))
    offset = (f_column - e_column[:, None]) - (f_row - e_row[:, None])
    half = torch.div(offset, 2, rounding_mode="floor")
    ratio = torch.where(live, length_column, 1.0) / torch.where(live, length, 1.0)
    ratio = torch.where(offset % 2 == 1, 2 * ratio, ratio)
    shift = torch.where(live, torch.frexp(ratio.sqrt())[1].to(torch.int64) + half, 0)
    # Where every unit is small in one of its two sides: all of them up.
    gain = torch.where(live, f_row + f_column, -(2**20)).amax(1) - e_row - e_column
    common = torch.where(
        (gain < -_FAR) & live.any(1), -torch.div(gain, 2, rounding_mode="floor"), 0
    )
    both = common[:, None]
    rows, off = times_power_counted(rows, (shift + both - e_row[:, None])[..., None])
    columns, off_column = times_power_counted(
        columns, (-shift + both - e_column[:, None])[..., None]
    )
    lost = lost_paths([rows, columns], [off, off_column], [])
    return Units(rows, columns, shift, e_row + e_column - 2 * common, lost)


def with_lost(
    bound: Float64[Tensor, "*models"], lost: Float64[Tensor, "*lost"]
) -> Float64[Tensor, "*models"]:
    """bound + lost, rounded up; the bound itself where nothing was lost."""
    return torch.where(lost > 0, round_up(bound + lost), bound)


def _largest_exponent(weight: Tensor, own: Tensor) -> Tensor:
    """e with largest |weight| 2^own in [2^(e-1), 2^e), 0 for a zero matrix: int64 (S,)."""
    exponents = torch.frexp(weight)[1].to(torch.int64) + own
    largest = torch.where(weight != 0, exponents, -(2**20)).amax((-1, -2))
    return torch.where((weight != 0).any(-1).any(-1), largest, 0)

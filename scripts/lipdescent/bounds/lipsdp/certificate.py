"""From multipliers to a certified l2 bound of a deep chain: the LipSDP matrix inequality.

Let v = z_0 be a difference of inputs, z_i those of the hidden units and x_i = W_i z_{i-1}. Slopes
in [m_i - r_i, m_i + r_i] mean (z_i - m_i x_i)_k^2 <= r_i^2 (x_i)_k^2, so for T >= 0 and F > 0 the
quadratic form (Fazlyab et al. 2019, arXiv 1906.04893, theorem 2)

    H = |v|^2 + sum_ik T_ik [(z_i - m_i x_i)_k^2 - r_i^2 (x_i)_k^2] - |W_L z_{L-1}|^2 / F

is at most |v|^2 - |output|^2 / F. If H >= -e I, then

    |output|^2 <= F (|v|^2 + e sum_i |z_i|^2) <= F (1 + e sum_i B_i^2) |v|^2,

where B_i is the layer product up to z_i. So nothing needs to be exact: e is what
:func:`certified_max_eigenvalue` says of -H, and every choice of T >= 0 and F > 0 gives a bound.
"""

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import (
    certified_max_eigenvalue,
    certified_spectral_norm,
    norm_frobenius,
)
from lipdescent.arithmetic.ulps import gamma, round_up, scaled_to_one, times_power
from lipdescent.structure.scaling import (
    Scaled,
    lost_paths,
    scaled_chain,
    times_power_counted,
    without_dead,
)
from lipdescent.structure.slope_intervals import Interval, recentred


def normalised(weights: list[Tensor], slopes: list[Interval], *, balance: bool = False) -> Scaled:
    """The chain with spectral norms in (1/4, 1] by powers of two, dead units set to 0.

    With ``balance`` every hidden unit is first rescaled to incoming and outgoing weights of about
    the same length, which changes no Jacobian either.
    """
    plain = without_dead(weights)
    small = [
        scaled_to_one(weight)[0] for weight in plain
    ]  # only to measure, so losses do not matter
    powers = [torch.zeros_like(w[:, :, 0], dtype=torch.int64) for w in small[:-1]]
    for i in range(1, len(small) if balance else 0):
        ratio = small[i].norm(dim=1) / small[i - 1].norm(dim=2)
        ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
        power = torch.frexp(ratio.sqrt())[1].to(torch.int64)
        small[i - 1] = times_power(small[i - 1], power[..., None])
        small[i] = times_power(small[i], -power[:, None])
        powers[i - 1] = power
    scaled = scaled_chain(plain, slopes, powers)
    total, more = scaled.exponent, []
    for weight in scaled.weights:
        more.append(torch.frexp(certified_spectral_norm(weight))[1].to(torch.int64))
        total = total + more[-1]
    shrunk, changed = zip(
        *[
            times_power_counted(weight, -own[:, None, None])
            for weight, own in zip(scaled.weights, more, strict=True)
        ],
        strict=True,
    )
    lost = times_power(scaled.lost, scaled.exponent - total)
    lost = torch.where(scaled.lost > 0, round_up(lost), 0.0)
    again = lost_paths(shrunk, changed, scaled.slopes)
    lost = torch.where(again > 0, round_up(lost + again), lost)
    return Scaled(list(shrunk), scaled.slopes, total, lost)


def chain_matrix(
    weights: list[Tensor], multipliers: list[Tensor], slopes: list[Interval]
) -> Tensor:
    """H without its last term, (S, N, N) with N = inputs + all hidden units."""
    sizes = [weights[0].shape[2], *(w.shape[1] for w in weights[:-1])]
    offsets = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    matrix = weights[0].new_zeros(len(weights[0]), offsets[-1], offsets[-1])
    matrix.diagonal(dim1=1, dim2=2)[:, : sizes[0]] = 1.0
    for i, (multiplier, interval) in enumerate(zip(multipliers, slopes, strict=True)):
        middle, radius = recentred(interval)
        before = slice(offsets[i], offsets[i + 1])
        after = slice(offsets[i + 1], offsets[i + 2])
        scaled = multiplier[..., None] * weights[i]
        matrix[:, before, before] += (middle**2 - radius**2) * (weights[i].mT @ scaled)
        matrix[:, after, before] -= middle * scaled
        matrix[:, before, after] -= middle * scaled.mT
        matrix.diagonal(dim1=1, dim2=2)[:, after] += multiplier
    return matrix


def certify_chain(
    weights: list[Tensor], multipliers: list[Tensor], slopes: list[Interval]
) -> Tensor:
    """Certified bound (S,) of a normalised chain; the multipliers (S, width_i) are positive."""
    matrix = chain_matrix(weights, multipliers, slopes)
    last, width = weights[-1], weights[-1].shape[2]
    lower = torch.linalg.cholesky_ex(matrix)[0]
    target = torch.nn.functional.pad(last.mT, (0, 0, matrix.shape[1] - width, 0))
    half = torch.linalg.solve_triangular(lower, target, upper=False).nan_to_num(1.0, 1.0, 1.0)
    value = torch.linalg.matrix_norm(half, 2).square() * (1 + 1e-13) + 1e-280
    matrix[:, -width:, -width:] -= last.mT @ last / value[:, None, None]
    norms = [norm_frobenius(weight) for weight in weights]
    size = norms[-1].square() / value + 1.0
    reach, reaches = torch.ones_like(value), torch.ones_like(value)
    for norm, multiplier, interval in zip(norms, multipliers, slopes, strict=False):
        middle, radius = recentred(interval)
        size = (
            size + multiplier.amax(1) * (abs(middle) + (abs(middle) + radius) * norm + 1).square()
        )
        reach = reach * max(1.0, abs(middle) + radius)  # the norms of the weights are at most 1
        reaches = reaches + reach.square()
    # Each entry is a sum of at most width terms, each rounded a handful of times.
    error = round_up(gamma(max(w.shape[1] for w in weights) + 24) * size, 64)
    error = error + 2.0**-900 + 2.0**-1000 / value  # what underflows, in the last term before 1 / F
    slack = certified_max_eigenvalue(-matrix, error=round_up(error), guess=0.0).clamp_min(0.0)
    square = value * round_up(1 + round_up(slack * reaches, 4 * len(weights) + 8), 2)
    return round_up(round_up(square, 2).sqrt(), 2)

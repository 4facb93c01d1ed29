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

from __future__ import annotations

import torch
from torch import Tensor

from ._rounding import (
    certified_max_eigenvalue,
    certified_spectral_norm,
    gamma,
    norm_frobenius,
    round_up,
    scaled_to_one,
    times_power,
    unscaled_up,
)
from ._slopes import Interval, recentred


def normalised(weights: list[Tensor], *, balance: bool = False) -> tuple[list[Tensor], Tensor]:
    """Weights with spectral norm in (1/4, 1] by powers of two, dead units set to 0.

    Returns the weights and the exponents (S,) of what a bound must be multiplied by. A unit is dead
    if no path leads through it: it adds nothing to any Jacobian. With ``balance`` every hidden unit
    is first rescaled to incoming and outgoing weights of about the same length, which changes no
    Jacobian either.
    """
    live = [torch.ones_like(weights[0][:, 0], dtype=torch.bool)]
    for weight in weights:
        live.append(((weight != 0) & live[-1][:, None]).any(-1))
    for i in range(len(weights) - 1, -1, -1):
        live[i] = live[i] & ((weights[i] != 0) & live[i + 1][..., None]).any(-2)
    total = torch.zeros_like(live[0][:, 0], dtype=torch.int64)
    small = []
    for i, weight in enumerate(weights):
        weight = torch.where(live[i + 1][..., None] & live[i][:, None], weight, 0.0)
        weight, exponent = scaled_to_one(weight)
        small.append(weight)
        total = total + exponent
    for i in range(1, len(small) if balance else 0):
        ratio = small[i].norm(dim=1) / small[i - 1].norm(dim=2)
        ratio = torch.where(live[i] & ratio.isfinite() & (ratio > 0), ratio, 1.0)
        power = torch.frexp(ratio.sqrt())[1].to(torch.int64)
        small[i - 1] = times_power(small[i - 1], power[..., None])
        small[i] = times_power(small[i], -power[:, None])
    for i, weight in enumerate(small):
        more = torch.frexp(certified_spectral_norm(weight))[1].to(torch.int64)
        small[i] = times_power(weight, -more[:, None, None])
        total = total + more
    return small, total


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
    error = round_up(gamma(max(w.shape[1] for w in weights) + 24) * size, 64) + 2.0**-1000
    slack = certified_max_eigenvalue(-matrix, error=round_up(error)).clamp_min(0.0)
    square = value * round_up(1 + round_up(slack * reaches, 4 * len(weights) + 8), 2)
    return round_up(round_up(square, 2).sqrt(), 2)


def unnormalise(bound: Tensor, weights: list[Tensor], exponent: Tensor) -> Tensor:
    """Bound of the given chain from that of the normalised one; 0 where a layer is all 0."""
    zero = torch.stack([(weight == 0).flatten(1).all(1) for weight in weights]).any(0)
    return torch.where(zero, 0.0, unscaled_up(bound, exponent))

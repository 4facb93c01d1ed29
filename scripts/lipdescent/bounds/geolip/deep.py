"""The SDP bounds of the logits of a deep network: GeoLIP's dual, at multipliers read off an ascent.

Wang, Prakriya & Jha, arXiv 2203.01212, sec. 5. z_0 is a difference of inputs and z_i that of the
outputs of hidden layer i. With s > 0 for every input, d = s^-1/2 and zeta = z_0 / d,
|zeta|^2 <= sum s wherever |z_0|_inf <= 1. So sqrt(sum s) times the l2 bound of the network that
has W_1 diag(d) in place of W_1, at any multipliers of its units, is a bound of a logit in l_inf,
and the least of these is GeoLIP's (for ReLU the recursion X_0 = diag(s),
X_i = L_i - L_i W_i X_{i-1}^-1 W_i^T L_i / 4 with value sqrt(sum s e^T X_L^-1 e)).

:mod:`lipdescent.bounds.geolip.ascent` gives s and the units' multipliers l, all but optimal. There
the matrix inequality is singular; with the multipliers of layer i divided by (1 + delta)^i it is
strict, for the smallest of some delta, at the cost of a factor of about 1 + delta. What follows is
:func:`lipdescent.bounds.lipsdp.certificate.certify_chain`: whatever the multipliers are, the bound
is valid.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, norm_frobenius
from lipdescent.arithmetic.ulps import TINY, gamma, round_up, times_power, unscaled_up
from lipdescent.bounds.geolip.ascent import Ascent
from lipdescent.bounds.lipsdp.certificate import certify_chain, chain_matrix, normalised
from lipdescent.bounds.lipsdp.momentum import CHECKS
from lipdescent.deadline import over
from lipdescent.shapes import Float64
from lipdescent.structure.scaling import with_lost
from lipdescent.structure.slope_intervals import Interval

_RANK = 12
_FIRST, _GROWTH, _LARGEST = 0.25, 4.0, 1e4  # delta, of the tolerance; factor; at most


def deep_sdp(
    weights: Sequence[Float64[Tensor, "problems out in"]],
    slopes: Sequence[Interval],
    *,
    norm: str = "linf",
    tolerance: float = 1e-4,
    max_iterations: int = 1024,
    per_layer: bool = False,
) -> tuple[Float64[Tensor, " problems"], Float64[Tensor, " problems"]]:
    """Certified upper bound of every chain, and the value that the ascent reached.

    Parameters
    ----------
    weights : float64 (P, w_i, w_{i-1}), at least one hidden layer; the outputs' norm is l2.
    slopes : of every hidden layer.
    norm : of the inputs, "linf" or "l2".
    tolerance : relative gap of the two results at which to stop.
    max_iterations : of the ascent; the bound is valid at any number.
    per_layer : one multiplier for all units of a layer: cheaper to solve, never below.

    Returns
    -------
    upper, value : float64 (P,). ``upper`` includes rounding; ``value`` does not.
    """
    small, slopes, exponent, lost = normalised(list(weights), list(slopes))
    tuned = partial(
        _solved, norm=norm, tolerance=tolerance, max_iterations=max_iterations, per_layer=per_layer
    )
    upper, value = tuned(small, slopes, rank=_RANK)
    size = small[0].shape[2] + sum(w.shape[1] for w in small[:-1])
    full = math.ceil(math.sqrt(2 * size)) + 1
    loose = ~(upper <= value * (1 + 4 * tolerance))
    if (
        full > _RANK and not per_layer and bool(loose.any()) and not over()
    ):  # few columns may end in a local maximum
        again, better = tuned([w[loose] for w in small], slopes, rank=full)
        upper[loose] = torch.minimum(upper[loose], again)
        value[loose] = torch.maximum(value[loose], better)
    upper = torch.where((small[-1] == 0).all(2).all(1), 0.0, upper)
    return unscaled_up(with_lost(upper, lost), exponent), times_power(value, exponent)


def _solved(
    weights: list[Tensor],
    slopes: list[Interval],
    *,
    norm: str,
    tolerance: float,
    max_iterations: int,
    rank: int,
    per_layer: bool,
) -> tuple[Tensor, Tensor]:
    ascent = Ascent(weights, slopes, norm=norm, rank=rank, per_layer=per_layer)
    best = torch.full_like(ascent.value, torch.inf)
    inputs, units = ascent.inputs, ascent.units
    for step in range(2, max_iterations + 1):
        ascent.step()
        if step not in CHECKS and step != max_iterations:
            continue
        found, shrunk = _shrunk(weights, slopes, ascent, norm, tolerance)
        better = found < best
        best = torch.where(better, found, best)
        inputs = torch.where(better[:, None], ascent.inputs, inputs)
        units = [torch.where(better[:, None], a, b) for a, b in zip(shrunk, units, strict=True)]
        if over() or bool((best <= ascent.value * (1 + tolerance)).all()):
            break
    return _certified(weights, slopes, inputs, units, norm), ascent.value


def _shrunk(
    weights: list[Tensor], slopes: list[Interval], ascent: Ascent, norm: str, tolerance: float
) -> tuple[Tensor, list[Tensor]]:
    """The bound (P,) in plain float64 for the smallest delta that has one, and its multipliers."""
    columns = _columns(weights[0], ascent.inputs)
    last = weights[-1]
    best = torch.full_like(ascent.value, torch.inf)
    units, length = ascent.units, _length(columns.scale, norm)
    delta = _FIRST * tolerance
    while delta < _LARGEST and bool((todo := best.isinf()).any()):
        smaller = [
            unit * columns.square[:, None] / (1 + delta) ** (i + 1)
            for i, unit in enumerate(ascent.units)
        ]
        chain = [columns.factor[todo], *(w[todo] for w in weights[1:])]
        matrix = chain_matrix(chain, [unit[todo] for unit in smaller], slopes)
        lower, info = torch.linalg.cholesky_ex(matrix)
        end = slice(-last.shape[2], None)
        half = torch.linalg.solve_triangular(lower[:, end, end], last[todo].mT, upper=False)
        found = torch.where(info == 0, _largest(half) * length[todo], torch.inf)
        best[todo] = found.nan_to_num(torch.inf)
        units = [torch.where(todo[:, None], a, b) for a, b in zip(smaller, units, strict=True)]
        delta *= _GROWTH
    return best, units


def _largest(matrix: Tensor) -> Tensor:
    """Spectral norms (P,), no proof."""
    if matrix.shape[2] == 1:
        return matrix.norm(dim=1)[:, 0]
    gram = (matrix.mT @ matrix).nan_to_num(torch.inf, torch.inf)
    finite = gram.isfinite().all(2).all(1)
    gram = torch.where(finite[:, None, None], gram, 0.0)
    return torch.where(finite, torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt(), torch.inf)


class Columns(NamedTuple):
    """W_1 diag(d) = factor K + E with norms of factor at most 1, of K ``stretch``, of E ``error``.

    ``factor`` (P, w, k) has as few columns k as it can; d is ``scale`` (P, n), s^-1/2 times the
    root of ``square`` (P,), a power of four by which the units' multipliers must be multiplied.
    """

    factor: Tensor
    scale: Tensor
    square: Tensor
    stretch: Tensor
    error: Tensor


def _columns(first: Tensor, inputs: Tensor) -> Columns:
    scale = inputs.rsqrt()
    wide = first * scale[:, None]
    error = gamma(2) * norm_frobenius(wide) + (first.shape[1] + 1) * wide[0].numel() * TINY
    factor, stretch = wide, torch.ones_like(error)
    if first.shape[2] > first.shape[1]:
        basis, triangle = torch.linalg.qr(wide.mT)
        factor, rest = triangle.mT, basis.mT
        stretch = certified_spectral_norm(rest)
        rounding = gamma(first.shape[1] + 4) * norm_frobenius(factor.abs() @ rest.abs())
        error = error + norm_frobenius(wide - factor @ rest) + rounding
    power = torch.frexp(norm_frobenius(factor))[1].to(torch.int64)
    error = round_up(error, first.shape[1] + 8) + factor[0].numel() * TINY
    error = round_up(times_power(error, -power) + factor[0].numel() * TINY)
    return Columns(
        times_power(factor, -power[:, None, None]),
        times_power(scale, -power[:, None]),
        times_power(torch.ones_like(error), 2 * power),
        stretch,
        error,
    )


def _length(scale: Tensor, norm: str) -> Tensor:
    """|zeta| at most, rounded up, for z_0 in the unit ball: (P,)."""
    if norm == "l2":
        return round_up(1 / scale.amin(1), 2)
    square = round_up((1 / scale).square().sum(1), scale.shape[1] + 4)
    return round_up(square.sqrt(), 2)


def _certified(
    weights: list[Tensor], slopes: list[Interval], inputs: Tensor, units: list[Tensor], norm: str
) -> Tensor:
    """The bound (P,) at these multipliers, rounding included; infinite where it has none."""
    columns = _columns(weights[0], inputs)
    bound = certify_chain([columns.factor, *weights[1:]], units, slopes)
    # All norms but the first layer's are at most 1.
    steep = math.prod(max(abs(low), abs(high)) for low, high in slopes)
    bound = round_up(bound * columns.stretch, 2) + round_up(columns.error * steep, 32)
    bound = round_up(round_up(bound) * _length(columns.scale, norm), 2)
    return bound.nan_to_num(torch.inf, torch.inf)

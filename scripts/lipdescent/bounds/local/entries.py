"""Bounds of all entries of a Jacobian, and its norm where few units are open.

|w_i| for a tangent along input j is at most W_ij = |P[j, i]| + sum_k |P[n+k, i]| W_kj, so that
|J_oj| <= |Y[j, o]| + sum_i |Y[n+i, o]| W_ij. In l_inf the norm is the largest row sum of that, in
l1 the largest column sum. There an error of a matrix is at most sqrt(n) or sqrt(outputs) times its
l2 norm.

With K open units of few, J is affine in each e_i, its norm convex in each: the largest is reached
where all e_i are -1 or 1. These 2^K matrices are computed unit by unit, w_i = e_i (r p)_i; rounding
changes an entry by at most gamma(K (n + K)) times the bound of entries above, as those use absolute
values of all the same terms.
"""

import math

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import NORMS, norm_frobenius
from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.local.tangents import Tangents, solution

FEW = 6  # open units: 64 matrices
# Stored are transposed Jacobians (inputs, outputs).
_TRANSPOSED = {"l2": "l2", "linf": "l1", "l1": "linf"}


def entry_bounds(system: Tangents) -> Tensor:
    """Upper bounds of the sizes of all entries, but for ``doubt``: (B, n, outputs)."""
    n = system.inputs
    noise = solution(system.hidden[:, n:].abs().mT, system.hidden[:, :n].abs().mT, upper=False)
    through = noise.mT @ system.output[:, n:].abs()
    return round_up(system.output[:, :n].abs() + through, noise.shape[1] + 2)


def sum_norms(system: Tangents, norm: str) -> Tensor:
    """Bounds (B,) of the Jacobians' norm in "linf" or "l1"."""
    total = entry_bounds(system)
    finite = total.isfinite().flatten(1).all(1)
    total = torch.where(finite[:, None, None], total, 0.0)
    value = round_up(NORMS[_TRANSPOSED[norm]](total) + _in_norm(system, norm))
    return torch.where(finite, value, torch.inf)


def largest_of_patterns(system: Tangents, norm: str) -> Tensor:
    """Largest norm (B,) over all ends of the open units, at most ``FEW`` of them."""
    n, count = system.inputs, system.hidden.shape[2]
    patterns = 2 * ((torch.arange(2**count)[:, None] >> torch.arange(count)) & 1) - 1
    noise = system.hidden.new_zeros(len(system.hidden), len(patterns), n, count)
    for i in range(count):
        before = (noise * system.hidden[:, None, None, n:, i]).sum(-1)
        p = system.hidden[:, None, :n, i] + before
        noise[..., i] = patterns[:, i, None] * p
    matrix = system.output[:, None, :n] + noise @ system.output[:, None, n:]
    error = gamma(count * (n + count) + 8) * norm_frobenius(entry_bounds(system))
    value = NORMS[_TRANSPOSED[norm]](matrix).amax(1)
    if norm != "l2":
        error = error * math.sqrt(max(matrix.shape[-2:]))
    return round_up(value + round_up(error, 4) + _in_norm(system, norm), 2)


def _in_norm(system: Tangents, norm: str) -> Tensor:
    """``doubt`` as an error in another norm."""
    if norm == "l2":
        return system.doubt
    size = max(system.inputs, system.output.shape[2])
    return round_up(system.doubt * math.sqrt(size), 3)

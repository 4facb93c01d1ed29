"""LipSDP-Neuron of one hidden layer as an eigenvalue problem, without an SDP solver.

With slopes in [m - r, m + r], a Jacobian is J = m W2 W1 + r W2 diag(tau) W1 with |tau_i| <= 1.
As 2 x y <= d x^2 + y^2 / d, for unit u, v and every d > 0 (one per hidden unit)

    u^T J v <= (v, u)^T M(d) (v, u) / 2 <= lambda_max(M(d)),
    M(d) = [[ r W1^T diag(d) W1 , m (W2 W1)^T ], [ m W2 W1 , r W2 diag(1/d) W2^T ]].

lambda_max(M(e^theta)) is convex in theta and its minimum is LipSDP-Neuron (Fazlyab et al. 2019,
arXiv 1906.04893). M has n_in + n_out rows whatever the width.

Minimised is the smooth min over t of t - mu log det(t I - M(e^theta)) for falling mu (Boyd &
Vandenberghe, Convex Optimization, ch. 11), at whose minimum lambda_max is within N mu of the
optimum. X = mu (t I - M)^-1 has trace 1 and is nearly of low rank, so the Hessian is a diagonal
plus the part of the top eigenvectors, which Woodbury's formula inverts: a step costs a few products
of (n_in + n_out) x (units) matrices and one eigendecomposition.

All of it is in float64, however coarse the tolerance: batched products round by the size of the
batch and by how a matrix lies in memory, and a search in float32 ends up to 1e-5 apart for that.
"""

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_max_eigenvalue, norm_frobenius
from lipdescent.arithmetic.ulps import gamma, round_up, unscaled_up
from lipdescent.bounds.lipsdp.newton import _TOP, minimise
from lipdescent.structure.scaling import Units, balanced, scaled_slopes, with_lost
from lipdescent.structure.slope_intervals import Interval, recentred

_WIDEST = 600.0  # of log d: what exp(log d) multiplies stays in range
_ENTRIES = 2**20  # of the largest temporary, per chunk of models: what stays in a CPU's cache


def shallow_lipsdp(
    first: Tensor, second: Tensor, *, slopes: Interval, tolerance: float, max_steps: int
) -> Tensor:
    """Certified bound (S,) of x -> second phi(first x), at any ``max_steps``.

    Parameters
    ----------
    first : float64 (S, w, n_in). second : float64 (S, n_out, w).
    slopes : (a, b) of phi, a < b.
    tolerance : relative excess over the SDP's optimum that is aimed at.
    """
    units = first.shape[1]
    size = min(units, first.shape[2]) + min(units, second.shape[1])
    pairs = min(_TOP, size) * (min(_TOP, size) + 1) // 2
    chunk = max(1, _ENTRIES // (units * (size + 2 * pairs) + 4 * size * size))
    parts = zip(first.split(chunk), second.split(chunk), strict=True)
    bounds = [_chunk(p, q, slopes, tolerance, max_steps) for p, q in parts]
    return torch.cat(bounds) if bounds else first.new_zeros(0)


def _chunk(first: Tensor, second: Tensor, slopes: Interval, tolerance: float, steps: int) -> Tensor:
    units = balanced(first, second)
    (slopes,), power = scaled_slopes([slopes])
    problem = reduced(units.rows, units.columns, slopes)
    theta = minimise(*problem, tolerance=tolerance, max_steps=steps)
    return certify(units, theta, slopes=slopes, power=power)


def reduced(rows: Tensor, columns: Tensor, slopes: Interval) -> tuple[Tensor, Tensor, Tensor]:
    """sqrt(r) p_i and q_i as columns, in as few dimensions as units, and m W2 W1 there."""
    middle, radius = recentred(slopes)
    small = [
        x.mT.contiguous() if x.shape[1] >= x.shape[2] else torch.linalg.qr(x.mT)[1]
        for x in (rows, columns)
    ]
    cross = middle * small[1] @ small[0].mT
    return radius**0.5 * small[0], radius**0.5 * small[1], cross


def certify(units: Units, theta: Tensor, *, slopes: Interval, power: int) -> Tensor:
    """lambda_max(M(d)) rounded up with d = e^2, e = fl(exp(theta / 2)), times 2^power: (S,).

    ``slopes`` at most 4 in size; anything finite or not may stand in ``theta``.
    """
    rows, columns = units.rows, units.columns
    middle, radius = recentred(slopes)
    theta = theta.nan_to_num(0.0).clamp(-_WIDEST, _WIDEST)
    root = (theta / 2).exp()[..., None]
    left, right = rows * root, columns / root
    top = torch.cat([radius * (left.mT @ left), middle * (left.mT @ right)], -1)
    bottom = torch.cat([middle * (right.mT @ left), radius * (right.mT @ right)], -1)
    matrix = torch.cat([top, bottom], -2)
    # Each entry of left, right is rounded once, each product once more: an elementwise error of
    # gamma(w + 4) times the same expression in absolute values. What underflows, enlarged by at
    # most e^(_WIDEST / 2) and the slopes, is below 2^-600.
    p, q = norm_frobenius(left), norm_frobenius(right)
    size = radius * torch.maximum(p, q).square() + abs(middle) * p * q
    error = round_up(gamma(rows.shape[1] + 6) * size, 8) + 2.0**-600
    bound = certified_max_eigenvalue(matrix, error=round_up(error)).clamp_min(0.0)
    bound = torch.where((p == 0) | (q == 0), 0.0, bound)
    lost = round_up(max(map(abs, slopes)) * units.lost)
    bound = with_lost(bound, torch.where(units.lost > 0, lost, 0.0))
    return unscaled_up(bound, units.exponent + power)

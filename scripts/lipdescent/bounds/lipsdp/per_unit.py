"""LipSDP-Neuron of one hidden layer with an interval of slopes for every unit.

Unit i has slopes in [a_i, b_i], m = (a + b) / 2, r = (b - a) / 2; a fixed unit has r_i = 0. As in
``shallow.py``, for every d > 0 (Fazlyab et al. 2019, arXiv 1906.04893)

    |J|_2 <= lambda_max [[W1^T diag(r d) W1, (W2 diag(m) W1)^T], [., W2 diag(r / d) W2^T]].

The minimum over d is the maximum over matrices V (n_in, k), U (n_out, k) of Frobenius norm 1 of

    F = sum_i m_i <p_i, q_i> + r_i |p_i| |q_i|,  p = W1 V, q = W2^T U,

with d_i = |q_i| / |p_i| there. F is convex in V and in U, so moving each in turn to the normalised
gradient never lowers it; extrapolated as in ``geolip/natural.py`` it takes some tens of steps.
"""

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_max_eigenvalue, norm_frobenius
from lipdescent.arithmetic.ulps import gamma, round_up, times_power, unscaled_up
from lipdescent.bounds.lipsdp.momentum import CHECKS, momentum
from lipdescent.deadline import over
from lipdescent.structure.scaling import balanced, with_lost

_RANK = 12
_CHUNK = 2**20  # entries of the largest temporary


def lipsdp_per_unit(
    first: Tensor,
    last: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 256,
) -> tuple[Tensor, Tensor, Tensor]:
    """Certified l2 bounds of x -> last diag(s) first x over all s in [low, high].

    Parameters
    ----------
    first, last : float64 (S, h, n_in), (S, n_out, h). low, high : float64 (S, h).
    tolerance : relative gap between the two results at which a problem is finished.

    Returns
    -------
    upper : (S,), rounding included. value : (S,), reached by the ascent.
    slack : (S, h), what unit i adds to ``value`` beyond its best fixed slope at the maximiser.
    """
    size = (first.shape[2] + last.shape[1]) ** 2 + first.shape[1] * (first.shape[2] + 2 * _RANK)
    chunks = torch.arange(len(first), device=first.device).split(max(1, _CHUNK // size))
    parts = [_solve(first[i], last[i], low[i], high[i], tolerance, max_iterations) for i in chunks]
    upper, value, slack = (torch.cat(part) for part in zip(*parts, strict=True))
    return upper, value, slack


def _solve(
    first: Tensor, last: Tensor, low: Tensor, high: Tensor, tolerance: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    w, u, _, exponent, lost = balanced(first, last)
    count, units, inputs = w.shape
    middle, radius = ((low + high) / 2)[..., None], ((high - low) / 2)[..., None]

    generator = torch.Generator().manual_seed(inputs)
    rank = min(_RANK, inputs + u.shape[2])
    v = torch.randn(inputs, rank, generator=generator, dtype=w.dtype).to(w.device)
    v = _unit(v).expand(count, -1, -1)
    p = w @ v
    out = _unit(u.mT @ (p * (middle.abs() + radius)))
    todo = torch.arange(count, device=w.device)
    upper, value = w.new_full((count,), torch.inf), w.new_zeros(count)
    best, slack = w.new_ones(count, units), w.new_zeros(count, units)
    v_before, out_before = v, out
    part: tuple[Tensor, ...] = (w, u, middle, radius)
    for k in range(1, steps + 1):
        w_k, u_k, m_k, r_k = part
        beta = momentum(k)
        v_far, out_far = v + beta * (v - v_before), out + beta * (out - out_before)
        p, q = w_k @ v_far, u_k @ out_far
        v_before, v = v, _unit(w_k.mT @ (m_k * q + r_k * _along(p, q)))
        p = w_k @ v
        out_before, out = out, _unit(u_k.mT @ (m_k * p + r_k * _along(q, p)))
        if k in CHECKS or k == steps:
            now, d, gap = _read(w_k @ v, u_k @ out, part)
            bound = torch.linalg.eigvalsh(_matrix(part, d.sqrt()))[:, -1]
            better = bound < upper[todo]
            upper[todo[better]], best[todo[better]] = bound[better], d[better]
            slack[todo], value[todo] = gap, torch.maximum(value[todo], now)
            keep = upper[todo] > value[todo] * (1 + tolerance)
            todo = todo[keep]
            if not len(todo) or over():
                break
            if not keep.all():
                part = tuple(x[keep] for x in part)
                v, v_before, out, out_before = (x[keep] for x in (v, v_before, out, out_before))
    bound = _certify((w, u, middle, radius), best.sqrt())
    steepest = torch.maximum(low.abs(), high.abs()).amax(1)
    bound = with_lost(bound, torch.where(lost > 0, round_up(steepest * lost), 0.0))
    return (
        unscaled_up(bound, exponent),
        times_power(value, exponent),
        times_power(slack, exponent[:, None]),
    )


def _read(p: Tensor, q: Tensor, part: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """F, multipliers d and slack at the rows p, q."""
    w, u, middle, radius = (x if i < 2 else x[..., 0] for i, x in enumerate(part))
    lengths = p.norm(dim=-1) * q.norm(dim=-1)
    inner = (p * q).sum(-1)
    value = (middle * inner + radius * lengths).sum(-1)
    d = q.norm(dim=-1) / p.norm(dim=-1).clamp_min(1e-300)
    # lambda_max >= r d |w_i|^2 and r |u_i|^2 / d: what lies beyond only harms.
    room = value[:, None].clamp_min(1e-300) / radius.clamp_min(1e-300)
    w2, u2 = w.square().sum(-1).clamp_min(1e-200), u.square().sum(-1).clamp_min(1e-200)
    d = torch.minimum(torch.maximum(d, u2 / room), room / w2)
    plain = (radius == 0) | ~d.isfinite() | (d <= 0)
    d = torch.where(plain, (u2 / w2).sqrt(), d).clamp(1e-60, 1e60)
    return value, d, radius * (lengths - inner.abs())


def _matrix(part: tuple[Tensor, ...], root: Tensor) -> Tensor:
    """M(d), root = sqrt(d) (S, h)."""
    w, u, middle, radius = part
    left, right = w * root[..., None], u / root[..., None]
    top = torch.cat([left.mT @ (radius * left), left.mT @ (middle * right)], -1)
    bottom = torch.cat([right.mT @ (middle * left), right.mT @ (radius * right)], -1)
    return torch.cat([top, bottom], -2)


def _certify(part: tuple[Tensor, ...], root: Tensor) -> Tensor:
    w, u, middle, radius = part
    left, right = norm_frobenius(w * root[..., None]), norm_frobenius(u / root[..., None])
    steepest = (radius + middle.abs()).amax((-1, -2))
    # Per entry: two scalings, one slope (m and r are rounded too), one sum over h products.
    size = 2 * steepest * torch.maximum(left, right).square()
    # What underflows is enlarged by at most root <= 1e30 and the slopes.
    error = round_up(gamma(w.shape[1] + 10) * size, 8) + 2.0**-700 * (1 + steepest)
    bound = certified_max_eigenvalue(_matrix(part, root), error=error)
    return torch.where((left == 0) | (steepest == 0), 0.0, bound.clamp_min(0.0))


def _along(p: Tensor, q: Tensor) -> Tensor:
    """p scaled to the length of q, row by row."""
    return p * (q.norm(dim=-1, keepdim=True) / p.norm(dim=-1, keepdim=True).clamp_min(1e-300))


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-300)

"""LipSDP of the system of :mod:`tangents`, its multipliers found by descent and certified.

For t_i >= 0 the noises obey sum_i t_i ((r p)_i^2 - w_i^2) >= 0 (Fazlyab et al. 2019, arXiv
1906.04893), so |y| <= L |v| where, for all v and w,

    |Y^T (v, w)|^2 + sum_i t_i ((P^T (v, w))_i^2 - w_i^2) <= L^2 |v|^2.

With H = Y Y^T + P diag(t) P^T in blocks and N = diag(t) - H_ww > 0, the least L^2 is
lambda_max(H_vv + H_vw N^-1 H_wv), convex in t. At its maximiser (v, w) the derivative by t_i is (r
p)_i^2 - w_i^2: descent moves log t_i by a step times log(w_i^2 / (r p)_i^2), to where both are the
same; a step that does not lower L is shortened.

For |v|_inf <= 1 and one output, y^2 <= sum_j mu_j Y^T Q^-1 Y for positive mu_j, with Q = diag(mu,
t) - P diag(t) P^T > 0, as y = Y^T x, x^T Q x <= sum_j mu_j v_j^2: GeoLIP (Wang, Prakriya & Jha
2022, arXiv 2203.01212) on the domain. With u = Q^-1 Y the least is where u_w^2 = (P^T u)^2 and
u_j^2 = Y^T u / sum mu. In l1 it is that of the transposed Jacobian.

What is returned is certified at the multipliers found (:mod:`descent`), and what the network's
Jacobian differs by is added.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm
from lipdescent.arithmetic.ulps import round_up
from lipdescent.bounds.local.descent import certified_square, descend
from lipdescent.bounds.local.tangents import Tangents, solution

_SHARP = 8  # power of eigenvalues: the largest ones are lowered together
_LARGEST = 1e60
_CHEAP = 64  # open units for which two sets of multipliers are compared
_SMALL = 1e-290
_BETTER = 0.97  # than the bound known


@dataclass(frozen=True)
class Solved:
    """``bound`` (B,), and the ``multipliers`` (B, K) it was found with."""

    bound: Tensor
    multipliers: Tensor


def lipsdp(
    system: Tangents, start: Tensor, known: Tensor, *, goal: float = 0.0, steps: int = 40
) -> Solved:
    """Certified l2 bounds.

    Parameters
    ----------
    start : multipliers (B, K), 0 where there are none yet.
    known : (B,), bounds that hold already; what is no better is infinite.
    goal : a bound at which one is done; where it is out of reach the search ends. steps : at most.
    """
    if not start.shape[1]:
        norm = certified_spectral_norm(system.output)
        return Solved(round_up(norm + system.doubt), start)
    n = system.inputs
    total = torch.linalg.matrix_norm(system.output[:, :n]) + (system.into * system.out_of).sum(1)
    natural = _usable(_ratio(system.out_of, system.into) * total[:, None], system.real)
    given = _usable(torch.where(start > 0, start, natural), system.real)

    def value(todo: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _square(system if len(todo) == len(natural) else system[todo], t)

    t = given
    if t.shape[1] <= _CHEAP:
        every = torch.arange(len(t))
        better = value(every, natural)[0] < value(every, given)[0]
        t = torch.where(better[:, None], natural, given)
    square, t = descend(value, t, natural, goal=goal, steps=steps)
    bound = torch.full_like(square, torch.inf)
    # A certificate costs as much as two steps: where the goal was missed, for what is far better.
    enough = torch.where(square.sqrt() < goal, known, _BETTER * known) if goal else known
    use = ((square > 0) & (square.sqrt() < enough)).nonzero().flatten()
    if len(use):
        mu = (square[use] * (1 + 2.0**-39))[:, None].expand(-1, n)
        own = system.hidden[use], system.output[use], mu, t[use], torch.ones_like(mu[:, 0])
        found = certified_square(*own, (mu[:, 0], system.into[use])).sqrt()
        bound[use] = round_up(round_up(found, 2) + system.doubt[use])
    return Solved(bound, t)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return a.clamp_min(1e-100) / b.clamp_min(1e-100)


def _usable(t: Tensor, real: Tensor) -> Tensor:
    """Finite positive multipliers; 1 where there is only padding."""
    t = t.nan_to_num(1.0, _LARGEST, 1.0).clamp(1 / _LARGEST, _LARGEST)
    return torch.where(real, t, 1.0)


def _square(system: Tangents, t: Tensor) -> tuple[Tensor, Tensor]:
    """L^2 (B,), and log w^2 / (r p)^2 (B, K) at the largest eigenvectors."""
    n, hidden = system.inputs, system.hidden
    total = _forms(system, t)
    rest = -total[:, n:, n:]
    rest.diagonal(dim1=1, dim2=2).add_(t)
    factor, sound = _factor(rest)
    solved = torch.linalg.solve_triangular(factor, total[:, n:, :n], upper=False)
    square = total[:, :n, :n] + solved.mT @ solved
    sound &= square.isfinite().flatten(1).all(1)
    square = torch.where(sound[:, None, None], square, torch.eye(n).to(square))
    values, vectors = torch.linalg.eigh(square)
    share = (values / values[:, -1:].clamp_min(_SMALL)).clamp_min(0.0) ** _SHARP
    inner = vectors * (share / share.sum(1, keepdim=True)).sqrt()[:, None]
    noise = torch.linalg.solve_triangular(factor.mT, solved @ inner, upper=True)
    tangent = hidden.mT @ torch.cat([inner, noise], 1)
    direction = _logarithm(noise.square().sum(2), tangent.square().sum(2))
    return torch.where(sound, values[:, -1], torch.inf), direction


def _forms(system: Tangents, t: Tensor) -> Tensor:
    """Y Y^T + P diag(t) P^T, its lower triangle: of a layer's part of P only what is not 0."""
    n, total, at = system.inputs, system.output @ system.output.mT, system.inputs
    for size in system.sizes:
        own = system.hidden[:, :, at - n : at - n + size]
        weights = t[:, None, at - n : at - n + size]
        at += size
        if not system.is_turned:
            own = own[:, : at - size]  # noises of layers before it
            total[:, : at - size, : at - size] += (own * weights) @ own.mT
            continue
        first, own = own[:, :n], own[:, at:]  # of those behind it
        weighted = first * weights
        total[:, :n, :n] += weighted @ first.mT
        total[:, at:, :n] += own @ weighted.mT
        total[:, at:, at:] += (own * weights) @ own.mT
    return total


def _factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky's factors, the identity where there is none, and where there is one."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    sound = info == 0
    if not bool(sound.all()):
        eye = torch.eye(matrix.shape[-1]).to(factor)
        factor = torch.where(sound[:, None, None], factor, eye)
    return factor, sound


def _logarithm(a: Tensor, b: Tensor) -> Tensor:
    return ((a + _SMALL) / (b + _SMALL)).log().clamp(-3.0, 3.0)


def geolip(system: Tangents, *, goal: float = 0.0, steps: int = 40) -> Tensor:
    """Certified l_inf bounds (B,), the largest over outputs; l1 ones of a turned system.

    ``goal`` and ``steps`` as of :func:`lipsdp`.
    """
    n, outputs = system.inputs, system.output.shape[2]
    noise = system.hidden[:, n:].abs()
    into = solution(noise.mT, system.hidden[:, :n].abs().sum(1)[..., None], upper=system.is_turned)
    out_of = solution(noise, system.output[:, n:].abs(), upper=not system.is_turned)
    reach = system.output[:, :n].abs() + system.hidden[:, :n].abs() @ out_of  # (B, n, outputs)
    total = reach.sum(1, keepdim=True)
    t = _usable((_ratio(out_of, into) * total).mT, system.real[:, None])
    mu = _usable((reach * total).mT, torch.ones(1, 1, 1, dtype=torch.bool))
    start = torch.cat([mu, t], 2).flatten(0, 1)
    columns = system.output.mT.flatten(0, 1)  # (B * outputs, n + K)

    def value(todo: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _sum_square(system.hidden[todo // outputs], columns[todo], t)

    square, t = descend(value, start, start, goal=goal, steps=steps)
    mu, t = t[:, :n], t[:, n:]
    hidden = system.hidden.repeat_interleave(outputs, 0)
    # c is such that G G^T has norm 1: Y^T Q^-1 Y.
    c = (square / mu.sum(1)).clamp_min(_SMALL).nan_to_num(1.0, 1.0) * (1 + 2.0**-39)
    limit = round_up(mu.sum(1), n), into[..., 0].repeat_interleave(outputs, 0)
    found = certified_square(hidden, columns[..., None], mu, t, c, limit).sqrt()
    bound = round_up(found, 2).reshape(-1, outputs).amax(1)
    return round_up(bound + round_up(system.doubt * math.sqrt(n), 3))


def _sum_square(hidden: Tensor, column: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """sum mu Y^T Q^-1 Y (B,) and logarithms to step along (B, n + K), for t = (mu, t)."""
    n = hidden.shape[1] - hidden.shape[2]
    matrix = -(hidden * t[:, None, n:]) @ hidden.mT
    matrix.diagonal(dim1=1, dim2=2).add_(t)
    factor, sound = _factor(matrix)
    u = torch.cholesky_solve(column[..., None], factor)[..., 0]
    c, total = (column * u).sum(1), t[:, :n].sum(1)
    square = c * total
    at_inputs = u[:, :n].square() * (total / c.clamp_min(_SMALL))[:, None]
    tangent = (hidden.mT @ u[..., None])[..., 0]
    direction = [
        _logarithm(at_inputs, torch.ones_like(at_inputs)),
        _logarithm(u[:, n:].square(), tangent.square()),
    ]
    sound &= square.isfinite() & (square >= 0)
    return torch.where(sound, square, torch.inf), torch.cat(direction, 1)

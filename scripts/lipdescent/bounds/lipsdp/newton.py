"""Newton's method on the smoothed eigenvalue form of LipSDP with one hidden layer.

:mod:`lipdescent.bounds.lipsdp.shallow` has the problem; nothing here is certified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.deadline import over

_TOP = 9  # eigenvectors in the Hessian: few more than an optimal X usually has (1 to 8)
_CG_STEPS, _CG_TOLERANCE = 6, 0.2  # the latter on the squared preconditioned residual
_SHRINK, _FIRST = 0.5, 0.2  # of mu N / lambda_max
_NEAR = 100.0  # mu shrinks once the squared Newton decrement is below this many mu


class _Point(NamedTuple):
    """Per model: theta (S, w), eigenvalues and vectors of M, mu, and t and value of the barrier."""

    theta: Tensor
    values: Tensor
    vectors: Tensor
    mu: Tensor
    shift: Tensor
    barrier: Tensor

    def take(self, index: Tensor) -> _Point:
        return _Point(*(x[index] for x in self))


class _Problem(NamedTuple):
    """sqrt(r) p_i and q_i as columns, (S, n, w) and (S, n_out, w), and m W2 W1 (S, n_out, n)."""

    left: Tensor
    right: Tensor
    cross: Tensor

    def take(self, index: Tensor) -> _Problem:
        return _Problem(*(x[index] for x in self))

    def at(self, theta: Tensor, mu: Tensor) -> _Point:
        d = theta.exp()[:, None]
        top = torch.cat([(self.left * d) @ self.left.mT, self.cross.mT], -1)
        bottom = torch.cat([self.cross, (self.right / d) @ self.right.mT], -1)
        values, vectors = torch.linalg.eigh(torch.cat([top, bottom], -2))
        return _Point(theta, values, vectors, mu, *_barrier(values, mu))


def _barrier(values: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """t with sum mu / (t - values) = 1, by Newton's method on the reciprocal; the barrier there."""
    size, top = values.shape[1], values[:, -1]
    shift = top + mu * size**0.5
    for _ in range(10):
        y = mu[:, None] / (shift[:, None] - values)
        total = y.sum(1)
        shift = shift + (total - 1) * total * mu / y.square().sum(1)
        shift = torch.minimum(torch.maximum(shift, top + mu), top + size * mu)
    return shift, shift - mu * ((shift[:, None] - values) / mu[:, None]).log().sum(1)


class _Model(NamedTuple):
    """Quadratic model of the barrier at a point: gradient (S, w) and what its Hessian needs."""

    left: Tensor  # columns sqrt(d_i) p_i
    right: Tensor  # columns q_i / sqrt(d_i)
    left_top: Tensor  # their parts along the top eigenvectors (S, _TOP, w)
    right_top: Tensor
    inverse: Tensor  # X, trace 1
    weights: Tensor  # its eigenvalues (S, N)
    mu: Tensor
    gradient: Tensor
    diagonal: Tensor  # a + b
    along: Tensor  # derivative of the gradient with respect to t, scaled: t is eliminated

    def hessian(self, v: Tensor) -> Tensor:
        """Exact Hessian times v (S, w)."""
        n = self.left.shape[1]
        x1, x2 = self.inverse[:, :n], self.inverse[:, n:]
        m1 = (self.left * v[:, None]) @ self.left.mT
        m2 = (self.right * v[:, None]) @ self.right.mT
        y = x1.mT @ (m1 @ x1) - x2.mT @ (m2 @ x2)
        first = (y[:, :n, :n] @ self.left).mul_(self.left).sum(1)
        second = (y[:, n:, n:] @ self.right).mul_(self.right).sum(1)
        rank_one = self.along * (self.along * v).sum(-1, keepdim=True)
        return (first - second) / self.mu[:, None] + self.diagonal * v - rank_one


def _model(problem: _Problem, point: _Point) -> _Model:
    n = problem.left.shape[1]
    root = (point.theta / 2).exp()[:, None]
    left, right = problem.left * root, problem.right / root
    x = point.mu[:, None] / (point.shift[:, None] - point.values)
    inverse = (point.vectors * x[:, None]) @ point.vectors.mT
    p, q = point.vectors[:, :n].mT @ left, point.vectors[:, n:].mT @ right
    left_top, right_top = (z[:, -_TOP:].clone() for z in (p, q))
    both = torch.stack([x, x.square()], 1)
    (a, first), (b, second) = ((both @ z.square_()).unbind(1) for z in (p, q))
    along = (first - second) / (x.square().sum(1) * point.mu).sqrt()[:, None]
    return _Model(left, right, left_top, right_top, inverse, x, point.mu, a - b, a + b, along)


def _preconditioner(model: _Model) -> Callable[[Tensor], Tensor]:
    """Inverse of the diagonal plus the top eigenvectors' part of the Hessian, by Woodbury."""
    x = model.weights
    k = min(_TOP, x.shape[1])
    diagonal = model.diagonal + model.diagonal.amax(1, keepdim=True) * 1e-7
    diagonal = (diagonal + torch.finfo(diagonal.dtype).tiny)[:, None]
    p, q = model.left_top, model.right_top
    i, j = torch.triu_indices(k, k, device=p.device)
    # Less the largest one that is left out: where equal eigenvalues lie on either side of the cut,
    # which of their vectors are in would be a matter of rounding. M has rank w for a ReLU.
    high = x[:, -k:] - (x[:, -k - 1, None] if x.shape[1] > k else 0.0)
    weight = (high[:, i] * high[:, j] / model.mu[:, None]).sqrt()
    # index_select copies whole rows; indexing by a tensor goes entry by entry.
    factor = p.index_select(1, i).mul_(p.index_select(1, j))
    factor.sub_(q.index_select(1, i).mul_(q.index_select(1, j)))
    factor.mul_(torch.where(i == j, weight, 2**0.5 * weight)[..., None])
    scaled = factor / diagonal
    # Eliminating t turns F^T F into F^T (I - z z^T) F.
    z = torch.where(i == j, weight, 0.0) / (x.square().sum(1) / model.mu).sqrt()[:, None]
    core = z[:, :, None] * z[:, None] / (1 - z.square().sum(1)).clamp_min(1e-5)[:, None, None]
    core = core + torch.eye(len(i), dtype=p.dtype, device=p.device) + scaled @ factor.mT
    lower = torch.linalg.cholesky_ex(core)[0]

    def solve(v: Tensor) -> Tensor:
        inner = torch.cholesky_solve(scaled @ v[..., None], lower)
        return v / diagonal[:, 0] - (inner.mT @ scaled)[:, 0]

    return solve


def _direction(problem: _Problem, point: _Point) -> tuple[Tensor, Tensor]:
    """Inexact Newton step (S, w) by a few preconditioned CG steps; its slope (S,), negative."""
    model = _model(problem, point)
    solve = _preconditioner(model)
    residual = -model.gradient
    step = torch.zeros_like(residual)
    vector = z = solve(residual)
    product = start = (residual * z).sum(-1)
    for _ in range(_CG_STEPS):
        image = model.hessian(vector)
        length = product / (vector * image).sum(-1)
        length = torch.where(product > _CG_TOLERANCE * start, length, 0.0)
        step = step + length[:, None] * vector
        residual = residual - length[:, None] * image
        z = solve(residual)
        old, product = product, (residual * z).sum(-1)
        if not (product > _CG_TOLERANCE * start).any():
            break
        vector = z + (product / old)[:, None] * vector
    step = step.clamp(-4, 4)
    slope = (model.gradient * step).sum(-1)
    bad = ~((slope < 0) & step.isfinite().all(1))
    plain = -(model.gradient / model.diagonal.clamp_min(1e-30)).clamp(-1, 1)
    step = torch.where(bad[:, None], plain, step)
    return step, torch.where(bad, (model.gradient * plain).sum(-1), slope)


def _search(problem: _Problem, point: _Point, step: Tensor, slope: Tensor) -> tuple[_Point, Tensor]:
    """Backtracking by quadratic interpolation; the new point and the step lengths (S,)."""
    new = [x.clone() for x in point]
    length = torch.ones_like(slope)
    todo = torch.arange(len(slope), device=slope.device)
    for _ in range(7):
        part, start = (
            (problem, point) if len(todo) == len(slope) else (problem.take(todo), point.take(todo))
        )
        trial = part.at(start.theta + length[todo, None] * step[todo], start.mu)
        expected = length[todo] * slope[todo]
        change = trial.barrier - start.barrier
        fine = change <= 0.05 * expected
        for old, value in zip(new, trial, strict=True):
            old[todo[fine]] = value[fine]
        ratio = -0.5 * expected / (change - expected)
        length[todo[~fine]] = (length[todo] * ratio.clamp(0.15, 0.6))[~fine]
        todo = todo[~fine]
        if not len(todo):
            break
    length[todo] = 0.0
    return _Point(*new), length


def minimise(
    left: Tensor, right: Tensor, cross: Tensor, *, tolerance: float, max_steps: int
) -> Tensor:
    """theta = log d (S, w) with lambda_max(M(d)) close to its minimum; any theta is valid."""
    size = cross.shape[1] + cross.shape[2]
    theta = left.new_zeros(len(left), left.shape[2])
    tiny = torch.finfo(left.dtype).tiny
    norms = [torch.linalg.matrix_norm(x).clamp_min(tiny) for x in (left, right)]
    theta = theta + (norms[1] / norms[0]).log()[:, None]
    problem = _Problem(left, right, cross)
    point = problem.at(theta, torch.ones_like(norms[0]))
    lowest, best = point.values[:, -1].clone(), theta.clone()
    floor = tiny**0.5
    mu = (_FIRST / size * lowest).clamp_min(floor)
    point = point._replace(mu=mu)
    point = _Point(*point[:4], *_barrier(point.values, mu))
    alive = torch.arange(len(theta), device=theta.device)
    for _ in range(max_steps):
        if not len(alive) or over():
            break
        step, slope = _direction(problem, point)
        centred = -slope < point.mu
        new, length = _search(problem, point, step, slope)
        value = new.values[:, -1]
        lower = alive[value < lowest[alive]]
        lowest[lower], best[lower] = value[value < lowest[alive]], new.theta[value < lowest[alive]]
        last = (2 * tolerance / size * lowest[alive]).clamp_min(floor)
        done = ((point.mu <= last * 1.001) & centred) | (length == 0)
        mu = torch.where(
            ((length >= 0.5) & (-slope < _NEAR * point.mu)) | centred,
            torch.maximum(_SHRINK * new.mu, last),
            new.mu,
        )
        point = _Point(*new[:3], mu, *_barrier(new.values, mu))
        if done.any():
            keep = (~done).nonzero().flatten()
            alive, point, problem = alive[keep], point.take(keep), problem.take(keep)
    return best

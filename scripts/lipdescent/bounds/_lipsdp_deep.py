"""LipSDP-Neuron of a deep chain by Newton's method on a log-barrier, started from ECLipsE-Fast.

In rho = 1 / L^2 and the multipliers T the constraint H(T, rho) >= 0 of ``_chain_certificate`` is
linear. For growing s the self-concordant function -s rho - log det H is minimised (Boyd &
Vandenberghe, Convex Optimization, ch. 11); at its minimum rho is within N / s of the optimum, N the
inputs and hidden units. Unit k enters H by a_k a_k^T - b_k b_k^T with a_k = e_k - m w_k, b_k = r w_k
(w_k its incoming weights), so the Hessian is made of the squared entries of A H^-1 A^T, A H^-1 B^T
and B H^-1 B^T. Where slopes are bounded away from 0 (a b > 0), T > 0 is kept by -sum log T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._chain_certificate import certify_chain, normalised, unnormalise
from ._slopes import Interval, recentred
from .upper_eclipse_fast import layer_multipliers

_GROWTH, _START = 12.0, 2.0  # of s rho / N


class _Problem(NamedTuple):
    """(S, W, N) rows a_k and b_k, (S, c, N) last weights, which units are alive (S, W)."""

    above: Tensor
    below: Tensor
    last: Tensor
    live: Tensor
    inputs: int
    positive: float  # weight of -sum log T: 1 where needed, else 0

    def matrix(self, t: Tensor, rho: Tensor) -> Tensor:
        h = self.above.mT @ (t[..., None] * self.above) - self.below.mT @ (
            t[..., None] * self.below
        )
        h.diagonal(dim1=1, dim2=2)[:, : self.inputs] += 1.0
        return h - rho[:, None, None] * (self.last.mT @ self.last)

    def value(self, t: Tensor, rho: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """The barrier's value, infinite where H is not positive definite, and H's factor."""
        factor, info = torch.linalg.cholesky_ex(self.matrix(t, rho))
        logs = 2 * factor.diagonal(dim1=1, dim2=2).clamp_min(1e-300).log().sum(1)
        value = -sharpness * rho - logs - self.positive * t.clamp_min(1e-300).log().sum(1)
        return torch.where((info == 0) & (t > 0).all(1), value, torch.inf), factor


def deep_lipsdp(
    weights: list[Tensor], slopes: list[Interval], *, tolerance: float, max_steps: int
) -> Tensor:
    """Certified bound (S,) of a chain with two or more hidden layers, at any ``max_steps``."""
    small, exponent = normalised(weights)
    scalars, square = layer_multipliers(small, slopes)
    start = [s[:, None].expand(-1, w.shape[1]) for s, w in zip(scalars, small[:-1], strict=True)]
    problem = _problem(small, slopes)
    t = torch.where(problem.live, torch.cat(start, 1), 1.0)
    t = minimise(problem, t, 0.7 / square.clamp_min(1e-200), tolerance, max_steps)
    multipliers = list(t.split([w.shape[1] for w in small[:-1]], 1))
    return unnormalise(certify_chain(small, multipliers, slopes), small, exponent)


def _problem(weights: list[Tensor], slopes: list[Interval]) -> _Problem:
    inputs, count = weights[0].shape[2], len(weights[0])
    units = sum(w.shape[1] for w in weights[:-1])
    above, below = weights[0].new_zeros(2, count, units, inputs + units)
    above.diagonal(inputs, 1, 2).fill_(1.0)
    row, column = 0, 0
    for weight, interval in zip(weights[:-1], slopes, strict=True):
        middle, radius = recentred(interval)
        block = slice(row, row + weight.shape[1]), slice(column, column + weight.shape[2])
        above[:, block[0], block[1]] -= middle * weight
        below[:, block[0], block[1]] = radius * weight
        row, column = block[0].stop, block[1].stop
    last = torch.nn.functional.pad(weights[-1], (column, 0))
    live = torch.cat([(w != 0).any(2) for w in weights[:-1]], 1)
    positive = float(any(low * high > 0 for low, high in slopes))
    return _Problem(above, below, last, live, inputs, positive)


def _newton(problem: _Problem, t: Tensor, factor: Tensor, sharpness: Tensor) -> tuple[Tensor, ...]:
    """Newton step in (T, rho), scaled per unit by T, and the squared decrement (S,)."""
    inverse = torch.cholesky_inverse(factor)
    above, below = problem.above @ inverse, problem.below @ inverse
    aa, bb = above @ problem.above.mT, below @ problem.below.mT
    ab = (above @ problem.below.mT).square()
    hessian = aa.square() + bb.square() - ab - ab.mT
    gradient = -(aa.diagonal(dim1=1, dim2=2) - bb.diagonal(dim1=1, dim2=2))
    gradient = gradient - problem.positive / t
    hessian.diagonal(dim1=1, dim2=2).add_(problem.positive / t.square())
    outer = problem.last @ inverse
    cross = (outer @ problem.below.mT).square().sum(1) - (outer @ problem.above.mT).square().sum(1)
    corner = (outer @ problem.last.mT).square().sum((1, 2))
    slope = (outer * problem.last).sum((1, 2)) - sharpness
    units = t.shape[1]
    full = hessian.new_zeros(len(t), units + 1, units + 1)
    full[:, :units, :units] = hessian
    full[:, units, :units], full[:, :units, units] = cross, cross
    full[:, units, units] = corner
    right = torch.cat([gradient, slope[:, None]], 1)
    live = torch.nn.functional.pad(problem.live, (0, 1), value=True)
    full = torch.where(live[:, None] & live[..., None], full, 0.0)
    scale = torch.where(live, full.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt(), 0.0)
    full = scale[:, None] * full * scale[..., None]
    full.diagonal(dim1=1, dim2=2).copy_(torch.ones_like(scale) * (1 + 1e-13))
    step = torch.linalg.solve_ex(full, -(scale * right)[..., None])[0][..., 0] * scale
    step = step.nan_to_num(0.0, 0.0, 0.0)
    return step[:, :units], step[:, units], -(step * right).sum(1)


def minimise(problem: _Problem, t: Tensor, rho: Tensor, tolerance: float, max_steps: int) -> Tensor:
    """Multipliers (S, W) near the optimum from feasible ``t`` and ``rho``."""
    size = problem.above.shape[2] + problem.positive * t.shape[1]
    sharpness = _START * size / rho
    value, factor = problem.value(t, rho, sharpness)
    best, best_rho = t, rho
    for _ in range(max_steps):
        dt, drho, decrement = _newton(problem, t, factor, sharpness)
        length = torch.where(decrement > 0, 1.0, 0.0)
        for _ in range(30):
            trial = problem.value(t + length[:, None] * dt, rho + length * drho, sharpness)
            poor = (length > 0) & ~(trial[0] <= value - 0.05 * length * decrement)
            if not poor.any():
                break
            length = torch.where(poor, 0.5 * length, length)
        length = torch.where(poor, 0.0, length)
        t, rho = t + length[:, None] * dt, rho + length * drho
        better = rho > best_rho
        best, best_rho = torch.where(better[:, None], t, best), torch.maximum(rho, best_rho)
        centred = (decrement < 0.5) | (length == 0)
        # The bound L = rho^(-1/2) has half of rho's relative error.
        final = sharpness * rho >= size / (2 * tolerance)
        if (centred & final).all():
            break
        sharpness = torch.where(centred & ~final, _GROWTH * sharpness, sharpness)
        value, factor = problem.value(t, rho, sharpness)
    return best

"""Descent on logarithms of multipliers, and the certificate of what it has found.

Both LipSDP and its counterpart in l_inf bound y^2 for the system of :mod:`tangents` by quadratic
forms: for positive mu_j of the inputs, tau_i^2 of the noises and c, with

    G = diag(1 / sqrt(mu), 1 / tau) [Y / sqrt(c), P diag(tau)],  G G^T <= rho I,

x = (sqrt(mu) v, tau w) and w_i^2 <= (r p)_i^2 give

    |y|^2 / c + sum_i tau_i^2 (r p)_i^2 <= rho (sum_j mu_j v_j^2 + sum_i tau_i^2 w_i^2),
    |y|^2 <= c (rho sum_j mu_j v_j^2 + max(0, rho - 1) sum_i tau_i^2 w_i^2).

rho is certified. An entry of G has five roundings at most; they and those of the products G G^T are
bounded by gamma(columns + 12) |G|_F^2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_max_eigenvalue
from lipdescent.arithmetic.ulps import gamma, round_up

_FIRST = 0.15  # step in units of the logarithms' difference
_LONGER, _SHORTER = 1.3, 0.4
_SHORTEST = 1e-4
_HOPE = 8.0  # times the goal, at first: a bound beyond is not expected to reach it
_RANGE = 1e90
_ADDED = 2.0**-15  # of multipliers that are feasible, at first, to those that are not

# Indices of problems and their multipliers, to bounds squared and logarithms to step along.
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def descend(
    value: Value, start: Tensor, inner: Tensor, *, goal: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Least squares (B,), perhaps infinite, and their multipliers (B, K).

    ``inner``: multipliers with a finite bound, or when enlarged; more and more of them is added to
    a ``start`` without one. ``goal``: a bound at which one is done; where it seems out of reach the
    search ends, too.
    """
    best, found, direction = start.new_full(start.shape[:1], torch.inf), start.clone(), 0 * start
    step = torch.full_like(best, _FIRST)
    todo = torch.arange(len(start))
    for k in range(steps):
        t = (step[todo, None] * direction[todo]).exp() * found[todo]
        t = t.clamp(1 / _RANGE, _RANGE)
        square, gradient = value(todo, t)
        good = square < best[todo]
        better = todo[good]
        best[better], found[better], direction[better] = square[good], t[good], gradient[good]
        step[todo] *= torch.where(good, torch.full_like(square, _LONGER), _SHORTER)
        now = best[todo].sqrt()
        lost = ~now.isfinite()  # nothing has been found yet, and what is feasible is convex
        found[todo[lost]] += _ADDED * 8.0**k * inner[todo[lost]]
        step[todo[lost]] = _FIRST
        ahead = _HOPE ** (1 - (k + 1) / steps) * goal
        hopeless = (now > ahead) & now.isfinite() & (goal > 0)
        todo = todo[(now > goal) & (step[todo] > _SHORTEST) & ~hopeless]
        if not len(todo):
            break
    return best, found


def certified_square(
    hidden: Tensor, output: Tensor, mu: Tensor, t: Tensor, c: Tensor, limits: tuple[Tensor, Tensor]
) -> Tensor:
    """Upper bounds (B,) of |y|^2, infinite where there is none.

    ``limits``: bounds of sum_j mu_j v_j^2, (B,), and of the noises' sizes, (B, K).
    """
    tau, root = t.sqrt(), c.sqrt()
    # y is divided by fl(sqrt(c)), and so is bounded with its square.
    scale = torch.cat([1 / mu.sqrt(), 1 / tau], 1)
    g = torch.cat([output / root[:, None, None], hidden * tau[:, None]], 2) * scale[..., None]
    finite = g.isfinite().flatten(1).all(1)
    g = torch.where(finite[:, None, None], g, 0.0)
    size = round_up(g.square().sum((1, 2)), g[0].numel())
    error = round_up(gamma(g.shape[2] + 12) * size + 2.0**-900, 4)
    rho = certified_max_eigenvalue(g @ g.mT, error=error, guess=1.0 + 2.0**-44)
    over = round_up((rho - 1).clamp_min(0.0))
    waste = round_up((tau * limits[1]).square().sum(1), t.shape[1] + 6)
    total = round_up(rho * limits[0]) + round_up(over * waste)
    value = round_up(round_up(root.square(), 2) * total, 4)
    return torch.where(finite & ~value.isnan(), value, torch.inf)

"""LipSDP-Neuron of a deep chain by Newton's method on a log-barrier, started from ECLipsE-Fast.

In rho = 1 / L^2 and the multipliers T the constraint H(T, rho) >= 0 of ``_chain_certificate`` is
linear. For growing s the function

    -s log rho - log det(D^-1/2 H D^-1/2), D the identity on the inputs and T on the units,

is minimised over log T and log rho (Boyd & Vandenberghe, Convex Optimization, ch. 11, with the
barrier made scale-free: -log det H alone has its centre at enormous multipliers). At its minimum L
is within a factor of about 1 + N / (2 s) of the optimum, N the inputs and hidden units. Unit k
enters H by T_k (a_k a_k^T - b_k b_k^T) with a_k = e_k - m w_k, b_k = r w_k (w_k its incoming
weights), so the Hessian is made of the squared entries of A H^-1 A^T, A H^-1 B^T and B H^-1 B^T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import unscaled_up
from lipdescent.bounds.lipsdp.certificate import certify_chain, normalised
from lipdescent.bounds.lipsdp.multipliers import layer_multipliers
from lipdescent.structure.scaling import with_lost
from lipdescent.structure.slope_intervals import Interval, recentred

_GROWTH, _LONGEST = 8.0, 3.0  # of s; of a step in log T


class _Problem(NamedTuple):
    """(S, W, N) rows a_k and b_k, (S, c, N) last weights, which units are alive (S, W)."""

    above: Tensor
    below: Tensor
    last: Tensor
    live: Tensor
    inputs: int

    def value(self, x: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """Barrier at x = (log T, log rho), infinite where H is not positive; Cholesky's factor."""
        t, rho = x[:, :-1, None].exp(), x[:, -1, None, None].exp()
        h = self.above.mT @ (t * self.above) - self.below.mT @ (t * self.below)
        h.diagonal(dim1=1, dim2=2)[:, : self.inputs] += 1.0
        factor, info = torch.linalg.cholesky_ex(h - rho * (self.last.mT @ self.last))
        logs = 2 * factor.diagonal(dim1=1, dim2=2).clamp_min(1e-300).log().sum(1)
        value = x[:, :-1].sum(1) - sharpness * x[:, -1] - logs
        sound = (info == 0) & value.isfinite()
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        factor = torch.where(sound[:, None, None], factor, eye)  # such a model takes no step
        return torch.where(sound, value, torch.inf), factor


def deep_lipsdp(
    weights: list[Tensor], slopes: list[Interval], *, tolerance: float, max_steps: int
) -> Tensor:
    """Certified bound (S,) of a chain with two or more hidden layers, at any ``max_steps``."""
    small, slopes, exponent, lost = normalised(weights, slopes, balance=True)
    scalars, square = layer_multipliers(small, slopes)
    start = [s[:, None].expand(-1, w.shape[1]) for s, w in zip(scalars, small[:-1], strict=True)]
    problem = _problem(small, slopes)
    t = torch.where(problem.live, torch.cat(start, 1), 1.0)
    x = torch.cat([t, 0.5 / square.clamp_min(1e-200)[:, None]], 1).log()
    x = minimise(problem, x, tolerance=tolerance, max_steps=max_steps)
    multipliers = list(x[:, :-1].exp().split([w.shape[1] for w in small[:-1]], 1))
    return unscaled_up(with_lost(certify_chain(small, multipliers, slopes), lost), exponent)


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
    return _Problem(above, below, last, live, inputs)


def _newton(
    problem: _Problem, x: Tensor, factor: Tensor, sharpness: Tensor
) -> tuple[Tensor, Tensor]:
    """Newton step (S, W + 1) and squared decrement (S,)."""
    root = (x / 2).exp()
    above, below = root[:, :-1, None] * problem.above, root[:, :-1, None] * problem.below
    last = root[:, -1, None, None] * problem.last
    inverse = torch.cholesky_inverse(factor)
    aa, bb = above @ inverse @ above.mT, below @ inverse @ below.mT
    ab = (above @ inverse @ below.mT).square()
    outer = last @ inverse
    cross = (outer @ below.mT).square().sum(1) - (outer @ above.mT).square().sum(1)
    linear = (bb - aa).diagonal(dim1=1, dim2=2)  # second derivative of exp: its first again
    trace = (outer * last).sum((1, 2))
    live = torch.nn.functional.pad(problem.live, (0, 1), value=True)
    gradient = torch.cat([1 + linear, (trace - sharpness)[:, None]], 1)
    gradient = torch.where(live, gradient, 0.0)
    hessian = torch.nn.functional.pad(aa.square() + bb.square() - ab - ab.mT, (0, 1, 0, 1))
    hessian[:, -1, :-1], hessian[:, :-1, -1] = cross, cross
    hessian[:, -1, -1] = (outer @ last.mT).square().sum((1, 2)) + trace
    hessian = torch.where(live[:, None] & live[..., None], hessian, 0.0)
    linear = torch.nn.functional.pad(linear, (0, 1))
    exact = hessian + torch.diag_embed(torch.where(live, linear, 1.0))
    lower, info = torch.linalg.cholesky_ex(exact)
    if bool((info > 0).any()):  # not convex here: leave out the negative part
        safe = hessian + torch.diag_embed(torch.where(live, (1 + linear).clamp_min(1e-9), 1.0))
        lower = torch.where((info > 0)[:, None, None], torch.linalg.cholesky_ex(safe)[0], lower)
    step = -torch.cholesky_solve(gradient[..., None], lower)[..., 0]
    step = step.nan_to_num(0.0, 0.0, 0.0)
    return step, -(gradient * step).sum(1)


def minimise(problem: _Problem, x: Tensor, *, tolerance: float, max_steps: int) -> Tensor:
    """log T and log rho (S, W + 1) near the optimum, from a feasible ``x``."""
    size = problem.above.shape[2]
    sharpness = torch.full_like(x[:, 0], size)
    value, factor = problem.value(x, sharpness)
    done = torch.zeros_like(value, dtype=torch.bool)  # stays where it is while others go on
    for _ in range(max_steps):
        step, decrement = _newton(problem, x, factor, sharpness)
        usable = (decrement > 0) & value.isfinite() & ~done
        longest = step[:, :-1].abs().amax(1).clamp_min(_LONGEST)
        length = torch.where(usable, _LONGEST / longest, 0.0)
        for _ in range(25):
            new = x + length[:, None] * step
            value_new, _ = problem.value(new, sharpness)
            poor = (length > 0) & ~(value_new <= value - 0.05 * length * decrement)
            if not bool(poor.any()):
                break
            length = torch.where(poor, 0.5 * length, length)
        moved = (length > 0) & ~poor
        x = torch.where(moved[:, None], new, x)
        # Measured, the value is then about tolerance / 10 above the optimum.
        final = sharpness >= 0.05 * size / tolerance
        centred = (decrement < 1.0) | ~moved
        done = done | (centred & final)
        if bool(done.all()):
            break
        sharpness = torch.where(centred & ~final, _GROWTH * sharpness, sharpness)
        value, factor = problem.value(x, sharpness)
    return x

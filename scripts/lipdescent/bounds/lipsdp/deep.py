"""LipSDP-Neuron of a deep chain by Newton's method on a log-barrier, started from ECLipsE-Fast.

The barrier of :mod:`lipdescent.bounds.lipsdp.barrier` is minimised over log T for growing
sharpness (Boyd & Vandenberghe, Convex Optimization, ch. 11). At its minimum L is within a factor of
about 1 + N / (2 s) of the optimum, N the inputs and hidden units and s the sharpness.
"""

import math

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import unscaled_up
from lipdescent.bounds.lipsdp.barrier import Barrier, Point, barrier, derivatives, evaluate
from lipdescent.bounds.lipsdp.certificate import certify_chain, normalised
from lipdescent.bounds.lipsdp.multipliers import layer_multipliers
from lipdescent.deadline import over
from lipdescent.structure.scaling import with_lost
from lipdescent.structure.slope_intervals import Interval

_FIRST, _GROWTH = 0.1, 4.0  # sharpness per input and unit; by what it grows at most
# Sharpness at the end, times the tolerance: per input and unit, and at most. What is left is about
# half the rank of the optimal dual by the sharpness, and that rank does not grow with the width.
_LAST, _MOST = 0.05, 5.0
_LONGEST, _DAMPED = 3.0, 2.0  # a step in log T; a step in units of 1 / (1 + Newton's decrement)
_ROUGH = 10.0  # squared decrement at which a sharpness that is not the last one is left
_CENTRED = 0.5  # the same of the last one, by sharpness times tolerance, if that is above 1
_HALVINGS = 25


def deep_lipsdp(
    weights: list[Tensor], slopes: list[Interval], *, tolerance: float, max_steps: int
) -> Tensor:
    """Certified bound (S,) of a chain with two or more hidden layers, at any ``max_steps``."""
    small, slopes, exponent, lost = normalised(weights, slopes, balance=True)
    scalars, _ = layer_multipliers(small, slopes)
    start = [s[:, None].expand(-1, w.shape[1]) for s, w in zip(scalars, small[:-1], strict=True)]
    problem = barrier(small, slopes)
    log_t = torch.where(problem.live, torch.cat(start, 1), 1.0).log()
    log_t = minimise(problem, log_t, tolerance=tolerance, max_steps=max_steps)
    multipliers = [log_t[:, block].exp() for block in problem.blocks]
    return unscaled_up(with_lost(certify_chain(small, multipliers, slopes), lost), exponent)


def minimise(problem: Barrier, log_t: Tensor, *, tolerance: float, max_steps: int) -> Tensor:
    """log T (S, W) near the optimum, from a feasible one. Models that are done leave the batch."""
    found, left = log_t.clone(), torch.arange(len(log_t), device=log_t.device)
    # Measured, the value is then .1 to .9 of the tolerance above the optimum.
    first, scaled = _FIRST * problem.size, min(_LAST * problem.size, _MOST)
    last, near = scaled / tolerance, max(1.0, _CENTRED * scaled)
    stages = max(math.ceil(math.log(last / first) / math.log(_GROWTH)), 1)
    growth = (last / first) ** (1 / stages)
    sharpness = torch.full_like(log_t[:, 0], first)
    point = evaluate(problem, log_t, sharpness)
    for _ in range(max_steps):
        if over():
            break
        step, decrement = _newton(problem, point, sharpness)
        log_t, point, moved = _moved(problem, log_t, point, step, decrement, sharpness)
        found[left] = log_t
        ends = sharpness >= 0.99 * last
        centred = (decrement < torch.where(ends, decrement.new_tensor(near), _ROUGH)) | ~moved
        stays = ~(centred & ends)
        if not bool(stays.any()):
            break
        sharper = centred & stays
        if bool(sharper.any()) or not bool(stays.all()):
            sharpness = torch.where(sharper, growth * sharpness, sharpness)
            left, problem = left[stays], problem.take(stays)
            log_t, sharpness = log_t[stays], sharpness[stays]
            point = evaluate(problem, log_t, sharpness)
    return found


def _newton(problem: Barrier, point: Point, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """Newton step in log T (S, W) and squared decrement (S,)."""
    gradient, hessian, linear = derivatives(problem, point, sharpness)
    if not bool(problem.live.all()):
        live = torch.nn.functional.pad(problem.live, (0, 1), value=True)
        gradient = torch.where(live, gradient, 0.0)
        hessian = torch.where(live[:, None] & live[..., None], hessian, 0.0)
        linear = torch.where(problem.live, linear, 1.0)
    diagonal = hessian.diagonal(dim1=1, dim2=2)[:, :-1]
    diagonal += linear
    lower, info = torch.linalg.cholesky_ex(hessian)
    if bool((info > 0).any()):  # not convex here: leave out the negative part
        diagonal += (1 + linear).clamp_min(1e-9) - linear
        lower = torch.where((info > 0)[:, None, None], torch.linalg.cholesky_ex(hessian)[0], lower)
    step = -torch.cholesky_solve(gradient[..., None], lower)[..., 0]
    step = step.nan_to_num(0.0, 0.0, 0.0)
    return step[:, :-1], -(gradient * step).sum(1)


def _moved(
    problem: Barrier,
    log_t: Tensor,
    point: Point,
    step: Tensor,
    decrement: Tensor,
    sharpness: Tensor,
) -> tuple[Tensor, Point, Tensor]:
    """log T and its point after a step shortened until it pays, and which models have moved."""
    usable = (decrement > 0) & point.value.isfinite()
    # Damped as for a self-concordant function: longer steps end close to the boundary, and stay
    # there (Boyd & Vandenberghe, sec. 9.6.4).
    damped = (_DAMPED / (1 + decrement.clamp_min(0.0).sqrt())).clamp_max(1.0)
    length = torch.minimum(damped, _LONGEST / step.abs().amax(1).clamp_min(_LONGEST))
    length = torch.where(usable, length, 0.0)
    for _ in range(_HALVINGS):
        new = log_t + length[:, None] * step
        there = evaluate(problem, new, sharpness)
        poor = (length > 0) & ~(there.value <= point.value - 0.25 * length * decrement)
        if not bool(poor.any()):
            return new, there, length > 0
        length = torch.where(poor, 0.5 * length, length)
    length = torch.where(poor, 0.0, length)
    new = log_t + length[:, None] * step
    return new, evaluate(problem, new, sharpness), length > 0

"""Largest Jacobian norm over the data: C_lower of Khromov & Singh (2024, arXiv 2302.10886, eq. 4).

At a point where the network is differentiable the norm of its Jacobian is a lower bound on the
Lipschitz constant. Points within rounding of a kink prove nothing and are passed over (see
``_certified.py``). Beside the bound: mean, root mean square and quantiles of the norm, over all
points and with autograd's convention at kinks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lipdescent.bounds import Measurement
from lipdescent.bounds import _jacobian as jac
from lipdescent.bounds._certified import certify
from lipdescent.stacking import ModelStack

DIRECTION = "lower"
NORMS = jac.NORMS


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    quantiles: Sequence[float] = (),
) -> Iterator[Measurement]:
    """Yield ``lower_jacobian``, ``jacobian_norm_mean``, ``_rms`` and quantiles for each split.

    Parameters
    ----------
    inputs : split -> (n, *input_shape), at least one split.
    norms : among "l2", "linf", "l1".
    seed : not used, nothing is drawn.
    quantiles : in [0, 1]; .5 gives ``jacobian_norm_q50``, by linear interpolation.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        For inputs or weights that are not finite or do not fit, quantiles outside [0, 1], an
        unknown norm.
    """
    if not inputs:
        raise ValueError("inputs: no split; a lower bound on data needs at least one")
    for q in quantiles:
        if not 0 <= q <= 1:
            raise ValueError(f"quantiles: {q}; allowed are numbers in [0, 1]")
    for split, points in inputs.items():
        jac.check(stack, points, norms, what=split)
    # All splits at once: a model's table is built once.
    together = jac.jacobian_norms(stack, torch.cat(list(inputs.values())), norms=norms)
    sizes = [len(points) for points in inputs.values()]
    by_split = {norm: values.split(sizes, dim=1) for norm, values in together.items()}
    for position, (split, points) in enumerate(inputs.items()):
        for norm in norms:
            value = by_split[norm][position]
            bound = largest_certified(stack, points, value, norm=norm)
            yield Measurement("lower_jacobian", "lower", norm, bound, split)
            yield Measurement("jacobian_norm_mean", "metric", norm, value.mean(1), split)
            largest = value.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
            rms = (value / largest).square().mean(1).sqrt() * largest[:, 0]
            yield Measurement("jacobian_norm_rms", "metric", norm, rms, split)
            for q in quantiles:
                name = f"jacobian_norm_q{100 * q:g}"
                yield Measurement(name, "metric", norm, value.quantile(q, dim=1), split)


def jacobian_norms(stack: ModelStack, inputs: Tensor, *, norm: str = "l2") -> Tensor:
    """Jacobian norm of every model at every point: float64 (num_models, num_points).

    For splits by a property of the points, such as right against wrong predictions. A number at
    a kink is autograd's and no bound. See :func:`lipdescent.bounds._jacobian.jacobian_norms`.
    """
    return jac.jacobian_norms(stack, inputs, norms=[norm])[norm]


def largest_certified(
    stack: ModelStack, points: Tensor, values: Tensor, *, norm: str, first: int = 1
) -> Tensor:
    """Certified norm at the point with the largest value that proves one: (num_models,).

    Parameters
    ----------
    points : (n, *input_shape).
    values : (num_models, n), the norms at the points as :func:`jacobian_norms` gives them.
    first : candidates tried at once at first, four times as many in each further round.
    """
    points = points.to(stack.device)
    best = values.new_zeros(stack.num_models)
    todo = torch.arange(stack.num_models, device=values.device)
    start, count = 0, first
    while len(todo) and start < values.shape[1]:
        value, order = values[todo].topk(min(start + count, values.shape[1]), dim=1)
        best[todo] = certify(stack[todo], points[order[:, start:]], norm=norm).amax(1)
        # Where nothing is proven yet and the next candidates are not 0 for certain.
        todo = todo[(best[todo] == 0) & (value[:, -1] > 0)]
        start, count = start + count, 4 * count
    return best


def largest_jacobian(
    stack: ModelStack, points: Tensor, *, norms: Sequence[str], chunk: int = 2**13
) -> dict[str, Tensor]:
    """Norm -> certified maximum (num_models,) over any number of points (n, *input_shape)."""
    best: dict[str, Tensor] = {}
    for part in points.split(chunk):
        values = jac.jacobian_norms(stack, part, norms=norms)
        for norm in norms:
            found = largest_certified(stack, part, values[norm], norm=norm)
            best[norm] = torch.maximum(best[norm], found) if norm in best else found
    return best

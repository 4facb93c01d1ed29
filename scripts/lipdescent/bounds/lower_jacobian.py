"""Largest Jacobian norm over the data: C_lower of Khromov & Singh (2024, arXiv 2302.10886, eq. 4).

At a point where the network is differentiable the norm of its Jacobian is a lower bound on the
Lipschitz constant. Points within rounding of a kink prove nothing and are passed over; where no
proof is known, as for attention, the direction is "estimate" (``proofs/prover.py``). Beside the
bound: mean, root mean square and quantiles of the norm, and its means over the points that the
model classifies rightly and wrongly, with autograd's convention at kinks. On a CPU they rest on
products in float32 (:func:`jacobians.leading.all_norms`), the bound on float64.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.jacobians.leading import all_norms, all_pay, pays
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement
from lipdescent.points._parts import check_count
from lipdescent.shapes import Float, Float64, Shaped
from lipdescent.stacks.evaluation import outputs_of
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "lower"
NORMS = jac.NORMS
LARGEST = 48  # norms of each split of which is said where they are: a few more than begin a search


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    quantiles: Sequence[float] = (),
    labels: Mapping[str, Tensor] | None = None,
    num_points: int | None = None,
    domain: Mapping[str, Any] | Domain | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_jacobian``, ``jacobian_norm_mean``, ``_rms`` and quantiles for each split.

    With labels also ``jacobian_norm_mean_right`` and ``_wrong``; not defined for a model that has
    no right, or no wrong, prediction.

    Parameters
    ----------
    inputs : split -> (n, *input_shape), at least one split.
    norms : among "l2", "linf", "l1".
    seed : not used, nothing is drawn.
    quantiles : in [0, 1]; .5 gives ``jacobian_norm_q50``, by linear interpolation.
    labels : split -> int64 (n,) or (num_models, n).
    num_points : of each split only this many points, the first; a smaller but still a lower bound.
    domain : where the constant is taken, everywhere unless given; points are moved into it.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        For inputs or weights that are not finite or do not fit, quantiles outside [0, 1],
        num_points below 1, an unknown norm.
    """
    inputs = _checked(inputs, quantiles, num_points)
    jac.check_inputs(stack, inputs, norms)
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    # All splits at once: a model's table is built once.
    together = _norms(prover, torch.cat(list(inputs.values())), norms)
    sizes = [len(points) for points in inputs.values()]
    by_split = {norm: values.split(sizes, dim=1) for norm, values in together.items()}
    tells = prover.links is not None and pays(prover.links, sum(sizes))
    for position, (split, points) in enumerate(inputs.items()):
        right = None if labels is None else _right(stack, points, labels[split])
        for norm in norms:
            value = by_split[norm][position]
            bound = largest_certified(prover, points, value, norm=norm)
            where = value.topk(min(LARGEST, len(points))).indices if tells else None
            yield Measurement(
                "lower_jacobian", prover.direction, norm, bound, split, largest_at=where
            )
            for name, average, defined in _averages(value, right, quantiles):
                yield Measurement(f"jacobian_norm_{name}", "metric", norm, average, split, defined)


def _norms(prover: Prover, points: Tensor, norms: Sequence[str]) -> dict[str, Tensor]:
    """Norm -> (num_models, n), the largest in float64."""
    if prover.links is None or not all_pay(prover.links, len(points)):
        return jac.jacobian_norms(prover.stack, points, norms=norms)
    flat = points.flatten(1).to(torch.float64)
    return all_norms(prover.links, flat, norms=norms, count=min(LARGEST, len(points)))


def _checked(
    inputs: Mapping[str, Tensor], quantiles: Sequence[float], num_points: int | None
) -> Mapping[str, Tensor]:
    """The points used of each split."""
    for q in quantiles:
        if not 0 <= q <= 1:
            raise ValueError(f"quantiles: {q}; allowed are numbers in [0, 1]")
    if num_points is None:
        return inputs
    check_count("num_points", num_points)
    return {split: points[:num_points] for split, points in inputs.items()}


def _averages(
    values: Tensor, right: Tensor | None, quantiles: Sequence[float]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Name, value (num_models,) and where defined, of the norms (num_models, n) at the points."""
    yield "mean", values.mean(1), None
    largest = values.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    yield "rms", (values / largest).square().mean(1).sqrt() * largest[:, 0], None
    for name, chosen in () if right is None else (("right", right), ("wrong", ~right)):
        yield f"mean_{name}", _mean_where(values, chosen), chosen.any(1)
    for q in quantiles:
        yield f"q{100 * q:g}", values.quantile(q, dim=1), None


def combined(
    quantity: str, values: Float64[Tensor, "parts models"], counts: Shaped[Tensor, " parts"]
) -> Float64[Tensor, " models"]:
    """Of a set of points, (num_models,), by its parts: values (parts, num_models) and their sizes.

    Raises
    ------
    ValueError
        For a quantile, which needs all points at once.
    """
    share = (counts / counts.sum())[:, None]
    if quantity == "jacobian_norm_mean":
        return (share * values).sum(0)
    if quantity == "jacobian_norm_rms":
        largest = values.amax(0).clamp_min(torch.finfo(torch.float64).tiny)
        return (share * (values / largest).square()).sum(0).sqrt() * largest
    if quantity == "lower_jacobian":
        return values.amax(0)
    raise ValueError(f"{quantity} of {int(counts.sum())} points: allowed are sets in one part")


def _right(stack: ModelStack, points: Tensor, labels: Tensor) -> Tensor:
    """Where each model's largest logit is the label's: bool (num_models, n)."""
    dtype = next(t.dtype for t in stack.state.values() if t.is_floating_point())
    points = points.to(stack.device, dtype)
    predicted = torch.cat([logits.argmax(-1) for _, logits in outputs_of(stack, points)])
    return predicted == labels[..., : len(points)].to(stack.device)


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen points, (num_models,); NaN where there are none."""
    largest = values.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    total = torch.where(chosen, values / largest, 0.0).sum(1)
    return total / chosen.sum(1) * largest[:, 0]


def jacobian_norms(
    stack: ModelStack, inputs: Tensor, *, norm: str = "l2"
) -> Float64[Tensor, "models points"]:
    """Jacobian norm of every model at every point: float64 (num_models, num_points).

    For splits by a property of the points, such as right against wrong predictions. A number at
    a kink is autograd's and no bound. See :func:`lipdescent.bounds.jacobians.norms.jacobian_norms`.
    """
    return jac.jacobian_norms(stack, inputs, norms=[norm])[norm]


def largest_certified(
    prover: Prover,
    points: Float[Tensor, "points ..."],
    values: Float64[Tensor, "models points"],
    *,
    norm: str,
) -> Float64[Tensor, " models"]:
    """Certified norm at the point with the largest value that proves one: (num_models,).

    The first candidate is tried alone, and four times as many in each further round.

    Parameters
    ----------
    points : (n, *input_shape).
    values : (num_models, n), the norms at the points as :func:`jacobian_norms` gives them.
    """
    points = points.to(prover.stack.device)
    best = values.new_zeros(len(values))
    todo = torch.arange(len(values), device=values.device)
    start, count = 0, 1
    while len(todo) and start < values.shape[1]:
        value, order = values[todo].topk(min(start + count, values.shape[1]), dim=1)
        found = prover.certify(points[order[:, start:]], norm=norm, models=todo)
        best[todo] = found.amax(1)
        # Where nothing is proven yet and the next candidates are not 0 for certain.
        todo = todo[(best[todo] == 0) & (value[:, -1] > 0)]
        start, count = start + count, 4 * count
    return best


def largest_jacobian(
    prover: Prover, parts: Iterable[Tensor], *, norms: Sequence[str]
) -> dict[str, Tensor]:
    """Norm -> certified maximum (num_models,) over points in parts (n, *input_shape)."""
    best: dict[str, Tensor] = {}
    for part in parts:
        values = jac.jacobian_norms(prover.stack, part, norms=norms)
        for norm in norms:
            if norm not in best:
                best[norm] = values[norm].new_zeros(len(values[norm]))
            # A part whose norms are all below what is proved proves no more.
            left = values[norm].amax(1) > best[norm]
            if bool(left.any()):
                found = largest_certified(prover, part, values[norm], norm=norm)
                best[norm] = torch.where(left, torch.maximum(best[norm], found), best[norm])
    return best

"""Largest quotient |f(x) - f(y)| / |x - y| over all pairs of points: C_alt of Khromov & Singh.

2024, arXiv 2302.10886. All pairs of a split are compared, or random ones, from differences and not
from matrix products, which cancel for close pairs. From the best pairs rounding is deducted: for
chains of Linear and ReLU-like layers by a running error bound on f, for other known layers by
``forward_error.py``; for anything else the direction is "estimate" (``prover.py``).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.points._parts import check_count
from lipdescent.shapes import Float, Float64
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "lower"
NORMS = jac.NORMS
_CHUNK = 2**22  # pairs compared at once
_PAIRS = 2**16  # of random pairs, whose differences are held
_ORDERS = {"l2": 2.0, "linf": torch.inf, "l1": 1.0}


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    num_candidates: int = 16,
    num_pairs: int | None = None,
    domain: Mapping[str, Any] | Domain | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_pairs`` for each split and norm.

    Parameters
    ----------
    inputs : split -> (n, *input_shape), n >= 2, at least one split.
    seed : of the pairs; the same for all models, each split starts anew.
    num_candidates : best pairs of every block whose quotients are bounded with rounding.
    num_pairs : random pairs of each split, drawn with replacement; None: all pairs.
    domain : where the constant is taken, everywhere unless given; points are moved into it.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        As for ``lower_jacobian``, if a split has fewer than 2 points, or if ``num_pairs`` is not
        a positive integer.
    """
    if num_pairs is not None:
        check_count("num_pairs", num_pairs)
    jac.check_inputs(stack, inputs, norms)
    for split, points in inputs.items():
        if len(points) < 2:
            raise NotApplicable(f"{split or 'data'}: 1 point; a pair needs at least 2")
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    largest = partial(largest_quotient, prover)
    if num_pairs is not None:
        largest = partial(largest_of_pairs, prover, count=num_pairs, seed=seed)
    for split, points in inputs.items():
        for norm in norms:
            bound = largest(points, norm=norm, num_candidates=num_candidates)
            yield Measurement("lower_pairs", prover.direction, norm, bound, split)


@torch.no_grad()
def largest_quotient(
    prover: Prover,
    points: Float[Tensor, "points ..."],
    *,
    norm: str = "l2",
    num_candidates: int = 16,
) -> Float64[Tensor, " models"]:
    """Largest quotient (num_models,) over all pairs of points (n, *input_shape), rounded down."""
    models = range(prover.stack.num_models)
    points = points.to(prover.stack.device, torch.float64)
    flat = points.flatten(1)
    blocks = torch.arange(len(points), device=flat.device).split(max(1, _CHUNK // len(points)))
    outputs = [prover.evaluate(model, points)[0] for model in models]
    best = flat.new_zeros(len(models))
    for block in blocks:
        inverse = _distances(flat[block], flat, norm).reciprocal_()
        # Itself and its copies: no quotient. A pair is seen from its first point only.
        inverse[~inverse.isfinite() | (block[:, None] >= torch.arange(len(flat)).to(block))] = 0.0
        for index, values in enumerate(outputs):
            quotient = _distances(values[block], values, norm).mul_(inverse).flatten()
            pairs = quotient.topk(min(num_candidates, len(quotient))).indices
            first, second = points[block[pairs // len(flat)]], points[pairs % len(flat)]
            found = prover.quotients(index, first, second, norm=norm).amax()
            best[index] = torch.maximum(best[index], found)
    return best


@torch.no_grad()
def largest_of_pairs(
    prover: Prover,
    points: Float[Tensor, "points ..."],
    *,
    count: int,
    seed: int,
    norm: str = "l2",
    num_candidates: int = 16,
) -> Float64[Tensor, " models"]:
    """Largest quotient (num_models,) over ``count`` random pairs of points, rounded down."""
    models = range(prover.stack.num_models)
    points = points.to(prover.stack.device, torch.float64)
    flat, order = points.flatten(1), _ORDERS[norm]
    outputs = [prover.evaluate(model, points)[0] for model in models]
    best = flat.new_zeros(len(models))
    for pairs in random_pairs(len(points), count, seed):
        first, second = pairs.to(points.device)
        distance = torch.linalg.vector_norm(flat[first] - flat[second], ord=order, dim=1)
        inverse = torch.where(distance > 0, distance.reciprocal(), 0.0).nan_to_num(0.0, 0.0, 0.0)
        for index, values in enumerate(outputs):
            top = torch.linalg.vector_norm(values[first] - values[second], ord=order, dim=1)
            chosen = (top * inverse).topk(min(num_candidates, len(first))).indices
            a, b = points[first[chosen]], points[second[chosen]]
            best[index] = torch.maximum(
                best[index], prover.quotients(index, a, b, norm=norm).amax()
            )
    return best


def random_pairs(points: int, count: int, seed: int) -> Iterator[Tensor]:
    """``count`` pairs of different places (2, at most _PAIRS), block by block."""
    generator = torch.Generator().manual_seed(seed)
    for begin in range(0, count, _PAIRS):
        size = min(_PAIRS, count - begin)
        first = torch.randint(points, (size,), generator=generator)
        apart = torch.randint(1, points, (size,), generator=generator)
        yield torch.stack([first, (first + apart) % points])


def _distances(a: Tensor, b: Tensor, norm: str) -> Tensor:
    """(len(a), len(b)) distances between the rows."""
    return torch.cdist(a, b, p=_ORDERS[norm], compute_mode="donot_use_mm_for_euclid_dist")

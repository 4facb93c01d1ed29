"""Largest quotient |f(x') - f(x)| / |x' - x| over attacks: from each point x to where PGD ends, x'.

The attack quotient of Khromov & Singh (2024, arXiv 2302.10886, sec. 3.2 and table 3), of projected
gradient descent on the margin. Any two points prove a lower bound; rounding is deducted as for
``lower_pairs``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement
from lipdescent.points import pgd
from lipdescent.points._parts import some
from lipdescent.robustness import attacks
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "lower"
NORMS = attacks.NORMS


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    labels: Mapping[str, Tensor] | None = None,
    radius: float = 0.5,
    steps: int = 10,
    num_points: int | None = None,
    domain: Mapping[str, Any] | Domain | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_attack`` for each split and norm; the attack is in the norm of the bound.

    Parameters
    ----------
    inputs : split -> (n, *input_shape), at least one split.
    seed : of the random starts and of the choice of points.
    labels : split -> int64 (n,) or (num_models, n); without, attacks go against the prediction.
    radius : of the attack, in units of the inputs, > 0.
    steps : of the attack, >= 1.
    num_points : points of each split, drawn by ``seed``; None: all.
    domain : where the constant is taken, everywhere unless given; points are moved into it.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        As for ``lower_jacobian``, or if an option is not as above.
    """
    jac.check_inputs(stack, inputs, norms)
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    for norm in norms:
        ends = pgd.draw(
            stack,
            inputs,
            labels=labels,
            seed=seed,
            radius=radius,
            norm=cast(pgd.Norm, norm),
            steps=steps,
            num_points=num_points,
        )
        for split, found in ends.items():
            starts = some(inputs[split], num_points, seed).to(stack.device, torch.float64)
            best = starts.new_zeros(stack.num_models)
            begin = 0
            for part in found.parts():
                own = starts[begin : begin + part.shape[1]]
                begin += len(own)
                quotients = [
                    prover.quotients(model, points, own, norm=norm).amax()
                    for model, points in enumerate(part)
                ]
                best = torch.maximum(best, torch.stack(quotients))
            yield Measurement("lower_attack", prover.direction, norm, best, split)

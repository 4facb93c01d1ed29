"""Largest Jacobian norm over Gaussian points with the data's mean and standard deviation.

Each feature is drawn on its own with the mean and the (population) standard deviation that it has
in the split: off the data but on their scale, beside the convex combinations of Khromov & Singh
(2024, arXiv 2302.10886).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.lower_jacobian import largest_jacobian
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement
from lipdescent.points import gaussian
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "lower"
NORMS = jac.NORMS


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    num_points: int = 1000,
    domain: Mapping[str, Any] | Domain | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_gaussian`` for each split and norm.

    Parameters
    ----------
    inputs : split -> (n, *input_shape); gives the means and standard deviations.
    seed : of the points; the same for all models, each split starts anew.
    num_points : Gaussian points per split.
    domain : where the constant is taken, everywhere unless given; points are moved into it.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        As for ``lower_jacobian``, or if ``num_points`` is not a positive integer.
    """
    jac.check_inputs(stack, inputs, norms)
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    sets = gaussian.draw(stack, inputs, seed=seed, num_points=num_points)
    for split, drawn in sets.items():
        found = largest_jacobian(prover, drawn.parts(), norms=norms)
        for norm in norms:
            yield Measurement("lower_gaussian", prover.direction, norm, found[norm], split)

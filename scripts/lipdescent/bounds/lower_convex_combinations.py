"""Largest Jacobian norm over data and convex combinations of pairs: C_S* of Khromov & Singh.

2024, arXiv 2302.10886, sec. 3.2: the points, and lambda x_i + (1 - lambda) x_j for random pairs
of points of the same split (100,000 pairs for each lambda in .1 ... .5 in the paper, of train and
of test points; its S* is the larger of the two).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.lower_jacobian import largest_jacobian
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement
from lipdescent.points import convex_combinations
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "lower"
NORMS = jac.NORMS


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    num_pairs: int = 1000,
    lambdas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    domain: Mapping[str, Any] | Domain | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_convex_combinations`` for each split and norm.

    Parameters
    ----------
    inputs : split -> (n, *input_shape), at least one split.
    seed : of the pairs; the same for all models, each split starts anew.
    num_pairs : random pairs for each of ``lambdas``.
    lambdas : weights of the first point, in [0, 1].
    domain : where the constant is taken, everywhere unless given; points are moved into it.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        As for ``lower_jacobian``, or if an option is not as above.
    """
    jac.check_inputs(stack, inputs, norms)
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    sets = convex_combinations.draw(stack, inputs, seed=seed, num_pairs=num_pairs, lambdas=lambdas)
    for split, drawn in sets.items():
        found = largest_jacobian(prover, drawn.parts(), norms=norms)
        for norm in norms:
            yield Measurement(
                "lower_convex_combinations", prover.direction, norm, found[norm], split
            )

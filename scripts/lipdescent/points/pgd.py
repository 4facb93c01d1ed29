"""Where projected gradient descent on the margin ends, from each data point: each model's own.

Khromov & Singh (2024, arXiv 2302.10886) take Jacobian norms at PGD points (table 3). What the
attack goes against is the label, or the model's prediction where no labels are given.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

from torch import Tensor

from lipdescent.points._parts import Points, check_inputs, chosen, of_tensor
from lipdescent.robustness import attacks
from lipdescent.stacks.model_stack import ModelStack

Norm = Literal["l2", "linf"]


def draw(
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    labels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    radius: float = 0.5,
    norm: Norm = "l2",
    steps: int = 10,
    num_points: int | None = None,
) -> dict[str, Points]:
    """Points within ``radius``, in ``norm``, of ``num_points`` of each split (None: of all).

    Parameters
    ----------
    seed : of the random starts and of the choice of points.
    radius : in units of the inputs, > 0.
    steps : of the attack, >= 1.
    """
    check_inputs(inputs)
    found = {}
    for split, points in inputs.items():
        index = chosen(points, num_points, seed)
        own = None if labels is None else labels[split][..., index.to(labels[split].device)]
        make = partial(
            _parts, stack, points[index.to(points.device)], own, radius, norm, seed, steps
        )
        found[split] = Points(len(index), make, own=True)
    return found


def _parts(
    stack: ModelStack,
    points: Tensor,
    labels: Tensor | None,
    radius: float,
    norm: str,
    seed: int,
    steps: int,
) -> Iterator[Tensor]:
    # Drawn at once: what a point starts from does not depend on the parts, so not on stack-mates.
    noise, begin = attacks.noise(points, norm, seed), 0
    for part in of_tensor(points, models=stack.num_models):
        here = slice(begin, begin + len(part))
        own = None if labels is None else labels[..., here]
        yield attacks.perturbed(
            stack, part, own, start=noise[here], radius=radius, norm=norm, steps=steps
        )
        begin += len(part)

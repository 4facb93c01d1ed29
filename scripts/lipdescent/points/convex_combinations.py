"""Data and convex combinations of pairs: the set S* of Khromov & Singh.

2024, arXiv 2302.10886, sec. 3.2: the points, and lambda x_i + (1 - lambda) x_j for random pairs
of points of the same split (100,000 pairs for each lambda in .1 ... .5 in the paper, of train and
of test points: with MNIST1D's 5,000 points 1,005,000).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lipdescent.points._parts import Points, check_count, check_inputs, of_tensor
from lipdescent.stacks.model_stack import ModelStack


def draw(
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    labels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    num_pairs: int = 1000,
    lambdas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
) -> dict[str, Points]:
    """Each split's points and its combinations.

    Parameters
    ----------
    seed : of the pairs; each split starts anew.
    num_pairs : random pairs for each of ``lambdas``.
    lambdas : weights of the first point, in [0, 1].

    Raises
    ------
    ValueError
        Without data, or if an option is not as above.
    """
    check_inputs(inputs)
    check_count("num_pairs", num_pairs)
    for weight in lambdas:
        if not 0 <= weight <= 1:
            raise ValueError(f"lambdas: {weight}; allowed are numbers in [0, 1]")

    def parts(points: Tensor) -> Iterator[Tensor]:
        points = points.to(torch.float64)
        yield from of_tensor(points)
        yield from combinations(points, num_pairs=num_pairs, lambdas=lambdas, seed=seed)

    more = num_pairs * len(lambdas)
    return {split: Points(len(x) + more, partial(parts, x)) for split, x in inputs.items()}


def combinations(
    points: Tensor, *, num_pairs: int, lambdas: Sequence[float], seed: int
) -> Iterator[Tensor]:
    """lambda x_i + (1 - lambda) x_j, float64, ``num_pairs`` for each lambda, in parts."""
    generator = torch.Generator().manual_seed(seed)
    points = points.to(torch.float64)
    for weight in lambdas:
        pairs = torch.randint(len(points), (2, num_pairs), generator=generator).to(points.device)
        for index in of_tensor(pairs.T, models=points[0].numel()):
            first, second = points[index.T]
            yield weight * first + (1 - weight) * second

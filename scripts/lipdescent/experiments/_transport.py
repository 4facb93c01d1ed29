"""The Wasserstein-1 distance of two finite samples: a matching from above, critics from below.

Between n points and n points of equal weight a cheapest plan is a matching (Birkhoff), so the
distance is the least mean length of the n pairs. By the duality of Kantorovich and Rubinstein no
1-Lipschitz function tells the samples' means further apart.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.robustness.logit_error import logit_error
from lipdescent.stacks.model_stack import ModelStack


def exact_distance(first: Tensor, second: Tensor) -> float:
    """W1 in l2 between two samples (n, *shape) of equal weights, by the best matching.

    The matching found is one of them all, so its mean length, rounded up, is at least the distance
    whatever the solver did; where the solver is right it exceeds it by rounding alone.

    Raises
    ------
    ValueError
        If the samples differ in size (weights are then needed) or in shape, or are empty.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"samples of shapes {tuple(first.shape)} and {tuple(second.shape)}: allowed are as "
            "many points in both, of one shape; others need weights"
        )
    if len(first) == 0:
        raise ValueError("empty samples: allowed are one point and more")
    one, other = (sample.double().flatten(1) for sample in (first, second))
    rough = torch.cdist(one, other).numpy()
    rows, columns = linear_sum_assignment(rough)
    pairs = one[rows] - other[columns]
    # Sums of d squares and of n lengths, each in n or d roundings of terms that are not negative.
    lengths = pairs.square().sum(1).sqrt()
    mean = lengths.sum() / len(lengths)
    unit = ulps.gamma(pairs.shape[1] + len(pairs) + 8)
    return float(np.nextafter(mean.item() * (1 + unit), np.inf))


def dual_estimate(stack: ModelStack, first: Tensor, second: Tensor) -> Tensor:
    """Mean of f over ``first`` less that over ``second``, rounded down: float64 (num_models,).

    At most the distance of the two samples, as every critic is 1-Lipschitz.

    Parameters
    ----------
    stack : critics with one output and certified weights.
    first, second : (n, *input_shape) and (m, *input_shape).

    Raises
    ------
    ValueError
        If the certified constant of a critic exceeds 1, naming the first.
    """
    constants = layer_product(stack)
    wrong = (~(constants <= 1)).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"critic {wrong[0]} has a certified constant of {constants[wrong[0]].item()!r}: "
            "allowed are critics of at most 1, as others estimate no distance"
        )
    stack = stack.to(dtype=torch.float64)
    means = []
    for sample, sign in ((first.double(), 1), (second.double(), -1)):
        values, error = stack(sample)[..., 0], logit_error(stack, sample)
        # A sum of n numbers is off by at most gamma(n) times the sum of their sizes.
        spread = ulps.gamma(len(sample) + 4) * (values.abs() + error).sum(1)
        means.append((sign * values.sum(1) - error.sum(1) - 2 * spread) / len(sample))
    return ulps.round_down(means[0] + means[1], 4)

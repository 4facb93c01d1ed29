"""The data themselves, a random subset of them, or all splits as one set."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from lipdescent.points._parts import Points, check_inputs, of_tensor, some
from lipdescent.stacks.model_stack import ModelStack


def draw(
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    labels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    num_points: int | None = None,
    pooled: bool = False,
) -> dict[str, Points]:
    """``num_points`` of each split, drawn by ``seed``; all for None.

    ``pooled``: of all splits together, as the split ``train+test``.
    """
    check_inputs(inputs)
    if pooled:
        inputs = {"+".join(inputs): torch.cat(list(inputs.values()))}
    kept = {split: some(points, num_points, seed) for split, points in inputs.items()}
    return {
        split: Points(len(points), partial(of_tensor, points)) for split, points in kept.items()
    }

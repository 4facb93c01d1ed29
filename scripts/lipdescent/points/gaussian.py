"""Gaussian points with the data's mean and standard deviation.

Each feature is drawn on its own with the mean and the (population) standard deviation that it has
in the split: off the data but on their scale.
"""

from collections.abc import Iterator, Mapping
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
    num_points: int = 1000,
) -> dict[str, Points]:
    """``num_points`` points per split, drawn by ``seed``; each split starts anew."""
    check_inputs(inputs)
    check_count("num_points", num_points)
    return {
        split: Points(num_points, partial(_parts, points, num_points, seed))
        for split, points in inputs.items()
    }


def _parts(points: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    points = points.to(torch.float64)
    mean, spread = points.mean(0), points.std(0, correction=0)
    generator = torch.Generator().manual_seed(seed)
    for index in of_tensor(torch.arange(count)[:, None], models=mean.numel()):
        noise = torch.randn(len(index), *mean.shape, generator=generator, dtype=torch.float64)
        yield mean + spread * noise.to(points.device)

"""Data points with Gaussian noise: x + r N(0, I), of Khromov & Singh (2024, arXiv 2302.10886)."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from lipdescent.points._parts import Points, check_count, check_inputs, of_tensor, some
from lipdescent.stacks.model_stack import ModelStack


def draw(
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    labels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    radius: float = 0.1,
    num_copies: int = 1,
    num_points: int | None = None,
) -> dict[str, Points]:
    """``num_copies`` noisy copies of each point (of ``num_points`` of each split; None: of all).

    ``radius`` is the standard deviation of each feature's noise, in units of the inputs, >= 0.
    """
    check_inputs(inputs)
    check_count("num_copies", num_copies)
    if not 0 <= radius < float("inf"):
        raise ValueError(f"radius = {radius!r}: allowed are finite numbers >= 0")
    kept = {split: some(points, num_points, seed) for split, points in inputs.items()}
    return {
        split: Points(num_copies * len(points), partial(_parts, points, num_copies, radius, seed))
        for split, points in kept.items()
    }


def _parts(points: Tensor, copies: int, radius: float, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(copies):
        for part in of_tensor(points.to(torch.float64)):
            noise = torch.randn(part.shape, generator=generator, dtype=torch.float64)
            yield part + radius * noise.to(points.device)

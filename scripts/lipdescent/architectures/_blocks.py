"""Pieces the image architectures share.

Only containers whose structure can be walked: ``nn.Sequential`` and :class:`Residual`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Residual(nn.Module):
    """``branch(x) + skip(x)``; the skip connection is the identity unless given."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.skip(x)


def image_side(input_shape: Sequence[int]) -> tuple[int, int]:
    """``(channels, side)`` of square images (channels, side, side).

    Raises
    ------
    ValueError
        If the inputs are something else.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(
            f"input_shape = {tuple(input_shape)}: allowed are square images (channels, side, side)"
        )
    return input_shape[0], input_shape[1]


def pools_to_one(side: int, pools: Sequence[int] | None, *, count: int) -> tuple[int, ...]:
    """Sizes of the max pool after each of ``count`` convolutions that leave one pixel of ``side``.

    By default 1, 2, 2, ..., and the rest last: (1, 2, 2, 8) for 32 x 32, (1, 2, 2, 7) for 28 x 28.

    Raises
    ------
    ValueError
        If the pools do not divide the side down to one pixel.
    """
    if pools is None:
        step = 2 ** (count - 2)
        if side < step or side % step:
            raise ValueError(
                f"wrong image size for the pools: {side} x {side}, allowed are multiples of {step} "
                f"(or set pools to {count} integers whose product is {side})"
            )
        return (1, *[2] * (count - 2), side // step)
    if len(pools) != count or min(pools) < 1 or math.prod(pools) != side:
        raise ValueError(
            f"wrong image size for the pools: {side} x {side} with pools {list(pools)}, "
            f"allowed are {count} positive integers whose product is {side}"
        )
    return tuple(pools)


def four_convolutions(
    width: int,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    pools: Sequence[int] | None,
    bias: bool,
    batchnorm: bool,
) -> nn.Sequential:
    """Four 3 x 3 convolutions with w, 2w, 4w, 8w channels, max pools, one linear layer."""
    channels, side = image_side(input_shape)
    sizes = [channels, width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = []
    for i, pool in enumerate(pools_to_one(side, pools, count=4)):
        layers.append(nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, bias=bias))
        if batchnorm:
            layers.append(nn.BatchNorm2d(sizes[i + 1]))
        layers.append(nn.ReLU())
        if pool > 1:
            layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1], num_classes, bias=bias))

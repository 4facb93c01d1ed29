"""Residual network with circular convolutions whose branches are kept small.

The scheme of Smith et al. (2021, arXiv 2106.02469): x + g(x) is bi-Lipschitz where g is a
contraction. Signals (length,) or (channels, length) in one dimension, images in two.
"""

import math
from functools import partial
from typing import Literal

from torch import nn

from lipdescent.architectures import _sizes
from lipdescent.architectures._blocks import Residual
from lipdescent.architectures._limits import Limit
from lipdescent.constrained.constraints import SpectralConvolution, constrain
from lipdescent.constrained.layers import GroupSort, InvertibleDownsampling

SIZES = _sizes.lifted
WIDTH_UNIT = "channels"
ACTIVATIONS = {"relu": nn.ReLU, "maxmin": GroupSort, "none": nn.Identity}
CONVOLUTION: dict[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
DOWNSAMPLINGS = ("average", "invertible", "strided")


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    stages: int = 3,
    blocks: int = 2,
    coefficient: float | None = None,
    normalisation: Literal["soft", "hard"] = "soft",
    batchnorm: bool = False,
    activation: Literal["relu", "maxmin", "none"] = "relu",
    downsampling: Literal["average", "invertible", "strided"] = "average",
    kernel: int = 3,
) -> nn.Sequential:
    """Isometric lift to ``width`` channels, ``stages`` of residual blocks, a linear layer.

    Everything before the last two layers (flatten, linear) is the feature map. A branch is
    convolution, activation, convolution, each behind a BatchNorm if ``batchnorm``, which then has
    an activation behind it.

    Parameters
    ----------
    coefficient : largest norm c of every convolution (on its real input size) and BatchNorm of a
        branch, or null for none; a branch's constant is at most c^2, with BatchNorm c^4.
    normalisation : "soft" divides what exceeds the coefficient, "hard" brings every norm to it.
    activation : "relu", "maxmin" or "none" (a linear network).
    downsampling : between stages, "average" (pool of 2), "invertible" (space to depth) or
        "strided": the first block of a stage has stride 2, and as its skip connection a 1 x 1
        convolution with stride 2 and a norm of at most ``coefficient``, not the identity.

    Raises
    ------
    ValueError
        If the inputs are of another kind, a size is not divisible, or an option is unknown.
    """
    _check(activation, downsampling)
    limit = Limit(coefficient, normalisation)
    channels, sizes = SIZES(
        width,
        input_shape=input_shape,
        stages=stages,
        activation=activation,
        coefficient=coefficient,
    )
    layers: list[nn.Module] = [nn.Unflatten(1, (1, *sizes))] if len(input_shape) == 1 else []
    layers.append(_lift(channels, width, sizes))
    block = partial(_block, limit, kernel=kernel, activation=activation, batchnorm=batchnorm)
    for stage in range(stages):
        strided = downsampling == "strided" and stage > 0
        if stage and not strided:
            layer, width = _downsampled(width, len(sizes), downsampling)
            layers.append(layer)
            sizes = tuple(n // 2 for n in sizes)
        for i in range(blocks):
            stride = 2 if strided and not i else 1
            layers.append(block(width, sizes, stride))
            sizes = tuple(n // stride for n in sizes)
    features = width * math.prod(sizes)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, num_classes))


def _check(activation: str, downsampling: str) -> None:
    for name, value, allowed in (
        ("activation", activation, ACTIVATIONS),
        ("downsampling", downsampling, DOWNSAMPLINGS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")


def _lift(channels: int, width: int, sizes: tuple[int, ...]) -> nn.Module:
    """An isometry to ``width`` channels, pixel by pixel."""
    lift = CONVOLUTION[len(sizes)](channels, width, 1, bias=False)
    nn.init.orthogonal_(lift.weight)
    return constrain(lift, SpectralConvolution(lift, sizes, orthonormal=True))


def _downsampled(width: int, dims: int, how: str) -> tuple[nn.Module, int]:
    """What halves the sizes, and the channels behind it."""
    if how == "average":
        return POOL[dims](2), width
    return InvertibleDownsampling(2), width * 2**dims


def _block(
    limit: Limit,
    width: int,
    sizes: tuple[int, ...],
    stride: int,
    *,
    kernel: int,
    activation: str,
    batchnorm: bool,
) -> Residual:
    """Two convolutions, the first with the stride, beside the identity or a strided 1 x 1 one."""
    branch: list[nn.Module] = []
    skip = _convolution(limit, width, sizes, kernel=1, stride=stride) if stride > 1 else None
    for i in range(2):
        if batchnorm:
            branch.append(limit.batch_norm(width, len(sizes)))
        if i or batchnorm:
            branch.append(ACTIVATIONS[activation]())
        own = 1 if i else stride
        branch.append(_convolution(limit, width, sizes, kernel=kernel, stride=own))
        sizes = tuple(n // stride for n in sizes)
    return Residual(nn.Sequential(*branch), skip)


def _convolution(
    limit: Limit, width: int, sizes: tuple[int, ...], *, kernel: int, stride: int
) -> nn.Module:
    layer = CONVOLUTION[len(sizes)](
        width, width, kernel, stride=stride, padding=kernel // 2, padding_mode="circular"
    )
    return limit.convolution(layer, sizes)

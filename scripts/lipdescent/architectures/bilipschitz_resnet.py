"""Residual network with circular convolutions whose branches are kept small.

The scheme of Smith et al. (2021, arXiv 2106.02469): x + g(x) is bi-Lipschitz where g is a
contraction. Signals (length,) or (channels, length) in one dimension, images in two.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn

from lipdescent.architectures import _sizes
from lipdescent.architectures._blocks import Residual
from lipdescent.constrained.constraints import SpectralConvolution, constrain
from lipdescent.constrained.layers import (
    GroupSort,
    InvertibleDownsampling,
    LimitedBatchNorm1d,
    LimitedBatchNorm2d,
)

SIZES = _sizes.lifted
WIDTH_UNIT = "channels"
ACTIVATIONS = {"relu": nn.ReLU, "maxmin": GroupSort, "none": nn.Identity}
CONVOLUTION: dict[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
LIMITED_NORM = {1: LimitedBatchNorm1d, 2: LimitedBatchNorm2d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


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
    _check(activation, downsampling, normalisation)
    soft = normalisation == "soft"
    channels, sizes = SIZES(
        width,
        input_shape=input_shape,
        stages=stages,
        activation=activation,
        coefficient=coefficient,
    )
    layers: list[nn.Module] = [nn.Unflatten(1, (1, *sizes))] if len(input_shape) == 1 else []
    dims = len(sizes)
    lift = CONVOLUTION[dims](channels, width, 1, bias=False)
    nn.init.orthogonal_(lift.weight)
    layers.append(constrain(lift, SpectralConvolution(lift, sizes, orthonormal=True)))
    options = {"kernel": kernel, "coefficient": coefficient, "soft": soft}
    for stage in range(stages):
        strided = downsampling == "strided" and stage > 0
        if stage and not strided:
            sizes = tuple(n // 2 for n in sizes)
            if downsampling == "average":
                layers.append(POOL[dims](2))
            else:
                layers.append(InvertibleDownsampling(2))
                width *= 2**dims
        for i in range(blocks):
            stride = 2 if strided and not i else 1
            layers.append(_block(width, sizes, stride, activation, batchnorm, options))
            sizes = tuple(n // stride for n in sizes)
    features = width * math.prod(sizes)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, num_classes))


def _check(activation: str, downsampling: str, normalisation: str) -> None:
    for name, value, allowed in (
        ("activation", activation, ACTIVATIONS),
        ("downsampling", downsampling, ("average", "invertible", "strided")),
        ("normalisation", normalisation, ("soft", "hard")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")


def _block(
    width: int,
    sizes: tuple[int, ...],
    stride: int,
    activation: str,
    batchnorm: bool,
    options: dict[str, Any],
) -> Residual:
    """Two convolutions, the first with the stride, beside the identity or a strided 1 x 1 one."""
    branch: list[nn.Module] = []
    skip = _convolution(width, sizes, stride, **options | {"kernel": 1}) if stride > 1 else None
    for i in range(2):
        if batchnorm:
            limit = options["coefficient"], options["soft"]
            branch.append(_batch_norm(width, len(sizes), *limit))
        if i or batchnorm:
            branch.append(ACTIVATIONS[activation]())
        branch.append(_convolution(width, sizes, 1 if i else stride, **options))
        sizes = tuple(n // stride for n in sizes)
    return Residual(nn.Sequential(*branch), skip)


def _convolution(
    width: int,
    sizes: tuple[int, ...],
    stride: int,
    *,
    kernel: int,
    coefficient: float | None,
    soft: bool,
) -> nn.Module:
    layer = CONVOLUTION[len(sizes)](
        width, width, kernel, stride=stride, padding=kernel // 2, padding_mode="circular"
    )
    if coefficient is None:
        return layer
    return constrain(layer, SpectralConvolution(layer, sizes, constant=coefficient, soft=soft))


def _batch_norm(width: int, dims: int, coefficient: float | None, soft: bool) -> nn.Module:
    if coefficient is None:
        return NORM[dims](width)
    return LIMITED_NORM[dims](width, constant=coefficient, soft=soft)

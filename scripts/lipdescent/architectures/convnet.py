"""The ConvNet of Gamba et al. (2023, arXiv 2301.12309): Nakkiran's CNN, without BatchNorm.

As in their public code (models/conv.py of the paper's repository): biases everywhere, average
pools of 2 behind the second and third convolution and over all that is left behind the fourth.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from lipdescent.architectures import _sizes
from lipdescent.architectures._blocks import four_convolutions

SIZES = _sizes.pools_to_one
WIDTH_UNIT = "channels"
POOLS: dict[str, type[nn.AvgPool2d] | type[nn.MaxPool2d]] = {
    "average": nn.AvgPool2d,
    "max": nn.MaxPool2d,
}


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    pools: Sequence[int] | None = None,
    bias: bool = True,
    pooling: Literal["average", "max"] = "average",
) -> nn.Sequential:
    """Four 3 x 3 convolutions with w, 2w, 4w, 8w channels, ReLU, pools, a linear layer.

    On CIFAR-10 (3 x 32 x 32, 10 classes) it has ``378 w**2 + 122 w + 10`` parameters.

    Parameters
    ----------
    pools : size of the pool after each convolution, their product is the side of the image; by
        default 1, 2, 2 and a quarter of the side.
    pooling : "average", as Gamba et al. have it, or "max", as Nakkiran et al. have it.

    Raises
    ------
    ValueError
        If the inputs are not square images, their side does not fit the pools, or ``pooling`` is
        something else.
    """
    if pooling not in POOLS:
        raise ValueError(f"pooling = {pooling!r}: allowed are {', '.join(POOLS)}")
    return four_convolutions(
        width,
        input_shape=input_shape,
        num_classes=num_classes,
        pools=pools,
        bias=bias,
        batchnorm=False,
        pool_type=POOLS[pooling],
    )

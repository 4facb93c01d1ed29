"""A ConvNet after Gamba et al. (2023, arXiv 2301.12309): Nakkiran's CNN without BatchNorm.

Biases and pools are assumed, as the example in their code's README has them; not verified against
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipdescent.architectures import _sizes
from lipdescent.architectures._blocks import four_convolutions

SIZES = _sizes.pools_to_one


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    pools: Sequence[int] | None = None,
    bias: bool = True,
) -> nn.Sequential:
    """Four 3 x 3 convolutions with w, 2w, 4w, 8w channels, ReLU, max pools, a linear layer.

    On CIFAR-10 (3 x 32 x 32, 10 classes) it has ``378 w**2 + 122 w + 10`` parameters.

    Parameters
    ----------
    pools : size of the max pool after each convolution, their product is the side of the image;
        by default 1, 2, 2 and a quarter of the side.

    Raises
    ------
    ValueError
        If the inputs are not square images, or their side does not fit the pools.
    """
    return four_convolutions(
        width,
        input_shape=input_shape,
        num_classes=num_classes,
        pools=pools,
        bias=bias,
        batchnorm=False,
    )

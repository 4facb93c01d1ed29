"""The CNN of Khromov & Singh (2024, arXiv 2302.10886): no biases, no BatchNorm."""

from collections.abc import Sequence

from torch import nn

from lipdescent.architectures import _sizes
from lipdescent.architectures._blocks import four_convolutions

SIZES = _sizes.pools_to_one
WIDTH_UNIT = "channels"


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    pools: Sequence[int] | None = None,
    bias: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Four 3 x 3 convolutions with w, 2w, 4w, 8w channels, ReLU, max pools, a linear layer.

    On CIFAR-10 (3 x 32 x 32, 10 classes) it has ``378 w**2 + 107 w`` parameters.

    Parameters
    ----------
    pools : size of the max pool after each convolution, their product is the side of the image;
        by default 1, 2, 2 and a quarter of the side.
    dropout : probability in [0, 1) of an entry behind each activation (and its pool) to be dropped
        in training.

    Raises
    ------
    ValueError
        If the inputs are not square images, their side does not fit the pools, or dropout is not
        in [0, 1).
    """
    return four_convolutions(
        width,
        input_shape=input_shape,
        num_classes=num_classes,
        pools=pools,
        bias=bias,
        batchnorm=False,
        drop=dropout,
    )

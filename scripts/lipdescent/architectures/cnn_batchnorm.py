"""The CNN with BatchNorm of Nakkiran et al. (2020, arXiv 1912.02292), biases everywhere."""

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
    bias: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Four 3 x 3 convolutions with w, 2w, 4w, 8w channels, BatchNorm, ReLU, max pools, linear.

    On CIFAR-10 (3 x 32 x 32, 10 classes) of width 64 it has 1,558,026 parameters. Options and
    errors as :func:`lipdescent.architectures.cnn.build`.
    """
    return four_convolutions(
        width,
        input_shape=input_shape,
        num_classes=num_classes,
        pools=pools,
        bias=bias,
        batchnorm=True,
        drop=dropout,
    )

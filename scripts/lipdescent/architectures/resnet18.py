"""Pre-activation ResNet18 of any width (He et al. 2016, arXiv 1603.05027), for small images.

As in Nakkiran et al. (2020, arXiv 1912.02292): stages of w, 2w, 4w, 8w channels, no BatchNorm
before the last pool. Gamba et al. (2023, arXiv 2301.12309) leave BatchNorm out altogether.
"""

from torch import nn

from lipdescent.architectures import _blocks, _sizes
from lipdescent.architectures._blocks import Residual

SIZES = _sizes.multiple_of_8
WIDTH_UNIT = "channels"
STRIDES = (1, 2, 2, 2)
BLOCKS_PER_STAGE = 2


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    batchnorm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolution, four stages of two residual blocks, average pool, linear layer.

    On CIFAR-10 of width 64 it has 11,171,146 parameters with BatchNorm.

    Parameters
    ----------
    dropout : probability in [0, 1) of an entry before the second convolution of each branch to be
        dropped in training (Zagoruyko & Komodakis 2016, arXiv 1605.07146, sec. 2.4).

    Raises
    ------
    ValueError
        If the inputs are not square images whose side is a multiple of 8, or dropout is not in
        [0, 1).
    """
    SIZES(width, input_shape=input_shape)
    channels, side = input_shape[:2]
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    channels = width
    for stage, stride in enumerate(STRIDES):
        for i in range(BLOCKS_PER_STAGE):
            block_stride = stride if i == 0 else 1
            out = width * 2**stage
            layers.append(
                _block(channels, out, stride=block_stride, batchnorm=batchnorm, drop=dropout)
            )
            channels = out
    return nn.Sequential(
        *layers, nn.AvgPool2d(side // 8), nn.Flatten(), nn.Linear(channels, num_classes)
    )


def _block(channels: int, out: int, *, stride: int, batchnorm: bool, drop: float) -> nn.Module:
    """(BatchNorm, ReLU, convolution) twice, added to its input.

    Where the shape changes, the skip connection is a 1 x 1 convolution of the activated input.
    """

    def activate(features: int) -> list[nn.Module]:
        return [*([nn.BatchNorm2d(features)] if batchnorm else []), nn.ReLU()]

    convolutions = [
        nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
        *activate(out),
        *_blocks.dropout(drop),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
    ]
    if stride == 1 and channels == out:
        return Residual(nn.Sequential(*activate(channels), *convolutions))
    skip = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
    return nn.Sequential(*activate(channels), Residual(nn.Sequential(*convolutions), skip))

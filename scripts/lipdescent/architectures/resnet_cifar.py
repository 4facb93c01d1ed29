"""The ResNets of 6n + 2 layers for small images (He et al. 2016, arXiv 1512.03385, sec. 4.2).

ResNet20 is n = 3 blocks in each of three stages of w, 2w, 4w channels, w = 16 in the paper. Where
the shape changes, the skip connection is a 1 x 1 convolution (the paper's option B).
"""

from torch import nn

from lipdescent.architectures import _blocks, _sizes

SIZES = _sizes.multiple_of_4
WIDTH_UNIT = "channels"
STAGES = 3


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    blocks: int = 3,
    batchnorm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolution, three stages of ``blocks`` residual blocks, average pool, linear layer.

    With 3 blocks (ResNet20) of width 16 it has 272,474 parameters on CIFAR-10.

    Parameters
    ----------
    blocks : residual blocks of a stage, two convolutions each.
    batchnorm : behind every convolution; without it those have biases.
    dropout : probability in [0, 1) of an entry before the second convolution of each branch to be
        dropped in training (Zagoruyko & Komodakis 2016, arXiv 1605.07146, sec. 2.4).

    Raises
    ------
    ValueError
        If the inputs are not square images whose side 4 divides, or dropout is not in [0, 1).
    """
    SIZES(width, input_shape=input_shape)
    channels, side = input_shape[:2]
    layers = [*_convolution(channels, width, batchnorm=batchnorm), nn.ReLU()]
    channels = width
    for stage in range(STAGES):
        out = width * 2**stage
        for i in range(blocks):
            stride = 2 if stage and not i else 1
            branch = [
                *_convolution(channels, out, stride=stride, batchnorm=batchnorm),
                nn.ReLU(),
                *_blocks.dropout(dropout),
                *_convolution(out, out, batchnorm=batchnorm),
            ]
            skip = None
            if channels != out:
                one = _convolution(channels, out, kernel=1, stride=stride, batchnorm=batchnorm)
                skip = nn.Sequential(*one)
            layers += [_blocks.Residual(nn.Sequential(*branch), skip), nn.ReLU()]
            channels = out
    pool = nn.AvgPool2d(side // 2 ** (STAGES - 1))
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, num_classes))


def _convolution(
    channels: int, out: int, *, kernel: int = 3, stride: int = 1, batchnorm: bool
) -> list[nn.Module]:
    convolution = nn.Conv2d(
        channels, out, kernel, stride=stride, padding=kernel // 2, bias=not batchnorm
    )
    return [convolution, nn.BatchNorm2d(out)] if batchnorm else [convolution]

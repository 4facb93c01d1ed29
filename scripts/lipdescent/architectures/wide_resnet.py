"""Wide ResNets (Zagoruyko & Komodakis 2016, arXiv 1605.07146), free or with limited layers.

WRN-d-w has (d - 4) / 6 blocks in each of three stages of 16w, 32w, 64w channels. With a
``coefficient`` every convolution and BatchNorm is kept at that constant, the scheme that Smith et
al. (2021, arXiv 2106.02469) examine: soft spectral norm, c = 3 for WRN-28-10.
"""

from functools import partial
from typing import Literal

from torch import nn

from lipdescent.architectures import _blocks, _sizes
from lipdescent.architectures._limits import Limit

WIDTH_UNIT = "channels"
SIZES = _sizes.wide
STAGES = 3


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    depth: int = 28,
    dropout: float = 0.0,
    coefficient: float | None = None,
    normalisation: Literal["soft", "hard"] = "soft",
) -> nn.Sequential:
    """Convolution, three stages of residual blocks, BatchNorm, average pool, linear layer.

    A branch is BatchNorm, ReLU, convolution, twice. Where the shape changes, the skip connection is
    a 1 x 1 convolution behind the branch's first BatchNorm and ReLU. With width 10 and 28 layers it
    has 36,479,194 parameters on CIFAR-10.

    Parameters
    ----------
    width : the widening factor: 16 times as many channels in the first stage.
    depth : layers, 6n + 4.
    dropout : probability in [0, 1) of an entry before the second convolution of a branch.
    coefficient : largest constant of every convolution (on its real input size) and BatchNorm, or
        null for none. The linear layer is free.
    normalisation : "soft" divides what exceeds the coefficient, "hard" brings every norm to it.

    Raises
    ------
    ValueError
        If the inputs are not square images whose side 4 divides, or an option is out of range.
    """
    channels, side, blocks = SIZES(
        width, input_shape=input_shape, depth=depth, coefficient=coefficient
    )
    limit = Limit(coefficient, normalisation)
    convolution, batch_norm = partial(_convolution, limit), partial(limit.batch_norm, dims=2)
    layers = [convolution(channels, 16, side)]
    channels = 16
    for stage in range(STAGES):
        out = 16 * width * 2**stage
        for i in range(blocks):
            stride = 2 if stage and not i else 1
            first = [batch_norm(channels), nn.ReLU()]
            branch = [
                convolution(channels, out, side, stride=stride),
                batch_norm(out),
                nn.ReLU(),
                *_blocks.dropout(dropout),
                convolution(out, out, side // stride),
            ]
            if channels == out and stride == 1:
                layers.append(_blocks.Residual(nn.Sequential(*first, *branch)))
            else:
                skip = convolution(channels, out, side, kernel=1, stride=stride)
                layers += [*first, _blocks.Residual(nn.Sequential(*branch), skip)]
            channels, side = out, side // stride
    layers += [batch_norm(channels), nn.ReLU(), nn.AvgPool2d(side), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, num_classes))


def _convolution(
    limit: Limit, channels: int, out: int, side: int, *, kernel: int = 3, stride: int = 1
) -> nn.Module:
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return limit.convolution(layer, (side, side))

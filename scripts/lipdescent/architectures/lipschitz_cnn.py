"""Convolutional network with an l2 Lipschitz constant that cannot be exceeded.

Convolutions as in Béthune et al. (2022, arXiv 2104.05097): orthonormal kernels divided by the
norm of the true operator on its input size. Pools are replaced by space-to-depth, which keeps
every distance.
"""

from torch import nn

from lipdescent.architectures import _sizes
from lipdescent.constrained.constraints import Bjorck, SpectralConvolution, constrain
from lipdescent.constrained.layers import GroupSort, InvertibleDownsampling

SIZES = _sizes.halved_image
WIDTH_UNIT = "channels"


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    stages: int = 3,
    bias: bool = True,
    group_size: int | None = 2,
    iterations: int = 12,
    constant: float = 1.0,
) -> nn.Sequential:
    """``stages`` times 3 x 3 convolution and GroupSort, space-to-depth between, a linear layer.

    The convolutions have w, 2w, 4w, ... output channels; the network's constant is ``constant``.

    Raises
    ------
    ValueError
        If the inputs are not square images whose side 2^(stages - 1) divides, or the group size
        does not divide the width.
    """
    SIZES(width, input_shape=input_shape, stages=stages)
    channels, side = input_shape[:2]
    if group_size is not None and width % group_size:
        raise ValueError(f"group_size = {group_size} does not divide width = {width}")
    layers: list[nn.Module] = []
    for stage in range(stages):
        if stage:
            layers.append(InvertibleDownsampling(2))
            channels, side = 4 * channels, side // 2
        conv = nn.Conv2d(channels, width * 2**stage, 3, padding=1, bias=bias)
        nn.init.orthogonal_(conv.weight)
        rule = SpectralConvolution(conv, (side, side), orthonormal=True, iterations=iterations)
        layers += [constrain(conv, rule), GroupSort(group_size)]
        channels = width * 2**stage
    linear = nn.Linear(channels * side**2, num_classes, bias=bias)
    nn.init.orthogonal_(linear.weight)
    last = constrain(linear, Bjorck(iterations=iterations, constant=constant))
    return nn.Sequential(*layers, nn.Flatten(), last)

"""The convolutional network of MNIST1D (Greydanus & Kobak 2024, arXiv 2011.14439)."""

import math

from torch import nn

from lipdescent.architectures import _sizes

SIZES = _sizes.signal
WIDTH_UNIT = "channels"


def build(
    width: int, *, input_shape: tuple[int, ...], num_classes: int, bias: bool = True
) -> nn.Sequential:
    """Three strided convolutions of ``width`` channels (kernels 5, 3, 3), ReLU, a linear layer.

    On MNIST1D (40 features, 10 classes) of width 25, the authors' choice, it has 5,210 parameters.

    Raises
    ------
    ValueError
        If the inputs are not signals (length,) or (channels, length) of at least 3 values.
    """
    channels, length = SIZES(width, input_shape=input_shape)
    layers: list[nn.Module] = [nn.Unflatten(1, (1, length))] if len(input_shape) == 1 else []
    for kernel in (5, 3, 3):
        layers += [nn.Conv1d(channels, width, kernel, stride=2, padding=1, bias=bias), nn.ReLU()]
        channels, length = width, math.floor((length + 2 - kernel) / 2) + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * length, num_classes, bias=bias))

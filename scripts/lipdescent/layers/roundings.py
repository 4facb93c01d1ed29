"""How many roundings go into one output of a layer, counted by the layer itself."""

import torch
from torch import nn
from torch.func import functional_call

from lipdescent.layers import convolution

SUMS = (nn.Linear, *convolution.TABLE)
_COUNTED: dict[tuple, int] = {}


def terms(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Products and biases that are added up in the longest output of a linear layer.

    Counted by evaluating the layer with all weights, biases and inputs 1, so that groups, strides,
    padding modes and the direction of a convolution need no formula of their own: float64 adds
    ones exactly. Counted once for each setting.
    """
    sizes = tuple((name, *tensor.shape) for name, tensor in module.named_parameters())
    key = (type(module), module.extra_repr(), sizes, input_shape)
    if key not in _COUNTED:
        _COUNTED[key] = _counted(module, input_shape)
    return _COUNTED[key]


def _counted(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    ones = {
        name: torch.ones(tensor.shape, dtype=torch.float64)
        for name, tensor in module.named_parameters()
    }
    x = torch.ones(1, *input_shape, dtype=torch.float64)
    with torch.no_grad():
        return int(functional_call(module, ones, (x,)).amax())


def roundings(
    module: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> int:
    """k, such that an output of a layer is off by at most gamma(k) times the sizes that it adds.

    Beside the few of an activation, a division or the like. Layers other than convolutions read
    no input twice for one output.
    """
    if type(module) in SUMS:
        return terms(module, input_shape)
    count = 1
    for n in input_shape:
        count *= n
    if isinstance(module, nn.Upsample) and not module.mode.startswith("nearest"):
        # Positions below n carry some roundings of n; at most 4 taps per axis.
        dims = len(input_shape) - 1
        count = max(count, 4**dims * interpolation(input_shape, output_shape))
    return count


def interpolation(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Roundings of one weight of an interpolation: its position is computed by them."""
    dims, largest = len(input_shape) - 1, max(*input_shape[1:], *output_shape[1:])
    return 64 * dims * largest + 256

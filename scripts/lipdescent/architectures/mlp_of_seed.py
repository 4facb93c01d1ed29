"""The fully connected ReLU network of ``mlp`` with weights of a seed of its own.

Its weights are those that ``torch.manual_seed(weights_seed)`` and torch's default initialisation
give, whatever the study's seeds are: a published network can so be trained again.
"""

import torch
from torch import nn

from lipdescent.architectures import mlp

WIDTH_UNIT = "units"


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    depth: int = 2,
    bias: bool = True,
    weights_seed: int = 42,
) -> nn.Sequential:
    """Network of ``depth`` hidden ReLU layers of ``width`` units, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return mlp.build(
            width, input_shape=input_shape, num_classes=num_classes, depth=depth, bias=bias
        )

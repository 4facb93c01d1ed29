"""A network as users write one: functions and constants in its ``forward``, a branch that is
subtracted, a bounded gate. An example for one's own: only ``build`` is asked of an architecture.

Its bounds are of the network that PyTorch exports; nothing here is known to lipdescent.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH_UNIT = "units"


class Network(nn.Module):
    """Inputs (n, ...) -> logits (n, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.into, self.branch = nn.Linear(features, width), nn.Linear(width, width)
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, classes)
        self.register_buffer("mean", torch.full((features,), 0.5))
        self.register_buffer("std", torch.full((features,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.into((x.flatten(1) - self.mean) / self.std))
        h = h - 0.5 * F.relu(self.branch(h))
        return self.out(torch.tanh(self.value(h)) * torch.sigmoid(self.gate(h)))


def build(width: int, *, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """``width`` units, one gated layer: tanh times a sigmoid, as in an LSTM."""
    return Network(math.prod(input_shape), width, num_classes)

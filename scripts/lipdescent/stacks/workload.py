"""How much memory a training step needs per model, to choose how many models share one."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def activation_bytes(
    module: nn.Module, input_shape: Sequence[int], *, batch_size: int, itemsize: int = 4
) -> int:
    """Bytes of one model's inputs and of the outputs of all its layers for one batch.

    Counted in one sample's pass through arbitrary weights on the CPU; PyTorch's meta device, which
    computes nothing, imports its compiler for some layers, a second or more. A training step keeps
    about this much for its backward pass, and about twice as much at its peak.
    """
    # One dtype, that has the range of every slope: weights of constrained networks are in float64.
    copied = copy.deepcopy(module).to_empty(device="cpu").double().eval()
    counts = [math.prod(input_shape)]
    for name, part in copied.named_modules():
        # What makes a constrained weight does not see the batch; the layer that has it is a leaf.
        leaf = not any(part.children()) or parametrize.is_parametrized(part)
        if leaf and "parametrizations" not in name.split("."):
            part.register_forward_hook(lambda _m, _inputs, out: counts.append(out.numel()))
    with torch.no_grad():
        copied(torch.zeros(1, *input_shape, dtype=torch.float64))
    return batch_size * itemsize * sum(counts)


def multiplications(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-adds of one sample's forward pass in linear layers and convolutions."""
    copied, counts = copy.deepcopy(module).to_empty(device="cpu").double().eval(), []

    def count(layer: Any, _inputs: Any, out: Tensor) -> None:
        # Each output is a sum over one row of the weight; a linear layer's over its last axis.
        counts.append(out.numel() * layer.weight[0].numel())

    for part in copied.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            part.register_forward_hook(count)
    with torch.no_grad():
        copied(torch.zeros(1, *input_shape, dtype=torch.float64))
    return sum(counts)

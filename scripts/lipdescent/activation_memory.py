"""How much memory a training step needs per model, to choose how many models share one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def activation_bytes(
    module: nn.Module, input_shape: Sequence[int], *, batch_size: int, itemsize: int = 4
) -> int:
    """Bytes of one model's inputs and of the outputs of all its layers for one batch.

    Nothing is computed: shapes only, on PyTorch's meta device. A training step keeps about this
    much for its backward pass, and about twice as much at its peak.
    """
    shapes = copy.deepcopy(module).to("meta")
    counts = [batch_size * math.prod(input_shape)]
    for part in shapes.modules():
        if not any(part.children()):
            part.register_forward_hook(lambda _m, _inputs, out: counts.append(out.numel()))
    inputs: Tensor = torch.empty(batch_size, *input_shape, device="meta")
    with torch.no_grad():
        shapes(inputs)
    return itemsize * sum(counts)

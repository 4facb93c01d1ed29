"""Outputs of a stack at many points, a part at a time as memory allows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.workload import activation_bytes

# Measured: on a CPU, whose cache holds about so much, 256 MiB take half as long again.
CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}


def outputs_of(stack: ModelStack, inputs: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the models and their outputs (models, n, num_classes) at inputs (n, ...).

    Models together and points in parts, so that activations take about CHUNK_BYTES.
    """
    itemsize = inputs.element_size()
    per_point = activation_bytes(stack.module, stack.input_shape, batch_size=1, itemsize=itemsize)
    held = CHUNK_BYTES.get(inputs.device.type, 32 << 20)
    models = max(1, held // (per_point * len(inputs)))
    points = max(1, held // per_point)
    for begin in range(0, stack.num_models, models):
        rows = slice(begin, begin + models)
        yield rows, torch.cat([stack[rows](part) for part in inputs.split(points)], 1)

"""Which engine trains a network, and how many replicas at once."""

from __future__ import annotations

import torch

from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.workload import activation_bytes
from lipdescent.training.engines import fused_cnn, looped_autograd
from lipdescent.training.engines.engine import EngineOptions
from lipdescent.training.engines.fused_mlp import StackedMLP, supports
from lipdescent.training.engines.penalised_autograd import PenalisedAutograd
from lipdescent.training.engines.stacked_autograd import StackedAutograd

# Activations and weights of a block should stay in a core's share of the cache.
CPU_BLOCK_BYTES = 4 << 20
# Autograd on a CPU passes over memory anyway; beyond this, allocation costs more than it saves.
AUTOGRAD_BLOCK_BYTES = 16 << 20


def make_engine(
    stack: ModelStack, options: EngineOptions
) -> StackedMLP | fused_cnn.StackedCNN | looped_autograd.LoopedAutograd | StackedAutograd:
    """A fused pass where there is one, autograd for every other architecture.

    On a CPU large networks without a fused pass are not stacked. The choice depends on the
    architecture and the batch size alone, so that a model's bits do not depend on its stack-mates.
    """
    loss, low = options.make_loss(), options.precision == "bfloat16"
    if options.penalty is not None:
        return PenalisedAutograd(
            stack.module,
            stack.state,
            loss,
            wanted=options.penalty,
            autocast=torch.bfloat16 if low else None,
        )
    if supports(stack.module) and not low:
        return StackedMLP(stack.module, stack.state, loss)
    if stack.device.type == "cpu" and not low:
        if fused_cnn.supports(stack.module):
            return fused_cnn.StackedCNN(stack.module, stack.state, loss)
        if looped_autograd.pays(stack.module, stack.input_shape, batch_size=options.batch_size):
            return looped_autograd.LoopedAutograd(stack.module, stack.state, loss)
    return StackedAutograd(
        stack.module,
        stack.state,
        loss,
        autocast=torch.bfloat16 if low else None,
        channels_last=options.channels_last,
    )


def split_into_blocks(
    stack: ModelStack, batch_size: int, device: torch.device, *, at_once: int | None = None
) -> list[slice]:
    """Slices of the replica axis: what a CPU's cache or the device's memory holds at a time.

    ``at_once`` is the largest number of replicas in a slice; by default the memory says.
    """
    count = stack.num_models
    if at_once is not None:
        size = at_once
    elif supports(stack.module) and device.type == "cpu":
        weights = [t[0] for name, t in stack.state.items() if name.endswith("weight")]
        per_replica = sum(2 * 4 * (w.numel() + batch_size * w.shape[0]) for w in weights)
        size = CPU_BLOCK_BYTES // per_replica
    elif device.type == "cpu" and fused_cnn.supports(stack.module):
        size = count  # it makes blocks of its own
    else:
        per_replica = activation_bytes(stack.module, stack.input_shape, batch_size=batch_size)
        size = _activation_budget(device) // max(1, per_replica)
    num_blocks = -(-count // max(1, size))
    size = -(-count // num_blocks)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def _activation_budget(device: torch.device) -> int:
    if device.type == "cpu":
        return AUTOGRAD_BLOCK_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    # A step takes about twice its activations; graphs and what runs beside them, each their own.
    return free // 4

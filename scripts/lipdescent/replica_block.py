"""Replicas that are stepped together: one engine, one optimiser, their targets.

On a CPU a stack is stepped in blocks that fit a core's share of the cache; on CUDA the whole
stack is one block, and an epoch of it one graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent import optimizers, stacked_cnn
from lipdescent.activation_memory import activation_bytes
from lipdescent.augmentation import crop_and_flip
from lipdescent.cuda_graph import EpochGraph
from lipdescent.stacked_autograd import StackedAutograd
from lipdescent.stacked_mlp import StackedMLP, supports
from lipdescent.stacking import ModelStack
from lipdescent.training_options import TrainingOptions

# Activations and weights of a block should stay in a core's share of the cache.
CPU_BLOCK_BYTES = 4 << 20
# Autograd on a CPU passes over memory anyway; beyond this, allocation costs more than it saves.
AUTOGRAD_BLOCK_BYTES = 16 << 20
# Batches are gathered ahead of the steps that use them, this much at a time.
GATHER_BYTES = 64 << 20


@dataclass(frozen=True)
class TrainingData:
    """What a stack is trained on.

    Attributes
    ----------
    inputs : float (num_train, *input_shape), shared by the replicas.
    labels : int64 (num_replicas, num_train), each replica's own.
    """

    inputs: Tensor
    labels: Tensor
    num_classes: int


class Block:
    """Replicas that are stepped together: their engine, optimiser and targets.

    Attributes
    ----------
    part : which replicas of the stack these are.
    """

    def __init__(
        self, stack: ModelStack, data: TrainingData, part: slice, options: TrainingOptions
    ) -> None:
        device = data.inputs.device
        sub = stack[part].to(device=device, dtype=data.inputs.dtype)
        self.part = part
        self.engine = make_engine(sub, options)
        self.optimizer = options.make_optimizer()
        self.optimizer.prepare(self.engine.parameters)
        self.inputs, self.batch_size = data.inputs, options.batch_size
        labels = data.labels[part].to(device)
        targets = torch.nn.functional.one_hot(labels, data.num_classes)
        self.targets = targets.to(data.inputs.dtype)
        self.padding = (options.augmentation or {}).get("padding", 0)
        self._graph: EpochGraph | None = None

    def live_tensors(self) -> dict[str, Tensor]:
        """What training changes and the next epoch depends on."""
        live = [*self.engine.parameters, *self.engine.extra_state]
        named = {f"model/{i}": tensor for i, tensor in enumerate(live)}
        return named | {f"optimizer/{i}": t for i, t in enumerate(self.optimizer.memory)}

    def run_epoch(
        self, order: Tensor, rates: Tensor, first_update: int, draws: Tensor | None = None
    ) -> None:
        """One epoch. On CUDA it returns before the device has finished.

        Parameters
        ----------
        order : int64 (replicas, num_train), which samples make up the batches.
        rates : (updates, replicas), learning rates; 0 freezes a replica.
        first_update : updates made before this epoch.
        draws : int64 (replicas, num_train, 3), crop corner and flip of each place in the order;
            None where nothing is augmented.
        """
        if order.device.type != "cuda":
            self._steps(order, rates, first_update, draws)
            return
        update = torch.tensor(first_update, dtype=torch.float64, device=order.device)
        values = [order, rates, update, *([] if draws is None else [draws])]
        if self._graph is None:
            live = [*self.live_tensors().values(), *self.optimizer.buffers]
            self._graph = EpochGraph(self._steps, values, live)
        self._graph(values)

    def _steps(
        self,
        order: Tensor,
        rates: Tensor,
        first_update: int | Tensor,
        draws: Tensor | None = None,
    ) -> None:
        num_train, size = order.shape[1], self.batch_size
        per_batch = size * len(order) * self.inputs[0].numel() * self.inputs.element_size()
        ahead = size * max(1, GATHER_BYTES // per_batch)
        update = 0
        for begin in range(0, num_train, ahead):
            inputs, targets = self._gather(order[:, begin : begin + ahead])
            for batch in range(0, inputs.shape[1], size):
                rows = slice(batch, batch + size)
                x = inputs[:, rows]
                if draws is not None:
                    d = draws[:, begin + batch : begin + batch + size]
                    x = crop_and_flip(x, d[..., :2], d[..., 2].bool(), padding=self.padding)
                self.engine.accumulate(
                    self.optimizer.buffers, x, targets[:, rows], decay=self.optimizer.decay
                )
                self.optimizer.step(self.engine.parameters, rates[update], first_update + update)
                update += 1

    def _gather(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the samples ``chosen`` (replicas, count) for each replica."""
        inputs = self.inputs.index_select(0, chosen.reshape(-1))
        first = torch.arange(len(chosen), device=chosen.device).unsqueeze(1) * len(self.inputs)
        targets = self.targets.flatten(0, 1).index_select(0, (chosen + first).reshape(-1))
        return inputs.view(*chosen.shape, *inputs.shape[1:]), targets.view(*chosen.shape, -1)

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All training points in order, a batch at a time: inputs (replicas, batch, ...)."""
        for begin in range(0, len(self.inputs), self.batch_size):
            rows = slice(begin, begin + self.batch_size)
            inputs = self.inputs[rows]
            yield inputs.expand(len(self.targets), *inputs.shape), self.targets[:, rows]

    def gradient_norms(self) -> Tensor:
        """l2 norm of the gradient of the mean loss over all training points, (replicas,)."""
        before = [tensor.clone() for tensor in self.engine.extra_state]
        total = [torch.zeros_like(p) for p in self.engine.parameters]
        part = [torch.zeros_like(p) for p in self.engine.parameters]
        for inputs, targets in self._parts():
            self.engine.accumulate(part, inputs, targets, decay=0.0)
            for t, p in zip(total, part, strict=True):
                t.add_(p, alpha=inputs.shape[1] / len(self.inputs))
        for tensor, value in zip(self.engine.extra_state, before, strict=True):
            tensor.copy_(value)
        return optimizers.gradient_norms(total)

    def train_losses(self) -> Tensor:
        """Mean training loss of every replica on its own labels, (replicas,)."""
        sums = [self.engine.losses(*part).sum(1) for part in self._parts()]
        return torch.stack(sums).sum(0) / len(self.inputs)

    def finite(self) -> Tensor:
        """True for the replicas whose parameters are all finite, (replicas,)."""
        return torch.stack([p.flatten(1).isfinite().all(1) for p in self.engine.parameters]).all(0)


def make_engine(stack: ModelStack, options: TrainingOptions) -> StackedMLP | StackedAutograd:
    """The fused pass where it applies, autograd for every other architecture."""
    loss = options.make_loss()
    if options.precision == "bfloat16":
        return StackedAutograd(stack.module, stack.state, loss, autocast=torch.bfloat16)
    if supports(stack.module):
        return StackedMLP(stack.module, stack.state, loss)
    # Measured: convolutions of many narrow networks gain on a CPU, where kernels are not launched.
    if stack.device.type == "cpu" and stacked_cnn.supports(stack.module):
        return stacked_cnn.StackedCNN(stack.module, stack.state, loss)
    return StackedAutograd(stack.module, stack.state, loss)


def split_into_blocks(stack: ModelStack, batch_size: int, device: torch.device) -> list[slice]:
    """Slices of the replica axis: what a CPU's cache or the device's memory holds at a time."""
    count = stack.num_models
    if supports(stack.module) and device.type == "cpu":
        weights = [t[0] for name, t in stack.state.items() if name.endswith("weight")]
        per_replica = sum(2 * 4 * (w.numel() + batch_size * w.shape[0]) for w in weights)
        size = CPU_BLOCK_BYTES // per_replica
    elif device.type == "cpu" and stacked_cnn.supports(stack.module):
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
    return free // 2  # the rest is for weights, the optimiser and what the graph keeps

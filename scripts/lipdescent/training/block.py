"""Replicas that are stepped together: one engine, one optimiser, their targets.

On a CPU a stack is stepped in blocks that fit a core's share of the cache; on CUDA the whole
stack is one block where the memory holds it, and its epoch is replayed from a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training import optimizers
from lipdescent.training.augmentation import crop_and_flip
from lipdescent.training.cuda_graph import UpdateGraph
from lipdescent.training.engines.choice import make_engine
from lipdescent.training.fused_step import make_step
from lipdescent.training.layer_clip import LayerClip
from lipdescent.training.options import TrainingOptions

logger = logging.getLogger(__name__)

# Updates of one CUDA graph: enough that launching it costs nothing, few enough to capture quickly.
UPDATES_PER_GRAPH = 32
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
    stack : the models as they are at first.
    data : of the whole stack that these replicas are from.
    part : which replicas of the whole stack these are.
    """

    def __init__(
        self, stack: ModelStack, data: TrainingData, part: slice, options: TrainingOptions
    ) -> None:
        device = data.inputs.device
        own = stack.to(device=device, dtype=data.inputs.dtype)
        self.module, self.input_shape = stack.module, stack.input_shape
        self.data, self.part, self.options = data, part, options
        self.engine = make_engine(own, options)
        self.optimizer = options.make_optimizer()
        self.optimizer.prepare(self.engine.parameters)
        self.fused_step = make_step(self.engine, self.optimizer, options)
        limit = options.layer_clip
        self.layer_clip = None if limit is None else LayerClip.of(stack, limit)
        self.inputs, self.batch_size = data.inputs, options.batch_size
        self.labels = data.labels[part].to(device)
        self.classes = torch.arange(data.num_classes, device=device).unsqueeze(1)
        self.padding = options.augmentation.padding if options.augmentation else 0
        self.fits = False  # true once an epoch has run: the next ones need no more memory
        self._graphs: dict[int, Callable[..., None]] = {}

    def live_tensors(self) -> dict[str, Tensor]:
        """What training changes and the next epoch depends on; replicas first."""
        live = [*self.engine.parameters, *self.engine.extra_state]
        named = {f"model/{i}": tensor for i, tensor in enumerate(live)}
        return named | {f"optimizer/{i}": t for i, t in enumerate(self.optimizer.memory)}

    def halves(self) -> tuple[Block, Block]:
        """Two blocks that go on from where this one is."""
        state, (first, last) = self.engine.state(), (self.part.start, self.part.stop)
        middle, found = (first + last) // 2, []
        for part in (slice(first, middle), slice(middle, last)):
            inner = slice(part.start - first, part.stop - first)
            own = {name: tensor[inner] for name, tensor in state.items()}
            stack = ModelStack(self.module, own, self.input_shape)
            found.append(Block(stack, self.data, part, self.options))
            for new, old in zip(found[-1].optimizer.memory, self.optimizer.memory, strict=True):
                new.copy_(old[inner])
        return found[0], found[1]

    def run_epoch(
        self,
        order: Tensor,
        rates: Tensor,
        first_update: int,
        draws: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> None:
        """One epoch. On CUDA it returns before the device has finished.

        Parameters
        ----------
        order : int64 (replicas, num_train), which samples make up the batches.
        rates : (updates, replicas), learning rates; 0 freezes a replica.
        first_update : updates made before this epoch.
        draws : int64 (replicas, num_train, 3), crop corner and flip of each place in the order;
            None where nothing is augmented.
        keys : int64 (updates, replicas), of the dropout masks; None without dropout.
        """
        before = [tensor.clone() for tensor in self.engine.extra_state]
        if order.device.type == "cuda":
            self._run_graphs(order, rates, first_update, draws, keys)
        else:
            self._steps(order, rates, first_update, draws=draws, keys=keys)
        for tensor, old in zip(self.engine.extra_state, before, strict=True):
            frozen = (rates == 0).all(0).view(-1, *[1] * (tensor.ndim - 1))
            tensor.copy_(torch.where(frozen, old, tensor))  # without waiting for the device
        self.fits = True

    def _run_graphs(
        self,
        order: Tensor,
        rates: Tensor,
        first_update: int,
        draws: Tensor | None,
        keys: Tensor | None,
    ) -> None:
        """The epoch in pieces of equal length and a rest, each piece a graph that is kept."""
        samples = self.batch_size * UPDATES_PER_GRAPH
        for begin in range(0, order.shape[1], samples):
            chosen = order[:, begin : begin + samples]
            first = begin // self.batch_size
            # Filled on the device: a number that is copied there waits for it.
            update = torch.full((), first_update + first, dtype=torch.float64, device=order.device)
            values = [chosen, rates[first : first + UPDATES_PER_GRAPH], update]
            names = []
            if draws is not None:
                names.append("draws")
                values.append(draws[:, begin : begin + samples])
            if keys is not None:
                names.append("keys")
                values.append(keys[first : first + UPDATES_PER_GRAPH])
            if chosen.shape[1] not in self._graphs:
                self._graphs[chosen.shape[1]] = self._graph(values, names)
            self._graphs[chosen.shape[1]](*values)

    def _graph(self, values: list[Tensor], names: list[str]) -> Callable[..., None]:
        """Of the updates with ``values``, whose last ones are the optional ones ``names``."""

        def steps(*own: Tensor) -> None:
            self._steps(*own[:3], **dict(zip(names, own[3:], strict=True)))

        # Eigenvalues wait for the device, which a graph cannot.
        if self.layer_clip is not None or self.options.penalty is not None:
            return steps
        live = [*self.live_tensors().values(), *self.optimizer.buffers]
        try:
            return UpdateGraph(steps, values, live)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("no CUDA graph, updates are launched one kernel at a time: %s", error)
            return steps

    def _steps(
        self,
        order: Tensor,
        rates: Tensor,
        first_update: int | Tensor,
        *,
        draws: Tensor | None = None,
        keys: Tensor | None = None,
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
                key = None if keys is None else keys[update]
                self._update(x, targets[:, rows], rates[update], first_update + update, key)
                if self.layer_clip is not None:
                    self.layer_clip.apply_(self.engine.live_weight, going=rates[update] != 0)
                update += 1

    def _update(
        self, x: Tensor, targets: Tensor, rate: Tensor, update: int | Tensor, keys: Tensor | None
    ) -> None:
        """Of all replicas, on a batch of each; ``update`` were made before it."""
        if self.fused_step is not None:
            self.fused_step(x, targets, rate)
            return
        buffers, decay = self.optimizer.buffers, self.optimizer.decay
        self.engine.accumulate(buffers, x, targets, decay=decay, keys=keys)
        self.optimizer.step(self.engine.parameters, rate, update)

    def _gather(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the samples ``chosen`` (replicas, count) for each replica."""
        inputs = self.inputs.index_select(0, chosen.reshape(-1))
        targets = self._one_hot(self.labels.gather(1, chosen))
        return inputs.view(*chosen.shape, *inputs.shape[1:]), targets

    def _one_hot(self, labels: Tensor) -> Tensor:
        """(replicas, count, num_classes), which lie in memory as the fused pass has its logits."""
        return (labels.unsqueeze(1) == self.classes).to(self.inputs.dtype).mT

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All training points in order, a batch at a time: inputs (replicas, batch, ...)."""
        for begin in range(0, len(self.inputs), self.batch_size):
            rows = slice(begin, begin + self.batch_size)
            inputs = self.inputs[rows]
            targets = self._one_hot(self.labels[:, rows])
            yield inputs.expand(len(targets), *inputs.shape), targets

    def gradient_norms(self) -> Tensor:
        """l2 norm of the gradient of the mean loss over all training points, (replicas,).

        Without dropout.
        """
        before = [tensor.clone() for tensor in self.engine.extra_state]
        total = [torch.zeros_like(p) for p in self.engine.parameters]
        part = [torch.zeros_like(p) for p in self.engine.parameters]
        try:
            for inputs, targets in self._parts():
                self.engine.accumulate(part, inputs, targets, decay=0.0)
                for t, p in zip(total, part, strict=True):
                    t.add_(p, alpha=inputs.shape[1] / len(self.inputs))
        finally:
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

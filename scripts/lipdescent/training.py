"""Train a stack of models as one.

A replica has a label noise and a seed. Its weights, batch order and label noise are drawn from
its own seed, and every product of the step is per replica: its result does not depend on its
stack-mates. Replicas of one seed share initial weights and batch order at every noise level
(common random numbers), so that differences between noise levels are due to the noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipdescent import checkpoints, names, optimizers
from lipdescent.progress import Progress
from lipdescent.seeding import generator, seed_of
from lipdescent.stacked_autograd import StackedAutograd
from lipdescent.stacked_mlp import StackedMLP, supports
from lipdescent.stacking import ModelStack

# Activations and weights of a block of replicas should stay in a core's share of the cache.
CPU_BLOCK_BYTES = 4 << 20
# Batches are gathered ahead of the steps that use them, this much at a time.
GATHER_BYTES = 64 << 20


class Interrupted(Exception):
    """Training was asked to stop and has saved its state."""


@dataclass(frozen=True)
class TrainingOptions:
    """The ``training`` section of the configuration; units are there."""

    learning_rate: float
    batch_size: int
    loss: str = "cross_entropy"
    loss_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: str = "sgd"
    momentum: float = 0.0
    betas: Sequence[float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "constant"
    schedule_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    gradient_clip: float | None = None
    augmentation: dict[str, Any] | None = None
    precision: str = "float32"
    stopping: dict[str, Any] | None = None

    def make_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(logits, one-hot targets) -> loss per sample, the options bound."""
        function = names.resolve_function("losses", self.loss)
        if not self.loss_options:
            return function
        return lambda logits, targets: function(logits, targets, **self.loss_options)

    def make_optimizer(self) -> optimizers.SGD | optimizers.Adam:
        if self.optimizer == "adam":
            return optimizers.Adam(tuple(self.betas), self.weight_decay, self.gradient_clip)
        return optimizers.SGD(self.momentum, self.weight_decay, self.gradient_clip)

    def rates(self, *, epoch: int, num_train: int, num_epochs: int) -> np.ndarray:
        """Learning rate of every update in an epoch (the first is epoch 0)."""
        per_epoch = -(-num_train // self.batch_size)
        update = np.arange(epoch * per_epoch, (epoch + 1) * per_epoch)
        schedule = names.resolve_function("schedules", self.schedule)
        factors = schedule(
            update,
            updates_per_epoch=per_epoch,
            total_updates=num_epochs * per_epoch,
            **self.schedule_options,
        )
        return self.learning_rate * factors


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


def initial_stack(
    build: Callable[[], nn.Module], seeds: Sequence[int], input_shape: Sequence[int]
) -> ModelStack:
    """One model per entry of ``seeds``, drawn by PyTorch's default initialisation.

    Equal seeds give equal weights. The global random state is left as it was.
    """
    drawn: dict[int, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        for seed in dict.fromkeys(seeds):
            torch.manual_seed(seed_of("weights", seed))
            drawn[seed] = build()
    return ModelStack.from_modules([drawn[seed] for seed in seeds], input_shape)


def batch_order(seeds: Sequence[int], epoch: int, num_train: int) -> Tensor:
    """Order of the samples in an epoch: (len(seeds), num_train), drawn from seed and epoch."""
    drawn = {
        seed: torch.randperm(num_train, generator=generator("order", seed, epoch))
        for seed in dict.fromkeys(seeds)
    }
    return torch.stack([drawn[seed] for seed in seeds])


class Block:
    """Replicas that are stepped together: their engine, optimiser and targets."""

    def __init__(
        self, stack: ModelStack, data: TrainingData, part: slice, options: TrainingOptions
    ) -> None:
        device = data.inputs.device
        sub = stack[part].to(device=device)
        engine = StackedMLP if supports(sub.module) else StackedAutograd
        self.part, self.module, self.input_shape = part, sub.module, sub.input_shape
        self.engine = engine(sub.module, sub.state, options.make_loss())
        self.optimizer = options.make_optimizer()
        self.optimizer.prepare(self.engine.parameters)
        self.inputs, self.batch_size = data.inputs, options.batch_size
        labels = data.labels[part].to(device)
        targets = torch.nn.functional.one_hot(labels, data.num_classes)
        self.targets = targets.to(data.inputs.dtype)

    def run_epoch(self, order: Tensor, rates: Tensor, first_update: int | Tensor) -> None:
        """One epoch: ``order`` (replicas, num_train), ``rates`` (updates, replicas)."""
        num_train, size = order.shape[1], self.batch_size
        per_batch = size * len(order) * self.inputs[0].numel() * self.inputs.element_size()
        ahead = size * max(1, GATHER_BYTES // per_batch)
        offsets = torch.arange(len(order), device=order.device).unsqueeze(1) * num_train
        update = 0
        for begin in range(0, num_train, ahead):
            chosen = order[:, begin : begin + ahead]
            inputs = self.inputs.index_select(0, chosen.reshape(-1))
            inputs = inputs.view(*chosen.shape, *self.inputs.shape[1:])
            targets = self.targets.flatten(0, 1).index_select(0, (chosen + offsets).reshape(-1))
            targets = targets.view(*chosen.shape, -1)
            for batch in range(0, chosen.shape[1], size):
                rows = slice(batch, batch + size)
                self.engine.accumulate(
                    self.optimizer.buffers,
                    inputs[:, rows],
                    targets[:, rows],
                    decay=self.optimizer.decay,
                )
                self.optimizer.step(self.engine.parameters, rates[update], first_update + update)
                update += 1

    def gradient_norms(self) -> Tensor:
        """l2 norm of the gradient of the mean loss over all training points, (replicas,)."""
        count = len(self.targets)
        total = [torch.zeros_like(p) for p in self.engine.parameters]
        part = [torch.zeros_like(p) for p in self.engine.parameters]
        num_train = len(self.inputs)
        for begin in range(0, num_train, 1000):
            inputs = self.inputs[begin : begin + 1000].unsqueeze(0)
            inputs = inputs.expand(count, *inputs.shape[1:])
            targets = self.targets[:, begin : begin + 1000]
            self.engine.accumulate(part, inputs, targets, decay=0.0)
            for t, p in zip(total, part, strict=True):
                t.add_(p, alpha=inputs.shape[1] / num_train)
        return optimizers.gradient_norms(total)

    def train_losses(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Mean training loss of every replica on its own labels, (replicas,)."""
        stack = ModelStack(self.module, self.engine.state(), self.input_shape)
        total = torch.zeros(len(self.targets), device=self.inputs.device)
        for begin in range(0, len(self.inputs), 1000):
            rows = slice(begin, begin + 1000)
            total += loss(stack(self.inputs[rows]), self.targets[:, rows]).sum(1)
        return total / len(self.inputs)


def split_into_blocks(stack: ModelStack, batch_size: int, device: torch.device) -> list[slice]:
    """Slices of the replica axis: all at once on CUDA, what the cache holds on a CPU."""
    count = stack.num_models
    if device.type != "cpu" or not supports(stack.module):
        return [slice(0, count)]
    weights = [t[0] for name, t in stack.state.items() if name.endswith("weight")]
    per_replica = sum(2 * 4 * (w.numel() + batch_size * w.shape[0]) for w in weights)
    size = max(1, CPU_BLOCK_BYTES // per_replica)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


class StackTraining:
    """The training of one stack: epochs, checkpoints, curves, and the state to resume from."""

    def __init__(
        self,
        stack: ModelStack,
        data: TrainingData,
        *,
        seeds: Sequence[int],
        epochs: Sequence[int],
        options: TrainingOptions,
    ) -> None:
        self.data, self.options = data, options
        self.seeds, self.epochs, self.num_epochs = list(seeds), list(epochs), epochs[-1]
        device = data.inputs.device
        parts = split_into_blocks(stack, options.batch_size, device)
        self.blocks = [Block(stack, data, part, options) for part in parts]
        self.epoch = 0
        self.stopped = checkpoints.empty_epochs(len(seeds))
        self.diverged = checkpoints.empty_epochs(len(seeds))
        self.saved: dict[int, dict[str, Tensor]] = {}
        self.curves: list[list[float]] = []

    def run(
        self,
        *,
        progress: Progress,
        state_path: Path | None = None,
        state_interval: float = 30.0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last epoch, from the state at ``state_path`` if there is a sound one.

        Raises
        ------
        Interrupted
            If ``should_stop()`` turned true; the state is saved.
        """
        if state_path is not None:
            self._resume(state_path, progress)
        progress.begin(self.epoch)
        if self.epoch == 0 and not self.saved:
            self._look()
        last_save = time.monotonic()
        while self.epoch < self.num_epochs:
            self._one_epoch()
            progress.update(self.epoch)
            due = time.monotonic() - last_save > state_interval
            if state_path is not None and self.epoch < self.num_epochs and (due or should_stop()):
                self._save_state(state_path)
                last_save = time.monotonic()
                if should_stop():
                    raise Interrupted(f"stopped after epoch {self.epoch}, saved {state_path}")

    def result(self, label_noise: Sequence[float], about: dict[str, Any]) -> checkpoints.Checkpoints:
        """Everything trained, stacked over the checkpoint epochs."""
        state = {
            name: torch.stack([self.saved[epoch][name] for epoch in self.epochs])
            for name in self.saved[self.epochs[0]]
        }
        return checkpoints.Checkpoints(
            state=state,
            epoch=torch.tensor(self.epochs),
            label_noise=torch.tensor(label_noise, dtype=torch.float64),
            seed=torch.tensor(self.seeds),
            stopped_epoch=self.stopped,
            diverged_epoch=self.diverged,
            about=about,
        )

    def _one_epoch(self) -> None:
        options, num_train = self.options, len(self.data.inputs)
        device, dtype = self.data.inputs.device, self.data.inputs.dtype
        running = (self.stopped < 0) & (self.diverged < 0)
        if running.any():
            rates = options.rates(
                epoch=self.epoch, num_train=num_train, num_epochs=self.num_epochs
            )
            table = torch.from_numpy(rates).to(dtype)[:, None] * running
            table = table.to(device, dtype, non_blocking=True)
            order = batch_order(self.seeds, self.epoch, num_train).to(device, non_blocking=True)
            for block in self.blocks:
                block.run_epoch(order[block.part], table[:, block.part], self.epoch * len(rates))
        self.epoch += 1
        self._look()

    def _look(self) -> None:
        """At some epochs: curves, divergence, stopping, checkpoints."""
        is_checkpoint = self.epoch in self.epochs
        if is_checkpoint or self.epoch % max(1, self.num_epochs // 50) == 0:
            self._record_curves()
        stopping = self.options.stopping
        if stopping and self.epoch % stopping.get("check_every", 10) == 0:
            self._stop_where_flat(stopping)
        if is_checkpoint:
            states = [block.engine.state() for block in self.blocks]
            self.saved[self.epoch] = {
                name: torch.cat([s[name] for s in states]).cpu() for name in states[0]
            }

    def _record_curves(self) -> None:
        loss = self.options.make_loss()
        losses = torch.cat([block.train_losses(loss) for block in self.blocks]).cpu()
        finite = torch.cat([self._finite(block) for block in self.blocks]).cpu()
        self.diverged[(self.diverged < 0) & ~finite] = self.epoch
        self.curves.append([float(self.epoch), *losses.tolist()])

    @staticmethod
    def _finite(block: Block) -> Tensor:
        return torch.stack([p.flatten(1).isfinite().all(1) for p in block.engine.parameters]).all(0)

    def _stop_where_flat(self, stopping: dict[str, Any]) -> None:
        if self.epoch < stopping.get("min_epochs", 0):
            return
        norms = torch.cat([block.gradient_norms() for block in self.blocks]).cpu()
        self.stopped[(self.stopped < 0) & (norms <= stopping["gradient_norm"])] = self.epoch

    # The state to resume from: everything that the next epoch depends on, nothing else. Random
    # draws depend on seed and epoch alone, so no generator's state is part of it.

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        described = [dataclasses.asdict(self.options), self.seeds, self.epochs]
        digest.update(json.dumps(described, sort_keys=True).encode())
        for tensor in (self.data.inputs, self.data.labels):
            digest.update(str(tensor.shape).encode() + tensor.cpu().numpy().tobytes())
        for block in self.blocks:
            digest.update(f"{block.part}{[tuple(p.shape) for p in block.engine.parameters]}".encode())
        return digest.hexdigest()

    def _live_tensors(self) -> dict[str, Tensor]:
        live = {}
        for b, block in enumerate(self.blocks):
            for i, tensor in enumerate([*block.engine.parameters, *block.engine.extra_state]):
                live[f"parameter/{b}/{i}"] = tensor
            for i, tensor in enumerate(block.optimizer.memory):
                live[f"optimizer/{b}/{i}"] = tensor
        return live

    def _save_state(self, path: Path) -> None:
        tensors = dict(self._live_tensors())
        for epoch, state in self.saved.items():
            tensors |= {f"saved/{epoch}/{name}": tensor for name, tensor in state.items()}
        tensors["stopped"], tensors["diverged"] = self.stopped, self.diverged
        tensors["curves"] = torch.tensor(self.curves, dtype=torch.float64)
        metadata = {"fingerprint": self._fingerprint(), "epoch": str(self.epoch)}
        checkpoints.save_atomically(path, tensors, metadata)

    def _resume(self, path: Path, progress: Progress) -> None:
        if not path.exists():
            return
        try:
            tensors, metadata = checkpoints.load(path)
        except ValueError as error:
            progress.say(f"starting over: {error}")
            return
        if metadata.get("fingerprint") != self._fingerprint():
            progress.say(f"starting over: {path} belongs to another configuration")
            return
        for name, live in self._live_tensors().items():
            live.copy_(tensors[name])
        self.stopped, self.diverged = tensors["stopped"], tensors["diverged"]
        self.curves, self.epoch = tensors["curves"].tolist(), int(metadata["epoch"])
        for name, tensor in tensors.items():
            if name.startswith("saved/"):
                _, epoch, parameter = name.split("/", 2)
                self.saved.setdefault(int(epoch), {})[parameter] = tensor
        progress.say(f"going on from epoch {self.epoch}")

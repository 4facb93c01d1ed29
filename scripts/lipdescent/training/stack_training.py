"""Train a stack of models as one.

A replica has a label noise and a seed. Its weights, batch order and label noise are drawn from
its own seed, and every product of the step is per replica: its result does not depend on its
stack-mates. Replicas of one seed share initial weights and batch order at every noise level
(common random numbers), so that differences between noise levels are due to the noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent import augmentation, checkpoints, own_call, training_state
from lipdescent.device import upload
from lipdescent.halving import on_every
from lipdescent.progress import Progress
from lipdescent.replica_block import Block, TrainingData, split_into_blocks
from lipdescent.seeding import generator, seed_of
from lipdescent.stacked_forward import stacked_forward
from lipdescent.stacking import ModelStack, shared_tensor
from lipdescent.training_options import TrainingOptions

# Points of the training curve over the whole training, beside the checkpoints.
CURVE_POINTS = 25
NUM_COMPARED = 3  # random inputs at which a network's own call is compared


class Interrupted(Exception):
    """Training was asked to stop and has saved its state."""


def initial_stack(
    build: Callable[[], nn.Module], seeds: Sequence[int], input_shape: Sequence[int]
) -> ModelStack:
    """One model per entry of ``seeds``, drawn by PyTorch's default initialisation.

    Equal seeds give equal weights. The global random state is left as it was.

    Raises
    ------
    ValueError
        If a network uses a parameter or a buffer in two places, or computes something else than
        the stacked pass.
    """
    drawn: dict[int, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        for seed in dict.fromkeys(seeds):
            torch.manual_seed(seed_of("weights", seed))
            drawn[seed] = build()
            if shared := shared_tensor(drawn[seed]):
                raise ValueError(
                    f"{shared[0]} and {shared[1]} are one tensor; allowed in a study are networks "
                    "that use each of their tensors in one place"
                )
    stack = ModelStack.from_modules([drawn[seed] for seed in seeds], input_shape)
    check_call(stack)
    return stack


def check_call(stack: ModelStack) -> None:
    """Compare calling the first module with the stacked pass that is trained, at random inputs.

    Raises
    ------
    ValueError
        Where they differ: a hook or a replaced method that training would not see.
    """

    def read(points: Tensor, dtype: torch.dtype) -> Tensor:
        own = {n: t[:1].clone() for n, t in stack.state.items()}
        own = {n: t.to(dtype) if t.is_floating_point() else t for n, t in own.items()}
        batch = points.to(dtype, copy=True)[None]
        return stacked_forward(stack.module, own, batch, train=False)[0][0]

    points, places = own_call.random_inputs(stack.input_shape, stack.device)
    own_call.check_call(stack.module, read, points[:NUM_COMPARED], places[:NUM_COMPARED])


def batch_order(seeds: Sequence[int], epoch: int, num_train: int) -> Tensor:
    """Order of the samples in an epoch: (len(seeds), num_train), drawn from seed and epoch."""
    drawn = {
        seed: torch.randperm(num_train, generator=generator("order", seed, epoch))
        for seed in dict.fromkeys(seeds)
    }
    return torch.stack([drawn[seed] for seed in seeds])


def augmentation_draws(
    seeds: Sequence[int], epoch: int, num_train: int, *, padding: int, flip: bool = True
) -> Tensor:
    """Crops and flips of an epoch by place in its order: int64 (len(seeds), num_train, 3)."""
    drawn = {}
    for seed in dict.fromkeys(seeds):
        source = generator("augmentation", seed, epoch)
        offsets, flips = augmentation.draw(num_train, padding=padding, flip=flip, generator=source)
        drawn[seed] = torch.cat([offsets, flips.long().unsqueeze(1)], 1)
    return torch.stack([drawn[seed] for seed in seeds])


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
        at_once: int | None = None,
    ) -> None:
        """``at_once``: the largest number of models stepped together; None: what memory holds."""
        self.data, self.options = data, options
        self.seeds, self.epochs, self.num_epochs = list(seeds), list(epochs), epochs[-1]
        device = data.inputs.device
        parts = split_into_blocks(stack, options.batch_size, device, at_once=at_once)
        self.blocks = [Block(stack[part], data, part, options) for part in parts]
        self._say: Callable[[str], None] = print
        self.epoch, self.identity = 0, ""
        self.stopped = checkpoints.empty_epochs(len(seeds))
        self.diverged = checkpoints.empty_epochs(len(seeds))
        self.saved: dict[int, dict[str, Tensor]] = {}
        # Drawn anew in every process, so no part of a saved state.
        self.initial = {} if 0 in self.epochs else self._state()
        self.curves: list[list[float]] = []

    def run(
        self,
        *,
        progress: Progress,
        state_path: Path | None = None,
        end_state: Path | None = None,
        identity: str = "",
        state_interval: float = 30.0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last epoch, from a saved state if there is a sound one.

        Parameters
        ----------
        state_path : where states are saved every ``state_interval`` seconds, and looked for.
        end_state : the end state of a shorter training, looked for next (see training_state).
        identity : what else a state must have in common, such as the network and the code.

        Raises
        ------
        Interrupted
            If ``should_stop()`` turned true; the state is saved.
        """
        self.identity, self._say = identity, progress.say
        for path in filter(None, (state_path, end_state)):
            if training_state.resume(self, path, progress):
                break
        progress.begin(self.epoch)
        if self.epoch == 0 and not self.saved:
            self._look()
        last_save = time.monotonic()
        while self.epoch < self.num_epochs:
            self.one_epoch()
            progress.update(self.epoch)
            due = time.monotonic() - last_save > state_interval
            if state_path is not None and self.epoch < self.num_epochs and (due or should_stop()):
                training_state.save(self, state_path)
                last_save = time.monotonic()
                if should_stop():
                    raise Interrupted(f"stopped after epoch {self.epoch}, saved {state_path}")

    def result(
        self, label_noise: Sequence[float], about: dict[str, Any]
    ) -> checkpoints.Checkpoints:
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
            initial=self.initial,
        )

    def one_epoch(self) -> None:
        """Train all replicas that are still running for one epoch, and look at them."""
        options, num_train = self.options, len(self.data.inputs)
        device, dtype = self.data.inputs.device, self.data.inputs.dtype
        running = (self.stopped < 0) & (self.diverged < 0)
        if running.any():
            rates = options.rates(epoch=self.epoch, num_train=num_train, num_epochs=self.num_epochs)
            table = upload(torch.from_numpy(rates).to(dtype)[:, None] * running.to(dtype), device)
            order = upload(batch_order(self.seeds, self.epoch, num_train), device)
            draws = None
            if options.augmentation:
                draws = augmentation_draws(
                    self.seeds, self.epoch, num_train, **options.augmentation
                )
                draws = upload(draws, device)

            def one_epoch(block: Block) -> None:
                block.run_epoch(
                    order[block.part],
                    table[:, block.part],
                    self.epoch * len(rates),
                    None if draws is None else draws[block.part],
                )

            on_every(self.blocks, one_epoch, changes=True, say=self._say)
        self.epoch += 1
        self._look()

    def _look(self) -> None:
        """At some epochs: curves, divergence, stopping, checkpoints."""
        is_checkpoint = self.epoch in self.epochs
        if is_checkpoint or self.epoch % max(1, self.num_epochs // CURVE_POINTS) == 0:
            self._record_curves()
        stopping = self.options.stopping
        if stopping and self.epoch % stopping.get("check_every", 10) == 0:
            self._stop_where_flat(stopping)
        if is_checkpoint:
            self.saved[self.epoch] = self._state()

    def _state(self) -> dict[str, Tensor]:
        """Of all replicas now, on the CPU: name -> (num_replicas, *shape)."""
        states = [block.engine.state() for block in self.blocks]
        return {name: torch.cat([s[name] for s in states]).cpu() for name in states[0]}

    def _record_curves(self) -> None:
        found = on_every(self.blocks, lambda block: block.train_losses(), say=self._say)
        losses = torch.cat(found).cpu()
        finite = torch.cat([block.finite() for block in self.blocks]).cpu()
        self.diverged[(self.diverged < 0) & ~finite] = self.epoch
        self.curves.append([float(self.epoch), *losses.tolist()])

    def _stop_where_flat(self, stopping: dict[str, Any]) -> None:
        if self.epoch < stopping.get("min_epochs", 0):
            return
        found = on_every(self.blocks, lambda block: block.gradient_norms(), say=self._say)
        norms = torch.cat(found).cpu()
        self.stopped[(self.stopped < 0) & (norms <= stopping["gradient_norm"])] = self.epoch

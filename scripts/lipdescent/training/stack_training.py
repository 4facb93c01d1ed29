"""Train a stack of models as one.

A replica has a label noise and a seed. Its weights, batch order and label noise are drawn from
its own seed, and every product of the step is per replica: its result does not depend on its
stack-mates. Replicas of one seed share initial weights and batch order at every noise level
(common random numbers), so that differences between noise levels are due to the noise.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lipdescent.jobs.device import upload
from lipdescent.jobs.progress import Progress
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import checkpoints
from lipdescent.study.training_section import Stopping
from lipdescent.training import resume
from lipdescent.training.block import Block, TrainingData
from lipdescent.training.draws import augmentation_draws, batch_order, dropout_keys
from lipdescent.training.engines.choice import split_into_blocks
from lipdescent.training.halving import on_every
from lipdescent.training.options import TrainingOptions

# Points of the training curve over the whole training, beside the checkpoints.
CURVE_POINTS = 25


class Interrupted(Exception):
    """Training was asked to stop and has saved its state."""


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
        parts = split_into_blocks(stack, options, device, at_once=at_once)
        self.blocks = [Block(stack[part], data, part, options) for part in parts]
        self.drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in stack.module.modules())
        self.epoch, self.identity = 0, ""
        self.stopped = checkpoints.empty_epochs(len(seeds))
        self.diverged = checkpoints.empty_epochs(len(seeds))
        self.saved: dict[int, dict[str, Tensor]] = {}
        # Drawn anew in every process, so no part of a saved state.
        self.initial = {} if 0 in self.epochs else self._state()
        self.curves: list[list[float]] = []
        # What epochs were given last, here and on the device.
        self._on_device: dict[str, tuple[Tensor, Tensor]] = {}

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
        self.identity = identity
        for path in filter(None, (state_path, end_state)):
            if self._resumed(path):
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
                resume.save(self.state(), state_path)
                last_save = time.monotonic()
                if should_stop():
                    raise Interrupted(f"stopped after epoch {self.epoch}, saved {state_path}")

    def state(self) -> resume.TrainingState:
        """All that another process needs to go on from here."""
        live = [block.live_tensors() for block in self.blocks]
        parameters = self.blocks[0].engine.parameters
        return resume.TrainingState(
            live={name: torch.cat([own[name] for own in live]) for name in live[0]},
            saved=self.saved,
            curves=self.curves,
            stopped=self.stopped,
            diverged=self.diverged,
            epoch=self.epoch,
            epochs=self.epochs,
            fingerprint=resume.fingerprint(
                options=self.options,
                seeds=self.seeds,
                identity=self.identity,
                data=self.data,
                shapes=[tuple(p.shape[1:]) for p in parameters],
            ),
            options=self.options,
            num_train=len(self.data.inputs),
        )

    def _resumed(self, path: Path) -> bool:
        """Go on from the state at ``path``, if there is one that fits."""
        found = resume.resume(self.state(), path) if Path(path).exists() else None
        if found is None:
            return False
        for block in self.blocks:
            for name, live in block.live_tensors().items():
                live.copy_(found.live[name][block.part])
        self.epoch, self.saved, self.curves = found.epoch, found.saved, found.curves
        self.stopped, self.diverged = found.stopped, found.diverged
        return True

    def result(
        self, label_noise: Sequence[float], about: checkpoints.Origin | None = None
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
            table = self._uploaded(
                "rates", torch.from_numpy(rates).to(dtype)[:, None] * running.to(dtype)
            )
            order = self._uploaded(
                "order", batch_order(self.seeds, self.epoch, num_train, kind=options.batch_order)
            )
            draws = None
            if options.augmentation:
                draws = augmentation_draws(
                    self.seeds, self.epoch, num_train, **vars(options.augmentation)
                )
                draws = upload(draws, device)
            keys = None
            if self.drops:
                keys = upload(dropout_keys(self.seeds, self.epoch, len(rates)), device)

            def one_epoch(block: Block) -> None:
                block.run_epoch(
                    order[block.part],
                    table[:, block.part],
                    self.epoch * len(rates),
                    None if draws is None else draws[block.part],
                    None if keys is None else keys[:, block.part],
                )

            on_every(self.blocks, one_epoch, changes=True)
        self.epoch += 1
        self._look()

    def _uploaded(self, name: str, values: Tensor) -> Tensor:
        """On the device; what was there already, if it is the same, as a copy takes longer than an
        epoch of narrow networks.
        """
        before = self._on_device.get(name)
        if before is None or not torch.equal(before[0], values):
            before = self._on_device[name] = values, upload(values, self.data.inputs.device)
        return before[1]

    def _look(self) -> None:
        """At some epochs: curves, divergence, stopping, checkpoints."""
        is_checkpoint = self.epoch in self.epochs
        if is_checkpoint or self.epoch % max(1, self.num_epochs // CURVE_POINTS) == 0:
            self._record_curves()
        stopping = self.options.stopping
        if stopping and self.epoch % stopping.check_every == 0:
            self._stop_where_flat(stopping)
        if is_checkpoint:
            self.saved[self.epoch] = self._state()

    def _state(self) -> dict[str, Tensor]:
        """Of all replicas now, on the CPU: name -> (num_replicas, *shape)."""
        states = [block.engine.state() for block in self.blocks]
        return {name: torch.cat([s[name] for s in states]).cpu() for name in states[0]}

    def _record_curves(self) -> None:
        found = on_every(self.blocks, lambda block: block.train_losses())
        losses = torch.cat(found).cpu()
        finite = torch.cat([block.finite() for block in self.blocks]).cpu()
        self.diverged[(self.diverged < 0) & ~finite] = self.epoch
        self.curves.append([float(self.epoch), *losses.tolist()])

    def _stop_where_flat(self, stopping: Stopping) -> None:
        if self.epoch < stopping.min_epochs:
            return
        found = on_every(self.blocks, lambda block: block.gradient_norms())
        norms = torch.cat(found).cpu()
        self.stopped[(self.stopped < 0) & (norms <= stopping.gradient_norm)] = self.epoch

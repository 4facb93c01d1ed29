"""How a network is trained: the ``training`` section of the configuration."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lipdescent.plugins import lookup
from lipdescent.study.training_section import TrainingSection
from lipdescent.training import optimizers


class TrainingOptions(TrainingSection):
    """The section with the losses, optimisers and rates that it names."""

    def make_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(logits, one-hot targets) -> loss per sample, the options bound."""
        function = lookup.resolve("losses", self.loss).loss
        if not self.loss_options:
            return function
        return lambda logits, targets: function(logits, targets, **self.loss_options)

    def make_optimizer(self) -> optimizers.SGD | optimizers.Adam:
        if self.optimizer in ("adam", "adamw"):
            first, second = self.betas
            return optimizers.Adam(
                (first, second),
                self.weight_decay,
                self.gradient_clip,
                decoupled=self.optimizer == "adamw",
            )
        return optimizers.SGD(self.momentum, self.weight_decay, self.gradient_clip)

    def rates(self, *, epoch: int, num_train: int, num_epochs: int) -> np.ndarray:
        """Learning rate of every update in an epoch (the first is epoch 0)."""
        per_epoch = -(-num_train // self.batch_size)
        update = np.arange(epoch * per_epoch, (epoch + 1) * per_epoch)
        schedule = lookup.resolve("schedules", self.schedule)
        factors = schedule.factors(
            update,
            updates_per_epoch=per_epoch,
            total_updates=num_epochs * per_epoch,
            **self.schedule_options,
        )
        return self.learning_rate * factors


def loss_of(training: Mapping[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a ``training`` section, which has no other keys where training was elsewhere."""
    others = {"learning_rate": 0.0, "batch_size": 1}  # no loss reads them
    return TrainingOptions(**(others | dict(training))).make_loss()

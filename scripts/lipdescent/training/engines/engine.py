"""What the engines of a stack's training have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class TrainedState:
    """The tensors that an engine trains, and those that change beside them."""

    _state: dict[str, Tensor]
    _trained: list[str]

    @property
    def parameters(self) -> list[Tensor]:
        return [self._state[name] for name in self._trained]

    @property
    def extra_state(self) -> list[Tensor]:
        """What changes in training beside the parameters, such as BatchNorm's statistics."""
        return [t for name, t in self._state.items() if name not in self._trained]


class EngineOptions(Protocol):
    """What of a training's options an engine is chosen by and made with."""

    precision: str
    batch_size: int
    channels_last: bool
    penalty: dict[str, Any] | None

    def make_loss(self) -> Callable[[Tensor, Tensor], Tensor]: ...


def logit_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor
) -> Tensor:
    """Gradient of every sample's loss at its logits, (models, batch, classes) as both are.

    By the loss's closed form ``loss.logit_gradient`` where it has one, else by autograd.
    """
    closed_form = getattr(loss, "logit_gradient", None)
    if closed_form is not None:
        return closed_form(logits, targets)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf, targets).sum(), leaf)[0]

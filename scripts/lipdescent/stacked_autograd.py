"""Gradients of a stack of any architecture by autograd.

The plain way: one vectorised forward pass, then the gradient of the sum of the models' losses.
Models do not share parameters, so the gradient of the sum is every model's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class StackedAutograd:
    """Same interface as :class:`lipdescent.stacked_mlp.StackedMLP`, for any module."""

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Callable) -> None:
        self._module, self._loss = module, loss
        trained = {name for name, _ in module.named_parameters()}
        self._state = {name: tensor.clone() for name, tensor in state.items()}
        self._trained = [name for name in state if name in trained]

    @property
    def parameters(self) -> list[Tensor]:
        return [self._state[name] for name in self._trained]

    @property
    def extra_state(self) -> list[Tensor]:
        """What changes in training beside the parameters, such as BatchNorm's statistics."""
        return [t for name, t in self._state.items() if name not in self._trained]

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def accumulate(
        self, buffers: list[Tensor], inputs: Tensor, targets: Tensor, *, decay: float
    ) -> None:
        """See :meth:`lipdescent.stacked_mlp.StackedMLP.accumulate`."""
        leaves = {
            name: tensor.detach().requires_grad_(name in self._trained)
            for name, tensor in self._state.items()
        }

        def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._module, state, (x,))

        with torch.enable_grad():
            losses = self._loss(vmap(forward)(leaves, inputs), targets)
            gradients = torch.autograd.grad(
                losses.mean(1).sum(), [leaves[name] for name in self._trained]
            )
        for buffer, gradient in zip(buffers, gradients, strict=True):
            buffer.mul_(decay).add_(gradient)

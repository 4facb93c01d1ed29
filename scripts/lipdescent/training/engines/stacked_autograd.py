"""Gradients of a stack of any architecture by autograd.

One vectorised forward pass, then the gradient of the sum of the models' losses. Models do not
share parameters, so the gradient of the sum is every model's own gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipdescent.constrained import retractions
from lipdescent.stacks.convolution import channels_innermost
from lipdescent.stacks.forward import stacked_forward
from lipdescent.training.engines.engine import TrainedState


class StackedAutograd(TrainedState):
    """Same interface as :class:`lipdescent.training.engines.fused_mlp.StackedMLP`, for any module.

    ``autocast`` is a dtype in which products are computed (bfloat16), or None. ``channels_last``
    lays images out channels innermost (on CUDA; a CPU has an order of its own). Linear layers with
    Björck's constraint are trained on the orthonormal matrices: a step begins by putting their raw
    weights back there (``lipdescent.constrained.retraction``).
    """

    def __init__(
        self,
        module: nn.Module,
        state: dict[str, Tensor],
        loss: Callable,
        *,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        self._module, self._loss, self._autocast = module, loss, autocast
        self._channels_last = channels_last
        trained = {name for name, _ in module.named_parameters()}
        self._state = {name: tensor.clone() for name, tensor in state.items()}
        self._trained = [name for name in state if name in trained]
        self._retractions = retractions(module)

    def state(self) -> dict[str, Tensor]:
        """Copies of all tensors; raw weights as the next step puts them back."""
        state = {name: tensor.clone() for name, tensor in self._state.items()}
        for name, constraint in self._retractions.items():
            constraint.retract_(state[name])
        return state

    def accumulate(
        self, buffers: list[Tensor], inputs: Tensor, targets: Tensor, *, decay: float
    ) -> None:
        """See :meth:`lipdescent.training.engines.fused_mlp.StackedMLP.accumulate`."""
        for name, constraint in self._retractions.items():
            constraint.retract_(self._state[name])
        leaves = {
            name: tensor.detach().requires_grad_(name in self._trained)
            for name, tensor in self._state.items()
        }
        with torch.enable_grad():
            inputs = self._laid_out(inputs)
            with self._precision(inputs.device):
                outputs, changed = stacked_forward(
                    self._module, leaves, inputs, train=True, retracted=self._retractions
                )
            losses = self._loss(outputs.to(targets.dtype), targets)
            gradients = torch.autograd.grad(
                losses.mean(1).sum(), [leaves[name] for name in self._trained]
            )
        for name, buffer, gradient in zip(self._trained, buffers, gradients, strict=True):
            if name in self._retractions:
                gradient = self._retractions[name].tangent_(self._state[name], gradient)
            buffer.mul_(decay).add_(gradient)
        for name, tensor in changed.items():
            self._state[name].copy_(tensor.detach())

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`lipdescent.training.engines.fused_mlp.StackedMLP.losses`."""
        inputs = self._laid_out(inputs)
        state = self.state() if self._retractions else self._state
        with torch.no_grad(), self._precision(inputs.device):
            outputs, _ = stacked_forward(
                self._module, state, inputs, train=False, retracted=self._retractions
            )
        return self._loss(outputs.to(targets.dtype), targets)

    def _laid_out(self, inputs: Tensor) -> Tensor:
        images = self._channels_last and inputs.ndim == 5 and inputs.device.type != "cpu"
        return channels_innermost(inputs) if images else inputs

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self._autocast)

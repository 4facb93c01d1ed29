"""Gradients of a stack of any architecture by autograd.

One vectorised forward pass, then the gradient of the sum of the models' losses. Models do not
share parameters, so the gradient of the sum is every model's own gradient.
"""

import contextlib
from typing import Any, Self

import torch
from torch import Tensor, nn

from lipdescent.constrained import retractions
from lipdescent.networks.known_classes import BATCH_NORMS
from lipdescent.networks.reading import read
from lipdescent.stacks.convolution import channels_innermost, rows_on_cuda
from lipdescent.stacks.dropout import MaskedBy, off
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.engines.engine import EngineOptions, Loss
from lipdescent.training.engines.layouts import NamedState, undrawn


def supports(module: nn.Module) -> bool:
    """True unless a layer other than nn.Dropout draws random numbers."""
    return undrawn(module) is None


class StackedAutograd(NamedState):
    """See :class:`lipdescent.training.engines.engine.Engine`.

    ``autocast`` is a dtype in which products are computed (bfloat16), or None. ``channels_last``
    lays images out channels innermost (on CUDA; a CPU has an order of its own). Linear layers with
    Björck's constraint are trained on the orthonormal matrices: a step begins by putting their raw
    weights back there (``lipdescent.constrained.retraction``).
    """

    supports = staticmethod(supports)

    def __init__(
        self,
        module: nn.Module,
        state: dict[str, Tensor],
        loss: Loss,
        *,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        if layer := undrawn(module):
            raise TypeError(
                f"{layer}: needs random numbers per replica, which only nn.Dropout by itself has; "
                "set p to 0"
            )
        super().__init__(module, state, loss)
        self._network = read(module, declared=False)
        self._autocast, self._channels_last = autocast, channels_last
        self._retractions = retractions(module)
        self._by_rows = pays_by_rows(module)

    @classmethod
    def of(cls, stack: ModelStack, options: EngineOptions) -> Self:
        return cls(
            stack.module,
            stack.state,
            options.make_loss(),
            autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
            channels_last=options.channels_last,
            **cls._further(stack, options),
        )

    @classmethod
    def _further(cls, stack: ModelStack, options: EngineOptions) -> dict[str, Any]:
        """Arguments of its own that a kind of this engine takes from the options."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Copies of all tensors; raw weights as the next step puts them back."""
        state = super().state()
        for name, constraint in self._retractions.items():
            constraint.retract_(state[name])
        return state

    def accumulate(
        self,
        buffers: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        decay: float,
        keys: Tensor | None = None,
    ) -> None:
        for name, constraint in self._retractions.items():
            constraint.retract_(self._state[name])
        leaves = {
            name: tensor.detach().requires_grad_(name in self._trained)
            for name, tensor in self._state.items()
        }
        with torch.enable_grad():
            means, changed = self._mean_losses(leaves, self._laid_out(inputs), targets, keys)
            gradients = torch.autograd.grad(means.sum(), [leaves[name] for name in self._trained])
        for name, buffer, gradient in zip(self._trained, buffers, gradients, strict=True):
            if name in self._retractions:
                gradient = self._retractions[name].tangent_(self._state[name], gradient)
            buffer.mul_(decay).add_(gradient)
        for name, tensor in changed.items():
            self._state[name].copy_(tensor.detach())

    def _mean_losses(
        self, leaves: dict[str, Tensor], inputs: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What each model's step makes smaller (num_models,), and what the pass changes."""
        with self._precision(inputs.device):
            outputs, changed = stacked_forward(
                self._network,
                leaves,
                inputs,
                train=True,
                retracted=self._retractions,
                dropout=off if keys is None else MaskedBy(keys),
            )
        return self._loss(outputs.to(targets.dtype), targets).mean(1), changed

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs = self._laid_out(inputs)
        state = self.state() if self._retractions else self._state
        with torch.no_grad(), self._precision(inputs.device):
            outputs, _ = stacked_forward(
                self._network, state, inputs, train=False, retracted=self._retractions
            )
        return self._loss(outputs.to(targets.dtype), targets)

    def _laid_out(self, inputs: Tensor) -> Tensor:
        images = self._channels_last and inputs.ndim == 5 and inputs.device.type != "cpu"
        return channels_innermost(inputs) if images else inputs

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager:
        if self._autocast is None:
            return rows_on_cuda() if self._by_rows else contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self._autocast)


def pays_by_rows(module: nn.Module) -> bool:
    """Whether convolutions as products by rows are faster on CUDA in float32, as measured.

    By the least channels of a layer (docs/gpu.md). Without BatchNorm they took 1.8 times as long at
    1 and .6 times at 12, so the change lies between. With it, which is slow in that order in
    memory, 1.07 at 16 and .6 at 32.
    """
    parts = list(module.modules())
    channels = [p.out_channels for p in parts if isinstance(p, nn.modules.conv._ConvNd)]
    least = 32 if any(isinstance(part, BATCH_NORMS) for part in parts) else 6
    return min(channels, default=0) >= least

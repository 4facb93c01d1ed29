"""Gradients of a stack of models one after the other, by PyTorch's own kernels.

On a CPU large convolutions fill the processor by themselves; stacking them only costs memory
traffic (benchmarks/image_stacking.py). Each model is a module whose parameters and buffers are
views of the stack's tensors, and whose gradients are views of the optimiser's buffers: nothing is
copied.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipdescent.networks.known_classes import is_attention
from lipdescent.stacks.dropout import Dropout, MaskedBy, off
from lipdescent.stacks.workload import activation_bytes, multiplications
from lipdescent.training.engines.engine import Loss, Setting
from lipdescent.training.engines.layouts import NamedState, undrawn


class Work(NamedTuple):
    """Multiply-adds of one model's forward pass of a batch, and how many of them per activation."""

    products: float
    per_activation: float


# From this much work on, a model at a time is at least as fast as a stack under autograd: calls are
# few beside what they do, and products take the time, not memory. Measured, between the shapes of
# benchmarks/image_stacking.py; a choice by the clock in a job would not give the same bits again.
BEYOND_AUTOGRAD = Work(40e6, 15)


def supports(module: nn.Module) -> bool:
    """True unless a layer is constrained, or draws random numbers other than nn.Dropout's."""
    constrained = any(map(parametrize.is_parametrized, module.modules()))
    return not constrained and undrawn(module) is None


def pays(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    batch_size: int,
    beyond: Work = BEYOND_AUTOGRAD,
) -> bool:
    """True if a CPU trains ``module`` at least as fast one at a time as stacked under autograd.

    Attention always: its many small batched products gain nothing from another batch axis.
    """
    if not supports(module):
        return False
    if any(map(is_attention, module.modules())):
        return True
    products = batch_size * multiplications(module, input_shape)
    activations = activation_bytes(module, input_shape, batch_size=batch_size, itemsize=1)
    return products >= beyond.products and products >= beyond.per_activation * activations


class LoopedAutograd(NamedState):
    """See :class:`lipdescent.training.engines.engine.Engine`."""

    supports = staticmethod(supports)

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Loss) -> None:
        if not supports(module):
            raise TypeError(
                f"constrained layers, and random ones but nn.Dropout, are not looped over: {module}"
            )
        super().__init__(module, state, loss)
        self._models = [
            _on_views(module, {name: tensor[r] for name, tensor in self._state.items()})
            for r in range(len(self._state[self._trained[0]]))
        ]

    @classmethod
    def pays(cls, module: nn.Module, setting: Setting) -> bool:
        """On a CPU, without autocast, for networks whose products fill the processor."""
        plain = setting.device.type == "cpu" and setting.precision != "bfloat16"
        return plain and pays(module, setting.input_shape, batch_size=setting.batch_size)

    def accumulate(
        self,
        buffers: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        decay: float,
        keys: Tensor | None = None,
    ) -> None:
        for buffer in buffers:
            buffer.mul_(decay)
        for r, model in enumerate(self._models):
            for parameter, buffer in zip(model.parameters(), buffers, strict=True):
                parameter.grad = buffer[r]  # backward adds to it in place
            _set(model, off if keys is None else MaskedBy(keys[r : r + 1]))
            with torch.enable_grad():
                outputs = model.train()(inputs[r].clone())  # it may work in place
                self._loss(outputs, targets[r]).mean().backward()

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = [
                model.eval()(x.clone()) for model, x in zip(self._models, inputs, strict=True)
            ]
            return self._loss(torch.stack(outputs), targets)


class _Drawn(nn.Module):
    """In place of nn.Dropout: masks from what it is given for the pass, nothing in eval mode."""

    dropout: Dropout = staticmethod(off)

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.p, x[None])[0] if self.training else x


def _set(model: nn.Module, dropout: Dropout) -> None:
    for part in model.modules():
        if isinstance(part, _Drawn):
            part.dropout = dropout


def _on_views(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A copy of ``module`` whose parameters and buffers are the tensors of ``state``."""
    own = copy.deepcopy(module)
    for path, part in module.named_modules(remove_duplicate=False):
        if type(part) is nn.Dropout and part.p > 0:
            own.set_submodule(path, _Drawn(part.p))
    for path, part in own.named_modules():
        for tensors in (part._parameters, part._buffers):
            for name, old in tensors.items():
                found = state.get(f"{path}.{name}" if path else name)
                if found is not None:
                    trained = isinstance(old, nn.Parameter)
                    tensors[name] = nn.Parameter(found) if trained else found
    return own

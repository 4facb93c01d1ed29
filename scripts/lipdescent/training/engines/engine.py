"""What every engine of a stack's training offers, and what engines have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.workload import activation_bytes

# Autograd on a CPU passes over memory anyway; beyond this, allocation costs more than it saves.
AUTOGRAD_BLOCK_BYTES = 16 << 20

Loss = Callable[[Tensor, Tensor], Tensor]


class EngineOptions(Protocol):
    """What of a training's options an engine is chosen by and made with."""

    @property
    def precision(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def channels_last(self) -> bool: ...
    @property
    def penalty(self) -> Mapping[str, Any] | None: ...
    @property
    def adversary(self) -> Mapping[str, Any] | None: ...

    def make_loss(self) -> Loss: ...


@dataclass(frozen=True)
class Setting:
    """Where a network is trained and on what: all that the choice of its engine depends on.

    Not on the number of models: a model's bits must not depend on its stack-mates.
    """

    input_shape: tuple[int, ...]
    batch_size: int
    precision: str
    device: torch.device


class Engine(Protocol):
    """One way to train a stack: it holds the models' tensors and accumulates their gradients.

    An engine is a file in this folder and a class in ``choice.ENGINES``. What comes out for a model
    is what plain PyTorch gives for it alone, to rounding; it depends on no other model, and the
    next time it is the same to the bit. No random numbers are drawn (dropout's masks are a
    function of ``keys``), and the tensors that are passed in are left alone.

    Parameters
    ----------
    module : the structure; its own weights are never read.
    state : parameter or buffer name -> (num_models, *shape).
    loss : (logits, one-hot targets), each (..., batch, num_classes), -> loss of every sample.

    Raises
    ------
    TypeError
        If :meth:`supports` says no; the message names the network or its layer.
    """

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Loss) -> None: ...

    @classmethod
    def of(cls, stack: ModelStack, options: EngineOptions) -> Self:
        """The engine that trains ``stack`` as the options say."""
        return cls(stack.module, stack.state, options.make_loss())

    @staticmethod
    def supports(module: nn.Module) -> bool:
        """True if the engine can train this network."""
        ...

    @classmethod
    def pays(cls, module: nn.Module, setting: Setting) -> bool:
        """True if a network that it supports should be trained by it, not by a later engine."""
        return True

    @classmethod
    def at_once(cls, module: nn.Module, setting: Setting) -> int | None:
        """How many models to step together: what cache or memory holds; None: any number."""
        per_model = activation_bytes(module, setting.input_shape, batch_size=setting.batch_size)
        return _activation_budget(setting.device) // max(1, per_model)

    @property
    def parameters(self) -> list[Tensor]:
        """The live tensors that are trained, models first, in the engine's own layout."""
        ...

    @property
    def extra_state(self) -> list[Tensor]:
        """What changes in training beside the parameters, such as BatchNorm's statistics."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copies of all tensors under the module's names, shapes (num_models, *shape)."""
        ...

    def live_weight(self, name: str) -> Tensor:
        """A layer's weight by the module's name and in its shape, a view of what is trained."""
        ...

    def accumulate(
        self,
        buffers: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        decay: float,
        keys: Tensor | None = None,
    ) -> None:
        """buffers <- decay * buffers + gradient of the mean loss, for every model.

        Parameters
        ----------
        buffers : one tensor per entry of :attr:`parameters`, same shapes.
        inputs : (num_models, batch, *input_shape), each model its own batch.
        targets : one-hot (num_models, batch, num_classes).
        keys : int64 (num_models,), of this step's dropout masks
            (:mod:`lipdescent.stacks.dropout`); None for a step without dropout.
        """
        ...

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of every sample, (num_models, batch); shapes as in :meth:`accumulate`."""
        ...


def _activation_budget(device: torch.device) -> int:
    if device.type == "cpu":
        return AUTOGRAD_BLOCK_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    # A step takes about twice its activations; graphs and what runs beside them, each their own.
    return free // 4

"""A stack of models: one structure, parameters with a leading stack axis.

The stack axis runs over replicas (label noise x seed) in training, and over epochs x replicas
when checkpoints are measured.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

T = TypeVar("T")


@dataclass(frozen=True)
class ModelStack:
    """``num_models`` networks of one architecture.

    Attributes
    ----------
    module : the structure, in eval mode. Its own weights are never read.
    state : parameter or buffer name -> tensor of shape (num_models, *shape).
    input_shape : shape of one input, without the batch axis.
    known : what bounds keep of these very weights, so that others need not compute it again.
    """

    module: nn.Module
    state: dict[str, Tensor]
    input_shape: tuple[int, ...]
    known: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = tensors(self.module)
        if set(own) != set(self.state):
            missing, extra = sorted(set(own) - set(self.state)), sorted(set(self.state) - set(own))
            raise ValueError(f"state does not fit the module: missing {missing}, unknown {extra}")
        for name, tensor in self.state.items():
            if tensor.shape[1:] != own[name].shape or tensor.shape[0] != self.num_models:
                raise ValueError(
                    f"{name}: shape {tuple(tensor.shape)}, "
                    f"expected ({self.num_models}, {', '.join(map(str, own[name].shape))})"
                )
        self.module.eval()

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], input_shape: Sequence[int]) -> ModelStack:
        """Stack the weights of equally built modules (a list of one is fine)."""
        states = [tensors(m) for m in modules]
        state = {name: torch.stack([s[name].detach() for s in states]) for name in states[0]}
        return cls(modules[0], state, tuple(input_shape))

    @property
    def num_models(self) -> int:
        return next(iter(self.state.values())).shape[0] if self.state else 0

    @property
    def device(self) -> torch.device:
        return next(iter(self.state.values())).device

    def __getitem__(self, index: slice | Tensor) -> ModelStack:
        """Sub-stack; ``index`` is a slice, an integer tensor or a boolean mask of the models."""
        state = {name: tensor[index] for name, tensor in self.state.items()}
        return ModelStack(self.module, state, self.input_shape)

    def state_of(self, model: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Tensors of one model, floating-point ones in ``dtype``."""
        return in_dtype({name: tensor[model] for name, tensor in self.state.items()}, dtype)

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ModelStack:
        """Copy on another device, floating-point tensors in another dtype."""
        state = {
            name: t.to(device=device, dtype=dtype if t.is_floating_point() else None)
            for name, t in self.state.items()
        }
        return ModelStack(self.module, state, self.input_shape)

    def kept(self, key: Hashable, own: Mapping[str, Tensor], take: Callable[[], T]) -> T:
        """What ``take`` makes of the tensors ``own``; taken again once one of them has changed."""
        tensors = list(own.values())
        if any(t.is_inference() for t in tensors):  # these do not tell whether they change
            return take()
        versions = [t._version for t in tensors]
        if key in self.known:
            before, then, value = self.known[key]
            if versions == then and all(map(operator.is_, before, tensors)):
                return cast(T, value)
        value = take()
        self.known[key] = tensors, versions, value
        return value

    def finite(self) -> Tensor:
        """Boolean (num_models,): True where every parameter and buffer is finite."""
        ok = torch.ones(self.num_models, dtype=torch.bool, device=self.device)
        for tensor in self.state.values():
            if tensor.is_floating_point():
                ok &= tensor.isfinite().reshape(self.num_models, -1).all(1)
        return ok

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs (num_models, num_inputs, num_classes) at inputs (num_inputs, *input_shape)."""

        def forward(state: dict[str, Tensor]) -> Tensor:
            # A copy: a module that works in place would write into the caller's data.
            return functional_call(self.module, state, (inputs.clone(),))

        return vmap(forward)(self.state)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, in the order of ``state_dict``.

    Not what ``state_dict()`` says, which hooks may change: the forward pass uses these.
    """
    return {
        f"{path}.{name}" if path else name: tensor
        for path, part in module.named_modules(remove_duplicate=False)
        for own in (part._parameters, part._buffers)
        for name, tensor in own.items()
        if tensor is not None
    }


def in_dtype(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors, floating-point ones in ``dtype``."""
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def refuse_shared(module: nn.Module) -> None:
    """Raise ValueError if a module uses a parameter or buffer in two places, naming both."""
    first: dict[int, str] = {}
    kinds = module.named_parameters, module.named_buffers
    for name, tensor in (pair for kind in kinds for pair in kind(remove_duplicate=False)):
        other = first.setdefault(id(tensor), name)
        if other != name:
            raise ValueError(
                f"{name} is shared with {other}; allowed are networks that use each of their "
                "tensors in one place"
            )

"""A layer as it is read: its class, its settings and the tensors that are measured, nothing else.

The layer that a network holds may compute something else: hooks on it or on all modules, a
replaced method, an attribute that hides a weight, a setting that was changed where the layer keeps
a copy of it. Built anew, it does what the table of layers takes it for.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.networks.declared import declaration_of


def rebuilt(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A layer of the same class and settings, in eval mode, on the tensors of ``state``.

    Its constructor is given the attributes of the same names. No random number is drawn.

    Raises
    ------
    TypeError
        If the constructor needs what is no attribute.
    """
    if declaration_of(module) is not None:
        return _copied(module, state)
    wanted = _parameters(type(module).__init__)
    given: dict[str, Any] = {}
    for name, parameter in list(wanted.items())[1:]:
        if name in ("device", "dtype") or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            continue
        if name == "bias":
            given[name] = module.bias is not None
        elif name in vars(module):
            given[name] = vars(module)[name]
        elif parameter.default is parameter.empty:
            raise TypeError(f"{type(module).__name__} keeps no {name}")
    if "device" in wanted:
        given["device"], given["dtype"] = "meta", torch.float64  # of weights that make way at once
    layer = type(module)(**given).eval()
    for own in (layer._parameters, layer._buffers):
        vars(layer).update({name: state.get(name) for name in own})
        own.clear()
    return layer


@functools.lru_cache(maxsize=256)
def _parameters(constructor: Callable[..., None]) -> Mapping[str, inspect.Parameter]:
    """Looking them up takes longer than building most layers."""
    return inspect.signature(constructor).parameters


def _copied(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A copy of a user's layer, whatever is inside of it, on the tensors of ``state``."""
    layer = copy.deepcopy(module).eval()
    for name, tensor in state.items():
        path, _, own = name.rpartition(".")
        owner = layer.get_submodule(path)
        owner._parameters.pop(own, None)
        owner._buffers[own] = tensor
    return layer


def evaluate(module: nn.Module, state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Output of the rebuilt layer at ``x``, which stays as it is; no hook runs."""
    layer = rebuilt(module, state)
    return type(layer).forward(layer, x.clone() if getattr(layer, "inplace", False) else x)

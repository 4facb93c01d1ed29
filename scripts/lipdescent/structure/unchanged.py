"""Whether a network's modules are what their classes say: not changed on the instance or class."""

from functools import cache
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize

from lipdescent.layers.table import TABLE
from lipdescent.networks.expressions import place
from lipdescent.stacks.model_stack import refuse_shared

_CALLS = ("__call__", "_wrapped_call_impl", "_call_impl", "forward")
_TORCH = Path(torch.__file__).parent
_SOURCES = (_TORCH, Path(__file__).parents[1])  # of the classes in the table
_OPERATIONS = tuple(dir(torch._C._VariableFunctions))


def check_module(module: nn.Module) -> None:
    """Refuse what may compute something else than its class, weights and settings say.

    Raises
    ------
    TypeError
        For quantised, scripted and compiled modules, tensors of other classes than torch's own.
    ValueError
        For weights without a shape, train mode, parametrisations, hooks, replaced methods and
        functions of torch, hidden tensors, shared weights.
    """
    check_measurable(module)
    for path, m in module.named_modules(remove_duplicate=False):
        where = place(m, path)
        if parametrize.is_parametrized(m):
            raise ValueError(f"{where} is parametrised; call remove_parametrizations() first")
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks:
            raise ValueError(f"{where} has hooks (weight_norm?) that may change it; remove them")
        for name in _CALLS:
            if name in vars(m):
                raise ValueError(f"{where}: {name} was replaced on the instance")
            if type(m) in TABLE and not _original(type(m), name):
                raise ValueError(f"{where}: {name} was replaced on the class; allowed is torch's")
        hidden = set(vars(m)) & {*m._parameters, *m._buffers, *m._modules}
        if hidden:
            raise ValueError(
                f"{where}: an attribute hides {min(hidden)}, which the call then does not use; "
                f"delete it, or assign to the {type(m).__name__} itself"
            )
    refuse_shared(module)


def check_measurable(module: nn.Module) -> None:
    """Refuse what no reading can help: it has no weights of real numbers, or draws random ones.

    Raises
    ------
    TypeError, ValueError
        For quantised, scripted and compiled modules, tensors of other classes than torch's own,
        weights without a shape, train mode, and replaced functions of torch.
    """
    _check_functions()
    for path, m in module.named_modules(remove_duplicate=False):
        where = place(m, path)
        _check_tensors(m, where)
        if m.training:
            raise ValueError(f"{where} is in train mode; call eval() first")


def _check_functions() -> None:
    """Refuse functions that were put in the place of torch's own: every layer calls them."""
    for space, names in ((torch, _OPERATIONS), (functional, vars(functional))):
        for name in names:
            function = vars(space).get(name)
            if not isinstance(function, FunctionType):
                continue
            file = function.__code__.co_filename
            if not _within(file, _TORCH):
                raise ValueError(
                    f"{space.__name__}.{name} was replaced by a function of {file}; allowed is "
                    "torch's own"
                )


@cache
def _within(file: str, *folders: Path) -> bool:
    return any(folder in Path(file).parents for folder in folders)


def _check_tensors(m: nn.Module, where: str) -> None:
    if isinstance(m, torch.jit.ScriptModule):
        raise TypeError(f"{where} is TorchScript; allowed is the module that it was made from")
    if type(m).__name__ == "OptimizedModule":  # whose own module takes long to import
        raise TypeError(
            f"{where} comes from torch.compile; allowed is the module within, _orig_mod"
        )
    if ".quantized" in type(m).__module__:
        raise TypeError(
            f"{where} of {type(m).__module__} is quantised: it rounds what it computes, which is "
            "not Lipschitz; allowed is the floating-point network from before quantisation"
        )
    for name, tensor in [*m._parameters.items(), *m._buffers.items()]:
        if tensor is None:
            continue
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise ValueError(
                f"{where}: {name} has no shape yet, as the module is lazy; call the network once "
                "on a batch of inputs, such as model(torch.zeros(2, *input_shape))"
            )
        if type(tensor) not in (Tensor, nn.Parameter):
            kind = type(tensor).__name__
            raise TypeError(f"{where}: {name} is a {kind}; allowed are plain tensors")
        if tensor.is_complex() or tensor.is_sparse or tensor.is_quantized:
            raise TypeError(
                f"{where}: {name} is {tensor.dtype}, {tensor.layout}; allowed are dense tensors "
                "of real numbers"
            )


def _original(kind: type[nn.Module], name: str) -> bool:
    """Whether a class of the table has the method as its authors wrote it."""
    method = getattr(kind, name)
    if name != "forward":
        return method is getattr(nn.Module, name)
    code = getattr(method, "__code__", None)
    return code is not None and _within(code.co_filename, *_SOURCES)

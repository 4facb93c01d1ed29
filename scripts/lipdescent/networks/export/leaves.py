"""Declared layers inside of a ``forward`` that is exported: one operation each, not looked into.

While PyTorch traces the network a declared module calls the operation ``lipdescent::declared``,
with its tensors as arguments, so that they are among the network's. It is called on one tensor and
gives one; a declared module that is called otherwise is traced like any other.
"""

import contextlib
import copy
import itertools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.networks.declared import declared_parts

NAME = "declared"
_numbers = itertools.count()


class Leaf:
    """A declared module in a network.

    Attributes
    ----------
    path : of the module in the network.
    module : a copy, in eval mode.
    shapes : of the inputs that it was called on -> of its outputs, with the batch axis.
    number : by which the operation finds it.
    """

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path, self.module = path, copy.deepcopy(module).eval()
        self.shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.number = next(_numbers)
        _LEAVES[self.number] = self

    @property
    def names(self) -> list[str]:
        """Of the module's tensors, in the order in which the operation takes them."""
        return list(_tensors(self.module))


_LEAVES: weakref.WeakValueDictionary[int, Leaf] = weakref.WeakValueDictionary()

torch.library.define(f"lipdescent::{NAME}", "(Tensor x, Tensor[] tensors, int number) -> Tensor")


@torch.library.impl(f"lipdescent::{NAME}", "CompositeExplicitAutograd")
def _called(x: Tensor, values: Sequence[Tensor], number: int) -> Tensor:
    """What the module gives with these tensors; in their type, whatever that of its own."""
    leaf = _LEAVES[number]
    state = dict(zip(leaf.names, values, strict=True))
    return functional_call(leaf.module, state, (x,)).clone()


@torch.library.register_fake(f"lipdescent::{NAME}")
def _of_the_shape(x: Tensor, values: Sequence[Tensor], number: int) -> Tensor:
    return x.new_empty(_LEAVES[number].shapes[tuple(x.shape)])


@contextlib.contextmanager
def declared_as_leaves(module: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[tuple[Leaf, ...]]:
    """Let declared parts of ``module`` call the operation while it is exported on ``inputs``."""
    parts = list(declared_parts(module))
    if not parts:
        yield ()
        return
    leaves = [Leaf(path, part) for path, part in parts]
    with _replaced(
        parts, [_watched(leaf, part) for leaf, (_, part) in zip(leaves, parts, strict=True)]
    ):
        module(*inputs)
    with _replaced(
        parts, [_leaf_of(leaf, part) for leaf, (_, part) in zip(leaves, parts, strict=True)]
    ):
        yield tuple(leaves)


@contextlib.contextmanager
def _replaced(parts: Sequence[tuple[str, nn.Module]], forwards: Sequence[Any]) -> Iterator[None]:
    """With other ``forward`` methods."""
    before = [vars(part).get("forward") for _, part in parts]
    try:
        for (_, part), forward in zip(parts, forwards, strict=True):
            part.forward = forward
        yield
    finally:
        for (_, part), own in zip(parts, before, strict=True):
            if own is None:
                vars(part).pop("forward", None)
            else:
                part.forward = own


def _watched(leaf: Leaf, part: nn.Module) -> Any:
    """The module's ``forward``, which notes what shapes become."""
    forward = part.forward

    def watched(*args: Any, **options: Any) -> Any:
        result = forward(*args, **options)
        alone = len(args) == 1 and not options
        if alone and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            leaf.shapes[tuple(args[0].shape)] = tuple(result.shape)
        return result

    return watched


def _leaf_of(leaf: Leaf, part: nn.Module) -> Any:
    forward = part.forward

    def as_operation(*args: Any, **options: Any) -> Any:
        if len(args) != 1 or options or tuple(args[0].shape) not in leaf.shapes:
            return forward(*args, **options)
        operation = getattr(torch.ops.lipdescent, NAME)
        return operation(args[0], list(_tensors(part).values()), leaf.number)

    return as_operation


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))

"""From a program of ATen operations to the vertices of a graph."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export.program import Program, dependent, place
from lipdescent.networks.operations import Gather
from lipdescent.networks.reading import Unreadable
from lipdescent.networks.vertices import Size, Value, Vertices


@dataclass(frozen=True)
class Constant:
    """What does not: its value, how it is made of the program's constants, and what it is."""

    value: Tensor
    make: Callable[[Mapping[fx.Node, Any]], Tensor]
    key: Hashable

    def map(self, function: Callable[[Tensor], Tensor], key: Hashable) -> Constant:
        """``function`` of it; the same key stands for the same function."""
        make = self.make
        return Constant(function(self.value), lambda c: function(make(c)), (self.key, key))


class Builder(Vertices[fx.Node]):
    """The vertices of a traced program so far.

    Attributes
    ----------
    tensors : (module, name) -> the constant that this tensor of it is.
    notes : what a user should know of the reading.
    settled : constants whose values are part of what is read: all networks of a stack share them.
    """

    def __init__(self, program: Program, state: Mapping[str, Tensor]) -> None:
        shapes = program.shapes
        self.leaves = program.leaves
        self.constants = program.constants(state)
        flat = (sum(math.prod(shape) for shape in shapes),)
        super().__init__(shapes[0] if len(shapes) == 1 else flat, "the input")
        self.tensors: dict[tuple[nn.Module, str], Constant] = {}
        self.notes: dict[str, None] = {}
        self.settled: dict[Hashable, Constant] = {}
        self._held = dependent(tuple(program.sources), program.nodes)
        self.values: dict[fx.Node, Any] = {}
        start = 0
        for node, shape in zip(program.inputs, shapes, strict=True):
            value = Value(0, (1, *shape))
            if len(shapes) > 1:
                index = torch.arange(start, start + math.prod(shape)).reshape(shape)
                value = Value(self.vertex(Gather(index), (0,), shape, node), (1, *shape))
                start += math.prod(shape)
            self.values[node] = value

    def resolve(self, node: fx.Node) -> Any:
        """The value of an argument."""
        if node in self.values:
            return self.values[node]
        constant = self.constants[node]
        if isinstance(constant, Tensor):
            return Constant(constant, lambda c: c[node], node)
        return constant

    def is_held(self, constant: Constant) -> bool:
        """Whether it is made of parameters or buffers: networks of a stack have their own."""
        parts: list[Any] = [constant.key]
        while parts:
            part = parts.pop()
            if isinstance(part, tuple):
                parts += part
            elif isinstance(part, fx.Node) and part in self._held:
                return True
        return False

    def settle(self, constant: Constant) -> Tensor:
        """Its value, on which what is read depends."""
        if self.is_held(constant):
            self.settled[constant.key] = constant
        return constant.value

    def place(self, origin: fx.Node) -> str:
        return place(origin)

    def module(
        self, kind: Callable[..., nn.Module], *args: Any, tensors: Any = None, **options: Any
    ) -> nn.Module:
        """A layer on constants; the same one for the same constants and options.

        ``tensors`` maps names of parameters and buffers to :class:`Constant`, or None.
        """
        given = {name: c for name, c in (tensors or {}).items() if c is not None}
        for name, c in given.items():
            if isinstance(c, Value):
                raise TypeError(f"its {name} depends on the input")
        key = (kind, repr((args, options)), tuple((n, c.key) for n, c in given.items()))
        if key not in self._modules:
            if tensors is not None:
                options |= {"device": "meta"}
            layer = kind(*args, **options).eval()
            for name, constant in given.items():
                value = constant.value.detach()
                if name in layer._parameters:
                    layer._parameters[name] = nn.Parameter(value, requires_grad=False)
                else:
                    layer._buffers[name] = value
                self.tensors[layer, name] = constant
            self._modules[key] = layer
        return self._modules[key]

    def leaf(self, number: int, constants: Sequence[Constant]) -> nn.Module:
        """A declared layer on constants, one for each of its tensors."""
        leaf = self.leaves[number]
        key = (number, tuple(constant.key for constant in constants))
        if key not in self._modules:
            layer = copy.deepcopy(leaf.module)
            for name, constant in zip(leaf.names, constants, strict=True):
                owner, _, own = name.rpartition(".")
                part, value = layer.get_submodule(owner), constant.value.detach()
                if own in part._parameters:
                    part._parameters[own] = nn.Parameter(value, requires_grad=False)
                else:
                    part._buffers[own] = value
                self.tensors[part, own] = constant
            self._modules[key] = layer
        return self._modules[key]


def size_of(node: fx.Node, index: int | None = None) -> Size:
    """Of a node's value, or of one of its values."""
    value = node.meta["val"]
    return tuple((value if index is None else value[index]).shape)


def refused(node: fx.Node, what: str) -> Unreadable:
    """What is raised at an operation that is not known, or not in this form."""
    return Unreadable(
        f"{place(node)}: {what}; known are the operations of lipdescent.networks.export, and a "
        "module says in a method lipschitz_structure(self) what it computes"
    )

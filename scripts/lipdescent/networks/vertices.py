"""From a program of ATen operations to the vertices of a graph.

Shapes are lazy: a view or an axis of length 1 changes what a :class:`Value` looks like, not its
vertex. ``nn.Flatten`` and ``nn.Unflatten`` are put in where an operation needs another shape.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export.program import Program, place
from lipdescent.networks.graph import Concatenation, Join, Vertex
from lipdescent.networks.operations import Gather
from lipdescent.networks.reading import Unreadable

Size = tuple[int, ...]


class Value(NamedTuple):
    """What depends on the input: a vertex, and the size that it has in the traced program.

    The size has an axis of length 1 somewhere, most often first, for the one example. Numbers
    are in the order of the vertex's own shape.
    """

    vertex: int
    size: Size


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


def shape_of(size: Size) -> Size:
    """Shape of a vertex of this size: without a leading axis of length 1, never without axes."""
    return size[1:] if len(size) > 1 and size[0] == 1 else size or (1,)


def axis_of(size: Size, dim: int) -> int:
    """Axis of ``shape_of(size)`` that ``dim`` is, -1 for the one that was left out."""
    dim = dim % len(size)
    return dim - 1 if len(size) > 1 and size[0] == 1 else dim


class Builder:
    """The vertices so far. Its methods take the node for which a vertex stands for its place.

    Attributes
    ----------
    vertices : of the graph.
    tensors : (module, name) -> the constant that this tensor of it is.
    notes : what a user should know of the reading.
    """

    def __init__(self, program: Program, state: Mapping[str, Tensor]) -> None:
        shapes = program.shapes
        self.leaves = program.leaves
        self.constants = program.constants(state)
        flat = (sum(math.prod(shape) for shape in shapes),)
        self.vertices = [Vertex(None, (), shapes[0] if len(shapes) == 1 else flat, "the input")]
        self.tensors: dict[tuple[nn.Module, str], Constant] = {}
        self.notes: dict[str, None] = {}
        self._modules: dict[Hashable, nn.Module] = {}
        self._known: dict[Hashable, int] = {}
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

    def vertex(
        self, operation: nn.Module | Join, inputs: Sequence[int], shape: Size, node: fx.Node
    ) -> int:
        """A new vertex, or the old one that says the same."""
        name: Hashable = operation if isinstance(operation, Join) else id(operation)
        key = (name, tuple(inputs), shape)
        if key not in self._known:
            self.vertices.append(Vertex(operation, tuple(inputs), tuple(shape), place(node)))
            self._known[key] = len(self.vertices) - 1
        return self._known[key]

    def module(
        self, kind: Callable[..., nn.Module], *args: Any, tensors: Any = None, **options: Any
    ) -> nn.Module:
        """A layer on constants; the same one for the same constants and options.

        ``tensors`` maps names of parameters and buffers to :class:`Constant`, or None.
        """
        given = {name: c for name, c in (tensors or {}).items() if c is not None}
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

    def in_shape(self, value: Value, shape: Size, node: fx.Node) -> int:
        """The vertex of a value in a shape."""
        index = value.vertex
        if self.vertices[index].shape == shape:
            return index
        index = self.unviewed(index)
        own = self.vertices[index].shape
        if own == shape:
            return index
        if len(own) > 1:
            flat = (math.prod(own),)
            index = self.vertex(self.module(nn.Flatten), (index,), flat, node)
        if len(shape) > 1:
            index = self.vertex(self.module(nn.Unflatten, 1, shape), (index,), shape, node)
        return index

    def unviewed(self, index: int) -> int:
        """The vertex that a vertex shows in another shape."""
        while isinstance(self.vertices[index].operation, (nn.Flatten, nn.Unflatten)):
            index = self.vertices[index].inputs[0]
        return index

    def apply(
        self, module: nn.Module, value: Value, size: Size, node: fx.Node, *, shape: Size = ()
    ) -> Value:
        """A layer at a value, in the ``shape`` of its size unless given; it becomes ``size``."""
        index = self.in_shape(value, shape or shape_of(value.size), node)
        return Value(self.vertex(module, (index,), shape_of(size), node), size)

    def entrywise(self, module: nn.Module, value: Value, node: fx.Node) -> Value:
        """A layer that acts entry by entry, whatever the shape."""
        own = self.vertices[value.vertex].shape
        return Value(self.vertex(module, (value.vertex,), own, node), value.size)

    def gathered(self, value: Value, index: Tensor, node: fx.Node, fill: float = 0.0) -> Value:
        """Entries ``index`` (*size) of the flat value, -1 for ``fill``."""
        size, flat = tuple(index.shape), index.flatten()
        before = self.vertices[value.vertex]
        count = math.prod(before.shape)
        if flat.numel() == count and torch.equal(flat, torch.arange(count)):
            return Value(value.vertex, size)
        first, own = value.vertex, before.operation
        if isinstance(own, Gather) and (own.fill == fill or not bool((own.index < 0).any())):
            flat = torch.where(flat < 0, -1, own.index.flatten().to(flat.dtype)[flat.clamp_min(0)])
            return self.gathered(
                Value(before.inputs[0], value.size), flat.reshape(size), node, fill
            )
        if (part := self._of_one_part(before, flat)) is not None:
            own_value = Value(part[0], self.vertices[part[0]].shape)
            return self.gathered(own_value, part[1].reshape(size), node, fill)
        key = ("gather", first, size, fill, hashlib.sha256(flat.numpy().tobytes()).digest())
        if key not in self._known:
            shape = shape_of(size)
            layer = Gather(flat.to(torch.int32).reshape(shape), fill).eval()
            self._known[key] = self.vertex(layer, (first,), shape, node)
        return Value(self._known[key], size)

    def _of_one_part(self, vertex: Vertex, flat: Tensor) -> tuple[int, Tensor] | None:
        """The one part of a concatenation that entries are taken from, and its entries."""
        join = vertex.operation
        if not isinstance(join, Concatenation) or not flat.numel():
            return None
        shapes = [self.vertices[i].shape for i in vertex.inputs]
        owner = torch.cat([torch.full(s, k) for k, s in enumerate(shapes)], join.axis).flatten()
        owners = owner[flat[flat >= 0]].unique()
        if len(owners) != 1:
            return None
        places = [torch.arange(math.prod(s)).reshape(s) for s in shapes]
        place_in = torch.cat(places, join.axis).flatten()
        index = torch.where(flat < 0, -1, place_in[flat.clamp_min(0)])
        return vertex.inputs[int(owners)], index

    def expanded(self, value: Value, size: Size, node: fx.Node) -> Value:
        """A value shown as often as another size needs."""
        if math.prod(size) == math.prod(value.size):
            return Value(value.vertex, size)
        count = math.prod(value.size)
        index = torch.arange(count).reshape(value.size).expand(size)
        return self.gathered(value, index, node)


def refused(node: fx.Node, what: str) -> Unreadable:
    """What is raised at an operation that is not known, or not in this form."""
    return Unreadable(
        f"{place(node)}: {what}; known are the operations of lipdescent.networks.export, and a "
        "module says in a method lipschitz_structure(self) what it computes"
    )

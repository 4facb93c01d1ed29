"""Vertices of a graph while a network is read, whatever it is read of.

Shapes are lazy: a view or an axis of length 1 changes what a :class:`Value` looks like, not its
vertex. ``nn.Flatten`` and ``nn.Unflatten`` are put in where an operation needs another shape.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lipdescent.networks.graph import Concatenation, Join, Vertex, unviewed
from lipdescent.networks.operations import Gather

Size = tuple[int, ...]
# Of which a vertex is read: a node of a traced program, a node of a file.
Origin = TypeVar("Origin")


class Value(NamedTuple):
    """What depends on the input: a vertex, and the size that it has in what is read.

    The size has an axis of length 1 somewhere, most often first, for the one example. Numbers
    are in the order of the vertex's own shape.
    """

    vertex: int
    size: Size


def shape_of(size: Size) -> Size:
    """Shape of a vertex of this size: without a leading axis of length 1, never without axes."""
    return size[1:] if len(size) > 1 and size[0] == 1 else size or (1,)


def axis_of(size: Size, dim: int) -> int:
    """Axis of ``shape_of(size)`` that ``dim`` is, -1 for the one that was left out."""
    dim = dim % len(size)
    return dim - 1 if len(size) > 1 and size[0] == 1 else dim


class Vertices(ABC, Generic[Origin]):
    """The vertices so far. Its methods take what a vertex is read of, which is its place.

    Attributes
    ----------
    vertices : of the graph.
    """

    def __init__(self, shape: Size, place: str) -> None:
        self.vertices = [Vertex(None, (), shape, place)]
        self._known: dict[Hashable, int] = {}
        self._modules: dict[Hashable, nn.Module] = {}

    @abstractmethod
    def place(self, origin: Origin) -> str:
        """What errors call it."""

    def module(self, kind: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
        """A layer without tensors; the same one for the same options."""
        key = (kind, repr((args, options)))
        if key not in self._modules:
            self._modules[key] = kind(*args, **options).eval()
        return self._modules[key]

    def vertex(
        self, operation: nn.Module | Join, inputs: Sequence[int], shape: Size, origin: Origin
    ) -> int:
        """A new vertex, or the old one that says the same."""
        name: Hashable = operation if isinstance(operation, Join) else id(operation)
        key = (name, tuple(inputs), shape)
        if key not in self._known:
            self.vertices.append(Vertex(operation, tuple(inputs), tuple(shape), self.place(origin)))
            self._known[key] = len(self.vertices) - 1
        return self._known[key]

    def in_shape(self, value: Value, shape: Size, origin: Origin) -> int:
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
            index = self.vertex(self.module(nn.Flatten), (index,), flat, origin)
        if len(shape) > 1:
            index = self.vertex(self.module(nn.Unflatten, 1, shape), (index,), shape, origin)
        return index

    def unviewed(self, index: int) -> int:
        """The vertex that a vertex shows in another shape."""
        return unviewed(self.vertices, index)

    def flat(self, index: int) -> Value:
        """A vertex as a row of its numbers."""
        return Value(index, (1, math.prod(self.vertices[index].shape)))

    def apply(
        self, module: nn.Module, value: Value, size: Size, origin: Origin, *, shape: Size = ()
    ) -> Value:
        """A layer at a value, in the ``shape`` of its size unless given; it becomes ``size``."""
        index = self.in_shape(value, shape or shape_of(value.size), origin)
        return Value(self.vertex(module, (index,), shape_of(size), origin), size)

    def entrywise(self, module: nn.Module, value: Value, origin: Origin) -> Value:
        """A layer that acts entry by entry, whatever the shape."""
        own = self.vertices[value.vertex].shape
        return Value(self.vertex(module, (value.vertex,), own, origin), value.size)

    def gathered(self, value: Value, index: Tensor, origin: Origin, fill: float = 0.0) -> Value:
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
                Value(before.inputs[0], value.size), flat.reshape(size), origin, fill
            )
        if (part := self._of_one_part(before, flat)) is not None:
            own_value = Value(part[0], self.vertices[part[0]].shape)
            return self.gathered(own_value, part[1].reshape(size), origin, fill)
        key = ("gather", first, size, fill, hashlib.sha256(flat.numpy().tobytes()).digest())
        if key not in self._known:
            shape = shape_of(size)
            layer = Gather(flat.to(torch.int32).reshape(shape), fill).eval()
            self._known[key] = self.vertex(layer, (first,), shape, origin)
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

    def expanded(self, value: Value, size: Size, origin: Origin) -> Value:
        """A value shown as often as another size needs."""
        if math.prod(size) == math.prod(value.size):
            return Value(value.vertex, size)
        count = math.prod(value.size)
        index = torch.arange(count).reshape(value.size).expand(size)
        return self.gathered(value, index, origin)

    def swapped(self, value: Value, origin: Origin) -> Value:
        """The last two axes exchanged."""
        places = torch.arange(math.prod(value.size)).reshape(value.size)
        return self.gathered(value, places.mT.contiguous(), origin)

"""Sorting along an axis, also of two by their smaller and their larger one, as ``GroupSort``."""

import math
from typing import Any, NamedTuple

import torch
from torch import fx

from lipdescent.constrained.layers import GroupSort
from lipdescent.networks.export.builder import Builder, refused
from lipdescent.networks.graph import Concatenation, Extremum
from lipdescent.networks.operations import Gather, Reduce
from lipdescent.networks.vertices import Value, axis_of, shape_of


def _sort(b: Builder, node: fx.Node, a: dict[str, Any]) -> Any:
    value, dim = a["self"], a.get("dim", -1)
    found = _upwards(b, node, value, dim)
    if a.get("descending"):
        places = torch.arange(math.prod(value.size)).reshape(value.size)
        found = b.gathered(found, places.flip(dim), node)
    return [found, None]


def _largest(b: Builder, node: fx.Node, a: dict[str, Any]) -> Any:
    """``topk``: the last ones of all in order, or the first."""
    value, count, dim = a["self"], a["k"], a.get("dim", -1)
    if not a.get("sorted", True):
        raise refused(node, "topk in no order")
    found, size = _upwards(b, node, value, dim), value.size[dim]
    places = torch.arange(math.prod(value.size)).reshape(value.size)
    if a.get("largest", True):
        places = places.narrow(dim, size - count, count).flip(dim)
    else:
        places = places.narrow(dim, 0, count)
    return [b.gathered(found, places, node), None]


def _upwards(b: Builder, node: fx.Node, value: Value, dim: int) -> Value:
    axis = axis_of(value.size, dim)
    if axis < 0:
        raise refused(node, "sorting the examples")
    return Value(sorted_axis(b, node, value, shape_of(value.size), axis), value.size)


def sorted_axis(b: Builder, node: fx.Node, value: Value, shape: tuple[int, ...], axis: int) -> int:
    """The vertex of a value in ``shape``, sorted along an axis, whatever its own shape."""
    features = math.prod(shape[: axis + 1])
    index = b.in_shape(value, (features, *shape[axis + 1 :]), node)
    out = b.vertices[index].shape
    return b.vertex(b.module(GroupSort, shape[axis]), (index,), out, node)


def pair(b: Builder, node: fx.Node, inputs: list[int], axis: int) -> int | None:
    """Smaller and larger of each two numbers, side by side in any order: MaxMin written out.

    A permutation of what is sorted, so 1-Lipschitz, where each half alone is known to be.
    """
    ends = [_end(b, index) for index in inputs]
    if len(ends) != 2 or (low := ends[0]) is None or (high := ends[1]) is None:
        return None
    if low.largest == high.largest or not low.same_two(high):
        return None
    if low.axis == high.axis == axis >= 0 and high.largest:  # as it is, without moving a number
        shape = b.vertices[low.of].shape
        return sorted_axis(b, node, Value(low.of, (1, *shape)), shape, axis)
    (one, places), (other, others) = low.two
    count = len(places)
    if one == other:
        both = b.gathered(b.flat(one), torch.stack([places, others], 1).view(1, -1), node)
    else:
        parts = [b.gathered(b.flat(i), index[None], node) for i, index in low.two]
        halves = [b.in_shape(part, (count,), node) for part in parts]
        together = Value(b.vertex(Concatenation(0), halves, (2 * count,), node), (1, 2 * count))
        both = b.gathered(together, torch.arange(2 * count).view(2, -1).T.reshape(1, -1), node)
    own = b.in_shape(both, (2 * count,), node)
    found = b.vertex(b.module(GroupSort, 2), (own,), (2 * count,), node)
    shown = [
        (torch.arange(count) * 2 + end.largest).reshape(b.vertices[index].shape)
        for index, end in zip(inputs, (low, high), strict=True)
    ]
    return b.gathered(b.flat(found), torch.cat(shown, axis)[None], node).vertex


class _End(NamedTuple):
    """The larger ones of pairs of numbers, or the smaller: each half a vertex and its entries.

    ``axis``: of the vertex ``of``, where they are the two along it, all of its numbers.
    """

    largest: bool
    two: list[tuple[int, torch.Tensor]]
    of: int = -1
    axis: int = -1

    def same_two(self, other: "_End") -> bool:
        return any(
            all(i == j and torch.equal(x, y) for (i, x), (j, y) in zip(self.two, two, strict=True))
            for two in (other.two, other.two[::-1])
        )


def _end(b: Builder, index: int) -> _End | None:
    """Of a maximum or minimum of two values, or over an axis of length 2, seen through views."""
    vertex = b.vertices[b.unviewed(index)]
    operation, shapes = vertex.operation, [b.vertices[i].shape for i in vertex.inputs]
    if isinstance(operation, Extremum) and shapes[0] == shapes[1]:
        return _End(operation.largest, [_entries(b, i) for i in vertex.inputs])
    if not isinstance(operation, Reduce) or operation.kind not in ("max", "min"):
        return None
    if operation.count(shapes[0]) != 2:
        return None
    source, places = _entries(b, vertex.inputs[0])
    axis = next(axis for axis in operation.axes if shapes[0][axis] == 2)
    halves = places.reshape(shapes[0]).unbind(axis)
    two = [(source, half.flatten()) for half in halves]
    return _End(operation.kind == "max", two, vertex.inputs[0], axis)


def _entries(b: Builder, index: int) -> tuple[int, torch.Tensor]:
    """The vertex that the numbers of one are entries of, and their places in it."""
    index = b.unviewed(index)
    vertex = b.vertices[index]
    if isinstance(vertex.operation, Gather) and bool((vertex.operation.index >= 0).all()):
        return b.unviewed(vertex.inputs[0]), vertex.operation.index.flatten().long()
    return index, torch.arange(math.prod(vertex.shape))


RULES = {"sort": _sort, "topk": _largest}

"""Sorting along an axis, also of two by their smaller and their larger one, as ``GroupSort``."""

import math
from typing import Any

import torch
from torch import fx

from lipdescent.constrained.layers import GroupSort
from lipdescent.networks.export.builder import Builder, refused
from lipdescent.networks.operations import Reduce
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
    """Smaller and larger of the two along an axis, side by side along it: both sorted."""
    if len(inputs) != 2:
        return None
    low, high = (_reduced(b, index) for index in inputs)
    if low is None or high is None or low[1:] != high[1:] or (low[0], high[0]) != ("min", "max"):
        return None
    shape = b.vertices[low[1]].shape
    if low[2] != (axis,) or shape[axis] != 2:
        return None
    return sorted_axis(b, node, Value(low[1], (1, *shape)), shape, axis)


def _reduced(b: Builder, index: int) -> tuple[str, int, tuple[int, ...]] | None:
    """Kind, input and axes of a reduction, seen through views."""
    vertex = b.vertices[b.unviewed(index)]
    if not isinstance(vertex.operation, Reduce):
        return None
    return vertex.operation.kind, vertex.inputs[0], vertex.operation.axes


RULES = {"sort": _sort, "topk": _largest}

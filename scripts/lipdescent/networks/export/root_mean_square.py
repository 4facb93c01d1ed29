"""Normalisations written out: y / sqrt(mean y^2 + eps) as ``nn.RMSNorm``.

With y = x - mean x that is a layer normalisation. A variance that counts d - 1 numbers stays what
it is: its factor would be rounded (:mod:`lipdescent.bounds.graph.units` knows its constant).
"""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export.builder import Builder, Constant
from lipdescent.networks.graph import Vertex
from lipdescent.networks.operations import Divide, Function, Gather, Reduce, Scale, Shift
from lipdescent.networks.vertices import Value


def normalised(b: Builder, node: fx.Node, x: Value, by: Value, root: str) -> Value | None:
    """x times ``by`` (its root being "rsqrt") or over it ("sqrt"), if that normalises x.

    Or what x is a multiple of: (w y) / s is w (y / s), each w with its own number.
    """
    found = _mean_of_squares(b, by, root)
    if found is None:
        return None
    own = b.vertices[x.vertex]
    if isinstance(own.operation, (Scale, Divide)):
        before = Value(own.inputs[0], x.size)
        if b.vertices[own.inputs[0]].shape == own.shape:
            rest = normalised(b, node, before, by, root)
            if rest is not None:
                weight = b.tensors.get((own.operation, "weight"))
                scaled = isinstance(own.operation, Scale)
                one = weighted(b, node, rest, weight) if scaled else None
                return one or b.apply(own.operation, rest, x.size, node, shape=own.shape)
    reduction, eps, whole = found
    square = b.vertices[b.unviewed(reduction.inputs[0])]
    if not _is(square, "square") or not eps > 0:
        return None
    if b.unviewed(square.inputs[0]) != b.unviewed(x.vertex):
        return None
    operation: Any = reduction.operation
    shape = b.vertices[reduction.inputs[0]].shape
    kept = [1 if i in operation.axes else n for i, n in enumerate(shape)]
    if not _is_spread(whole, kept, shape) or math.prod(shape) != math.prod(x.size):
        return None
    left = [i for i in range(len(shape)) if i not in operation.axes]
    places = torch.arange(math.prod(shape)).reshape(shape).permute(*left, *operation.axes)
    turned = b.gathered(x, places.contiguous()[None], node)  # a leading 1 of its own is no batch
    wide = tuple(shape[i] for i in operation.axes)
    layer = b.module(nn.RMSNorm, wide, eps, False)
    found_value = b.apply(layer, turned, turned.size, node, shape=turned.size[1:])
    back = places.flatten().argsort().reshape(x.size)
    return b.gathered(found_value, back, node)


def weighted(b: Builder, node: fx.Node, value: Value, by: Any) -> Value | None:
    """A normalised value times one number for each of its entries: the layer's own weights."""
    vertex = b.vertices[value.vertex]
    layer = vertex.operation
    if not isinstance(layer, nn.RMSNorm) or (layer, "weight") in b.tensors:
        return None
    wide = layer.normalized_shape
    shape = tuple(by.value.shape) if isinstance(by, Constant) else ()
    if shape[-len(wide) :] != wide or math.prod(shape) != math.prod(wide):
        return None
    if len(shape) > len(value.size) or value.size[-len(wide) :] != wide:
        return None
    own = by.map(lambda t: t.reshape(wide), ("as", wide))
    alike = b.module(nn.RMSNorm, wide, layer.eps, tensors={"weight": own})
    return Value(b.vertex(alike, vertex.inputs, vertex.shape, node), value.size)


def _is(vertex: Vertex, name: str) -> bool:
    return isinstance(vertex.operation, Function) and vertex.operation.name == name


def _mean_of_squares(
    b: Builder, by: Value, root: str
) -> tuple[Vertex, float, Tensor | None] | None:
    """The mean, what is added, and where its numbers are shown, None as they are."""
    vertex = b.vertices[b.unviewed(by.vertex)]
    whole = None
    if isinstance(vertex.operation, Gather):
        whole = vertex.operation.index.flatten()
        vertex = b.vertices[b.unviewed(vertex.inputs[0])]
    if root == "rsqrt" and _is(vertex, "reciprocal"):  # 1 / sqrt, as exporters write it
        vertex, root = b.vertices[b.unviewed(vertex.inputs[0])], "sqrt"
    if not _is(vertex, root):
        return None
    vertex, eps = b.vertices[b.unviewed(vertex.inputs[0])], 0.0
    if isinstance(vertex.operation, Shift) and vertex.operation.weight is None:
        eps, vertex = vertex.operation.number, b.vertices[b.unviewed(vertex.inputs[0])]
    mean = isinstance(vertex.operation, Reduce) and vertex.operation.kind == "mean"
    return (vertex, eps, whole) if mean else None


def _is_spread(whole: Tensor | None, kept: list[int], shape: tuple[int, ...]) -> bool:
    """Whether each mean goes to the numbers that it is of; broadcasting does so."""
    if whole is None:
        return True
    spread = torch.arange(math.prod(kept)).reshape(kept).expand(shape).flatten()
    return torch.equal(whole.to(spread), spread)

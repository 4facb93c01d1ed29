"""Normalisations written out: y / sqrt(mean y^2 + eps) as ``nn.RMSNorm``.

With y = x - mean x that is a layer normalisation. A variance that counts d - 1 numbers stays what
it is: its factor would be rounded (:mod:`lipdescent.bounds.graph.units` knows its constant).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export.builder import Builder
from lipdescent.networks.graph import Vertex
from lipdescent.networks.operations import Function, Gather, Reduce, Shift
from lipdescent.networks.vertices import Value


def normalised(b: Builder, node: fx.Node, x: Value, by: Value, root: str) -> Value | None:
    """x times ``by`` (its root being "rsqrt") or over it ("sqrt"), if that normalises x."""
    found = _mean_of_squares(b, by, root)
    if found is None:
        return None
    reduction, eps, whole = found
    square = b.vertices[b.unviewed(reduction.inputs[0])]
    named = isinstance(square.operation, Function) and square.operation.name == "square"
    if not named or b.unviewed(square.inputs[0]) != b.unviewed(x.vertex) or not eps > 0:
        return None
    operation: Any = reduction.operation
    shape = b.vertices[reduction.inputs[0]].shape
    kept = [1 if i in operation.axes else n for i, n in enumerate(shape)]
    if not _is_spread(whole, kept, shape) or math.prod(shape) != math.prod(x.size):
        return None
    left = [i for i in range(len(shape)) if i not in operation.axes]
    places = torch.arange(math.prod(shape)).reshape(shape).permute(*left, *operation.axes)
    turned = b.gathered(x, places.contiguous(), node)
    wide = tuple(shape[i] for i in operation.axes)
    layer = b.module(nn.RMSNorm, wide, eps, False)
    found_value = b.apply(layer, turned, turned.size, node, shape=turned.size)
    back = places.flatten().argsort().reshape(x.size)
    return b.gathered(found_value, back, node)


def _mean_of_squares(
    b: Builder, by: Value, root: str
) -> tuple[Vertex, float, Tensor | None] | None:
    """The mean, what is added, and where its numbers are shown, None as they are."""
    vertex = b.vertices[b.unviewed(by.vertex)]
    whole = None
    if isinstance(vertex.operation, Gather):
        whole = vertex.operation.index.flatten()
        vertex = b.vertices[b.unviewed(vertex.inputs[0])]
    if not isinstance(vertex.operation, Function) or vertex.operation.name != root:
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

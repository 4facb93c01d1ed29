"""Roots of sums of squares, sqrt(c |y|^2 + e): lengths, standard deviations, smooth sizes.

Squares have no constant on the whole space and the root none at 0, but both together have: with
c > 0 and e >= 0 the gradient is c y / f and |y| <= f / sqrt(c), so in l2 it is at most sqrt(c).
So f is sqrt(c)-Lipschitz in l2 and, as |dy| <= |dy|_1, in l1; in l_inf sqrt(c d), of d numbers.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from lipdescent.bounds.graph.known import Known, times
from lipdescent.networks.graph import Graph, Vertex, unviewed
from lipdescent.networks.operations import Divide, Function, Reduce, Scale, Shift


@dataclass(frozen=True)
class Root:
    """Of the squares of vertex ``base``: c of the sum of ``count`` of them, rounded up."""

    base: int
    square: float
    count: int


def roots(graph: Graph) -> dict[int, Root]:
    """Vertices of this kind, and of what they are roots."""
    found = {i: _root(graph, vertex) for i, vertex in enumerate(graph.vertices)}
    return {i: own for i, own in found.items() if own is not None}


def _root(graph: Graph, vertex: Vertex) -> Root | None:
    if not _is_function(vertex, "sqrt"):
        return None
    at, square = graph.vertices[vertex.inputs[0]], 1.0
    while (factor := _factor(at)) is not None:
        square, at = square * factor * (1 + 2.0**-50), graph.vertices[at.inputs[0]]
    count = 1
    if isinstance(at.operation, Reduce) and at.operation.kind in ("sum", "mean"):
        count = at.operation.count(graph.vertices[at.inputs[0]].shape)
        square = square / count * (1 + 2.0**-50) if at.operation.kind == "mean" else square
        at = graph.vertices[unviewed(graph.vertices, at.inputs[0])]
    return Root(at.inputs[0], square, count) if _is_function(at, "square") else None


def _factor(vertex: Vertex) -> float | None:
    """By what number > 0 a vertex multiplies, 1 where it adds one >= 0 or shows another shape."""
    operation = vertex.operation
    if isinstance(operation, (nn.Flatten, nn.Unflatten)):
        return 1.0
    if not isinstance(operation, (Scale, Divide, Shift)) or operation.weight is not None:
        return None
    number = operation.number
    if isinstance(operation, Divide):
        return 1 / number if number > 0 else None
    if isinstance(operation, Shift):
        return 1.0 if number >= 0 else None
    return number if number > 0 else None


def _is_function(vertex: Vertex, name: str) -> bool:
    return isinstance(vertex.operation, Function) and vertex.operation.name == name


def rooted(own: Known, y: Known, root: Root, norm: str) -> Known:
    """What is known of a root, with its constant as above."""
    count = root.count if norm == "linf" else 1
    steep = math.sqrt(root.square * count) * (1 + 2.0**-50)
    constant = times(torch.full_like(y.constant, steep), y.constant)
    return replace(own, constant=torch.minimum(own.constant, constant))

"""Runs of linear operations as one matrix each, so that what cancels in them does.

The value of a vertex is the sum, over the vertices that it rests on (the input and what is not
linear), of a matrix times their value, plus a constant: x - W x is I - W. The matrices are the same
on every region. Too large ones are not formed: such a vertex is one that others rest on.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.graph.linear_maps import Linear
from lipdescent.networks.graph import Combination, Concatenation, Graph

LIMIT = 2**20  # entries of a matrix, 8 MiB: its norm takes a tenth of a second


@dataclass(frozen=True)
class Matrix:
    """center +- radius, (inputs, *shape of the vertex); ``length`` operations long."""

    center: Tensor
    radius: Tensor
    length: int = 0


Run = dict[int, Matrix]


def linear_runs(graph: Graph, maps: list[Linear | None]) -> list[Run | None]:
    """For every vertex what it rests on, or None for what others rest on themselves."""
    runs: list[Run | None] = []
    for i, vertex in enumerate(graph.vertices):
        joined = isinstance(vertex.operation, (Combination, Concatenation))
        if (maps[i] is None and not joined) or not _affordable(graph, i, runs):
            runs.append(None)
            continue
        parts = [_run(graph, j, runs) for j in vertex.inputs]
        if maps[i] is not None:
            linear = maps[i]
            assert linear is not None
            runs.append({b: _moved(linear, m) for b, m in parts[0].items()})
        elif isinstance(vertex.operation, Combination):
            runs.append(_combined(vertex.operation.factors, parts, vertex.shape))
        else:
            assert isinstance(vertex.operation, Concatenation)
            runs.append(_side_by_side(vertex.operation, parts, graph, i))
    return runs


def _affordable(graph: Graph, i: int, runs: list[Run | None]) -> bool:
    size = math.prod(graph.vertices[i].shape)
    bases = {
        b: math.prod(graph.vertices[b].shape)
        for j in graph.vertices[i].inputs
        for b in (runs[j] or [j])
    }
    between = [math.prod(graph.vertices[j].shape) for j in graph.vertices[i].inputs]
    return len(bases) <= 16 and all(n * max(size, *between) <= LIMIT for n in bases.values())


def _run(graph: Graph, j: int, runs: list[Run | None]) -> Run:
    own = runs[j]
    if own is not None:
        return own
    shape = graph.vertices[j].shape
    n = math.prod(shape)
    eye = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    return {j: Matrix(eye, torch.zeros_like(eye))}


def _moved(linear: Linear, m: Matrix) -> Matrix:
    return Matrix(linear.apply(m.center), linear.spread(m.center.abs(), m.radius), m.length + 1)


def _combined(factors: tuple[float, ...], parts: list[Run], shape: tuple[int, ...]) -> Run:
    found: Run = {}
    for factor, part in zip(factors, parts, strict=True):
        for base, m in part.items():
            lead = m.center.shape[:1]
            missing = [1] * (len(shape) + 1 - m.center.ndim)
            center, radius = (
                t.reshape(*lead, *missing, *t.shape[1:]).expand(*lead, *shape)
                for t in (factor * m.center, abs(factor) * m.radius)
            )
            size = center.abs()
            length = m.length + 1
            if base in found:
                size = size + found[base].center.abs()
                center, radius = center + found[base].center, radius + found[base].radius
                length = max(length, found[base].length + 1)
            found[base] = Matrix(center, round_up(radius + gamma(2) * size, 3), length)
    return found


def _side_by_side(operation: Concatenation, parts: list[Run], graph: Graph, i: int) -> Run:
    found: Run = {}
    for base in dict.fromkeys(b for part in parts for b in part):
        n = math.prod(graph.vertices[base].shape)
        rows = []
        for j, part in zip(graph.vertices[i].inputs, parts, strict=True):
            zero = torch.zeros(n, *graph.vertices[j].shape, dtype=torch.float64)
            rows.append(part.get(base, Matrix(zero, zero)))
        center, radius = (
            torch.cat(ts, operation.axis + 1)
            for ts in ([m.center for m in rows], [m.radius for m in rows])
        )
        found[base] = Matrix(center, radius, 1 + max(m.length for m in rows))
    return found

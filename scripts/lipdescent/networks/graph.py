"""A network as a graph of operations, for whatever an expression of layers cannot say.

An exported ``forward`` and a file in another format are read into it. Each vertex is one value of
one input example: what an operation makes of the values of earlier vertices. An operation of one
value is an ``nn.Module`` without inner modules, such as those of :mod:`lipdescent.layers.table`;
several values come together by a :class:`Join`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Node


@dataclass(frozen=True)
class Vertex:
    """One value of a network.

    Attributes
    ----------
    operation : None for the input; a module of one value; a :class:`Join` of several.
    inputs : indices of the vertices that it takes, each smaller than its own.
    shape : of its value, without the batch axis, which comes first.
    place : what errors call it: its path in the network, and the user's file and line if known.
    """

    operation: nn.Module | Join | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    place: str = ""


@dataclass(frozen=True)
class Graph:
    """Vertices in an order of evaluation; the first one is the input, ``output`` the result."""

    vertices: tuple[Vertex, ...]
    output: int

    def __post_init__(self) -> None:
        for i, vertex in enumerate(self.vertices):
            if (vertex.operation is None) != (i == 0) or any(j >= i for j in vertex.inputs):
                raise ValueError(
                    f"vertex {i} ({vertex.place}): inputs {vertex.inputs}; allowed are "
                    "earlier ones, and one input of the graph, the first vertex"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.vertices[0].shape

    def values(self, x: Tensor) -> list[Tensor]:
        """Value (n, *shape) of every vertex at inputs (n, *input_shape)."""
        values = [x]
        for vertex in self.vertices[1:]:
            assert vertex.operation is not None
            values.append(vertex.operation(*(values[i] for i in vertex.inputs)))
        return values

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (n, *shape of the output) at inputs (n, *input_shape)."""
        return self.values(x)[self.output]


def unviewed(vertices: Sequence[Vertex], index: int) -> int:
    """The vertex that a vertex shows in another shape; itself, if it shows none."""
    while isinstance(vertices[index].operation, (nn.Flatten, nn.Unflatten)):
        index = vertices[index].inputs[0]
    return index


class GraphNetwork(nn.Module):
    """The network that a graph is, with the graph's modules as its own.

    A module of several vertices is held once, as ``operations.<index of the first of them>``: the
    tensors of a stack of such networks have these names, whichever vertex they belong to.

    Attributes
    ----------
    graph : what calling the network evaluates.
    structure : the same as an expression, as ``lipschitz_structure`` of its modules says it; or
        why there is none: the text of the ``NotApplicable`` that views of expressions raise.
    """

    def __init__(self, graph: Graph, structure: Node | str) -> None:
        super().__init__()
        self.graph, self.structure = graph, structure
        self.operations = nn.ModuleDict()
        known: set[int] = set()
        for i, vertex in enumerate(graph.vertices):
            module = vertex.operation
            if isinstance(module, nn.Module) and id(module) not in known:
                known.add(id(module))
                self.operations[str(i)] = module
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.graph(x)

    def lipschitz_structure(self) -> Node:
        """The network as an expression, for views that know no graphs.

        Raises
        ------
        NotApplicable
            If it is none: values are multiplied, or branches cross.
        """
        if isinstance(self.structure, str):
            raise NotApplicable(self.structure)
        return self.structure


class Join(ABC):
    """How several values become one. Shapes and axes are without the batch axis."""

    @abstractmethod
    def __call__(self, *values: Tensor) -> Tensor:
        """The one value (n, ...) of values (n, ...)."""


@dataclass(frozen=True)
class Combination(Join):
    """Sum of the values times a number each, shapes broadcast: ``x - f(x)`` is (1, -1)."""

    factors: tuple[float, ...]

    def __call__(self, *values: Tensor) -> Tensor:
        total = values[0] * self.factors[0]
        for factor, value in zip(self.factors[1:], values[1:], strict=True):
            a, b = _aligned(total, value)
            total = a + b * factor
        return total


@dataclass(frozen=True)
class Concatenation(Join):
    """The values side by side along an axis, 0 the first behind the batch."""

    axis: int

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.axis + 1)


@dataclass(frozen=True)
class Product(Join):
    """Product of two values, entry by entry, shapes broadcast."""

    def __call__(self, *values: Tensor) -> Tensor:
        a, b = _aligned(*values)
        return a * b


@dataclass(frozen=True)
class Quotient(Join):
    """First value by the second, entry by entry, shapes broadcast."""

    def __call__(self, *values: Tensor) -> Tensor:
        a, b = _aligned(*values)
        return a / b


@dataclass(frozen=True)
class MatrixProduct(Join):
    """Product of two values over the last axis of the first and the last but one of the second."""

    def __call__(self, *values: Tensor) -> Tensor:
        a, b = _aligned(*values)
        return a @ b


@dataclass(frozen=True)
class Extremum(Join):
    """Larger (or smaller) of two values, entry by entry."""

    largest: bool = True

    def __call__(self, *values: Tensor) -> Tensor:
        a, b = _aligned(*values)
        return torch.maximum(a, b) if self.largest else torch.minimum(a, b)


@dataclass(frozen=True)
class Attention(Join):
    """softmax(scale Q K' + B) V of queries (..., n, k), keys (..., m, k) and values (..., m, d).

    B (..., n, m) is there or not: biases of positions, and minus infinity for keys left out.
    """

    scale: float

    def __call__(self, *values: Tensor) -> Tensor:
        q, k, v, *bias = values
        scores = self.scale * (q @ k.transpose(-1, -2))
        return torch.softmax(scores + bias[0] if bias else scores, -1) @ v


def _aligned(*values: Tensor) -> Sequence[Tensor]:
    """With axes of length 1 behind the batch, so that all have as many."""
    most = max(v.ndim for v in values)
    return [v.reshape(len(v), *(1,) * (most - v.ndim), *v.shape[1:]) for v in values]

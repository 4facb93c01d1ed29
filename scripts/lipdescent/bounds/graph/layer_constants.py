"""Constants of the layers of a graph on the whole space, each taken once.

A batch normalisation behind a linear layer or a convolution, B C x, has the constant |B C|, of the
weights times the slopes of their channels, and never more than |B| |C|: what multiplies a small
channel of C most is not counted with the largest one. How the products are rounded is bounded by
:func:`lipdescent.structure.layer_constants.folding_error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer
from lipdescent.networks.graph import Graph, GraphNetwork
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure import linear_runs
from lipdescent.structure.layer_constants import layer_constant
from lipdescent.structure.trace import folds


class LayerConstants:
    """Of the layers of one model of a stack.

    Attributes
    ----------
    folded : vertex of a batch normalisation -> that of the layer before it.
    runs : vertex at which linear layers end that are one map -> the vertex before them, the layers.
    passed : vertices that nothing but their normalisation, or their run, takes: their own constants
        can be spared.
    """

    def __init__(
        self, graph: Graph, stack: ModelStack, model: int, layers: Mapping[int, Layer]
    ) -> None:
        self.graph, self.stack, self.model = graph, stack, model
        self.layers = {
            i: replace(
                layer,
                input_shape=graph.vertices[graph.vertices[i].inputs[0]].shape,
                output_shape=graph.vertices[i].shape,
                scale=None,
            )
            for i, layer in layers.items()
        }
        pairs = {i: graph.vertices[i].inputs[0] for i in self.layers}
        self.folded = {
            i: j
            for i, j in pairs.items()
            if j in self.layers and folds(self.layers[j], self.layers[i])
        }
        taken = [j for vertex in graph.vertices for j in vertex.inputs] + [graph.output]
        self.passed = {j for j in self.folded.values() if taken.count(j) == 1}
        self.runs: dict[int, tuple[int, tuple[Layer, ...]]] = {}
        self._find_runs(taken)

    def _find_runs(self, taken: list[int]) -> None:
        """Among vertices of which each is taken by the next one alone."""
        for path in self._paths(taken):
            parts: list[tuple[Layer, int]] = []  # with the vertex where it ends
            for i in path:
                if parts and self.folded.get(i) == parts[-1][1]:
                    parts[-1] = replace(parts[-1][0], scale=self.layers[i]), i
                else:
                    parts.append((self.layers[i], i))
            for begin, end in linear_runs.runs([layer for layer, _ in parts]):
                own = parts[begin:end]
                start = self.graph.vertices[path[0]].inputs[0] if not begin else parts[begin - 1][1]
                self.runs[own[-1][1]] = start, tuple(layer for layer, _ in own)
                self.passed |= set(path[path.index(start) + 1 if begin else 0 :]) & set(
                    range(own[-1][1] + 1)
                )

    def _paths(self, taken: list[int]) -> Iterator[list[int]]:
        path: list[int] = []
        for i, vertex in enumerate(self.graph.vertices):
            follows = path and vertex.inputs == (path[-1],) and taken.count(path[-1]) == 1
            if i in self.layers and follows:
                path.append(i)
                continue
            if path:
                yield path
            path = [i] if i in self.layers else []
        if path:
            yield path

    @classmethod
    def of_graph(cls, graph: Graph) -> LayerConstants:
        """Of a graph that belongs to no stack: of its own operations."""
        network = GraphNetwork(graph, "a graph")
        names = {id(part): path for path, part in network.named_modules()}
        layers = {
            i: Layer(vertex.operation, names[id(vertex.operation)])
            for i, vertex in enumerate(graph.vertices)
            if isinstance(vertex.operation, nn.Module)
        }
        return cls(graph, ModelStack.from_modules([network], graph.input_shape), 0, layers)

    def of(self, i: int, norm: str) -> Tensor:
        """Constant (1,) of the operation of vertex ``i``, perhaps infinite.

        Raises
        ------
        NotApplicable
            Where it has none, with the vertex's place.
        """
        return self._constant(self.layers[i], i, norm)

    def with_normalisation(self, i: int, norm: str) -> Tensor:
        """Constant (1,) of the normalisation at vertex ``i`` and the layer before it, as one."""
        before, own = self.layers[self.folded[i]], self.layers[i]
        try:
            return self._constant(replace(before, scale=own), i, norm)
        except ValueError:  # its weights overflow when they are multiplied
            return torch.full((1,), torch.inf, dtype=torch.float64)

    def with_run(self, i: int, norm: str) -> Tensor:
        """Constant (1,) of the linear layers that end at vertex ``i``, as one map."""
        try:
            value = linear_runs.run_bound(self.runs[i][1], self.stack, norm=norm)
        except ValueError:  # a layer's constant overflows
            return torch.full((1,), torch.inf, dtype=torch.float64)
        return value[self.model : self.model + 1]

    def _constant(self, layer: Layer, i: int, norm: str) -> Tensor:
        try:
            value = layer_constant(layer, self.stack, norm=norm)
        except NotApplicable as error:
            said = str(error).removeprefix(f"{layer.place}: ")
            raise NotApplicable(f"{self.graph.vertices[i].place}: {said}") from error
        return value[self.model : self.model + 1]

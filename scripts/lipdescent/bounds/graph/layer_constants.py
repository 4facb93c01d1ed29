"""Constants of the layers of a graph on the whole space, each taken once.

A batch normalisation behind a linear layer or a convolution, B C x, has the constant |B C|, of the
weights times the slopes of their channels, and never more than |B| |C|: what multiplies a small
channel of C most is not counted with the largest one. How the products are rounded is bounded by
:func:`lipdescent.structure.composition.folding_error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer
from lipdescent.networks.graph import Graph, GraphNetwork
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.composition import layer_constant
from lipdescent.structure.trace import folds


class LayerConstants:
    """Of the layers of one model of a stack.

    Attributes
    ----------
    folded : vertex of a batch normalisation -> that of the layer before it.
    passed : vertices that nothing but their normalisation takes: their own constants can be spared.
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

    def _constant(self, layer: Layer, i: int, norm: str) -> Tensor:
        try:
            value = layer_constant(layer, self.stack, norm=norm)
        except NotApplicable as error:
            said = str(error).removeprefix(f"{layer.place}: ")
            raise NotApplicable(f"{self.graph.vertices[i].place}: {said}") from error
        return value[self.model : self.model + 1]

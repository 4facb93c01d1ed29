"""From a graph to the expression of layers that it is, where it is one.

A sum or concatenation stands for parts that all start at one vertex, the last one through which
every path to them leads. A graph whose branches only meet like this is an expression in which
every vertex stands once but those that only move or scale numbers; others, and those that multiply
values, stay graphs.
"""

import copy
from dataclasses import replace

from torch import nn

from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum, steps
from lipdescent.networks.graph import Combination, Concatenation, Graph, GraphNetwork, Vertex
from lipdescent.networks.operations import Gather, Scale
from lipdescent.networks.written_out import recognised


class _Irreducible(Exception):
    """Why a graph is no expression of layers."""


def network(graph: Graph) -> tuple[nn.Module, Graph]:
    """The plain network of a graph, and the graph of what its output depends on.

    ``nn.Sequential`` of a chain of different layers, a :class:`GraphNetwork` otherwise.
    """
    graph = _own_modules(_used(recognised(graph)))
    return _plain(graph, expression(graph)), graph


def _used(graph: Graph) -> Graph:
    """Without vertices that the output does not depend on."""
    wanted, stack = {0}, [graph.output]
    while stack:
        index = stack.pop()
        if index not in wanted:
            wanted.add(index)
            stack += graph.vertices[index].inputs
    order = sorted(wanted)
    new = {old: i for i, old in enumerate(order)}
    vertices = tuple(
        replace(graph.vertices[i], inputs=tuple(new[j] for j in graph.vertices[i].inputs))
        for i in order
    )
    return Graph(vertices, new[graph.output])


def expression(graph: Graph) -> Node | str:
    """The graph's modules as one expression, or why there is none."""
    try:
        return _Reduction(graph).between(0, graph.output)
    except _Irreducible as error:
        return str(error)


def _own_modules(graph: Graph) -> Graph:
    """A module of its own for each vertex, but for those with weights."""
    seen: set[int] = set()
    vertices = []
    for vertex in graph.vertices:
        module = vertex.operation
        if isinstance(module, nn.Module) and not module._parameters and not module._buffers:
            if id(module) in seen:
                vertex = replace(vertex, operation=copy.deepcopy(module))
            seen.add(id(module))
        vertices.append(vertex)
    return Graph(tuple(vertices), graph.output)


def _plain(graph: Graph, structure: Node | str) -> nn.Module:
    if isinstance(structure, str):
        return GraphNetwork(graph, structure)
    parts = steps(structure)
    modules = [part.module for part in parts if isinstance(part, Layer)]
    if len(modules) == len(parts) and len({id(m) for m in modules}) == len(modules):
        return nn.Sequential(*modules).eval()
    return GraphNetwork(graph, _of_modules(structure))


def _of_modules(node: Node) -> Node:
    """As ``lipschitz_structure`` gives it: with modules in place of layers."""
    if isinstance(node, Layer):
        return node.module  # type: ignore[return-value]
    return replace(node, parts=tuple(_of_modules(part) for part in node.parts))


class _Reduction:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.seen = graph, {0}
        # The last vertex that every path from the input to a vertex leads through, itself left out.
        self.before = [0]
        for vertex in graph.vertices[1:]:
            common = vertex.inputs[0]
            for other in vertex.inputs[1:]:
                common = self.common(common, other)
            self.before.append(common)

    def common(self, a: int, b: int) -> int:
        """The last vertex on all paths to both."""
        while a != b:
            a, b = (self.before[a], b) if a > b else (a, self.before[b])
        return a

    def between(self, start: int, end: int) -> Node:
        """What leads from one vertex to a later one."""
        parts: list[Node] = []
        while end != start:
            vertex = self.graph.vertices[end]
            if end in self.seen and not _is_free(vertex):
                raise _Irreducible(
                    f"{vertex.place}: its value is taken by branches that cross, or end in "
                    "different places: the network is a graph of operations, no chain, sum and "
                    "concatenation of layers"
                )
            self.seen.add(end)
            if isinstance(vertex.operation, nn.Module):
                parts.append(Layer(vertex.operation, ""))
                end = vertex.inputs[0]
            else:
                parts.append(self.branches(vertex, self.before[end]))
                end = self.before[end]
        flat = tuple(step for part in reversed(parts) for step in steps(part))
        return flat[0] if len(flat) == 1 else Chain(flat)

    def branches(self, vertex: Vertex, start: int) -> Node:
        join = vertex.operation
        if isinstance(join, Concatenation):
            return Concat(self.parts(vertex, start), join.axis + 1)
        if isinstance(join, Combination):
            parts = self.parts(vertex, start)
            pairs = zip(join.factors, parts, strict=True)
            return Sum(tuple(part if f == 1 else _times(part, f) for f, part in pairs))
        raise _Irreducible(
            f"{vertex.place}: {type(join).__name__} of values that depend on the input: the "
            "network is a graph of operations, no chain, sum and concatenation of layers"
        )

    def parts(self, vertex: Vertex, start: int) -> tuple[Node, ...]:
        return tuple(
            Layer(nn.Identity(), "") if i == start else self.between(start, i)
            for i in vertex.inputs
        )


def _is_free(vertex: Vertex) -> bool:
    """Whether several branches may each have a copy: what only moves or scales numbers."""
    return isinstance(vertex.operation, (Gather, nn.Flatten, nn.Unflatten, Scale))


def _times(part: Node, factor: float) -> Node:
    scale = Layer(Scale(None, factor).eval(), "")
    left = () if isinstance(part, Layer) and isinstance(part.module, nn.Identity) else steps(part)
    return Chain((*left, scale)) if left else scale

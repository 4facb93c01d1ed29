"""The graph of one network of a stack, in float64: of an expression of layers, or its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from lipdescent.networks.declared import declaration_of
from lipdescent.networks.expressions import Chain, Concat, Layer, Node
from lipdescent.networks.graph import Combination, Concatenation, Graph, Vertex
from lipdescent.networks.known_classes import NO_OPERATION
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.declared import check_declared
from lipdescent.structure.rebuilt import rebuilt
from lipdescent.structure.trace import trace


@dataclass(frozen=True)
class Settled(Graph):
    """The graph of one model, on its tensors.

    Attributes
    ----------
    layers : vertex -> the layer of the model's stack that its operation is.
    """

    layers: Mapping[int, Layer] = field(default_factory=dict)


def graph_of(stack: ModelStack, model: int) -> Settled:
    """The graph of model ``model``, its operations with its tensors; nothing is shared.

    Raises
    ------
    NotApplicable, TypeError, ValueError
        As :func:`lipdescent.structure.trace.trace`, for what is neither graph nor expression.
    """
    state = {name: tensor.detach() for name, tensor in stack.state_of(model).items()}
    own = getattr(stack.module, "graph", None)
    if isinstance(own, Graph):
        return _with_tensors(own, stack.module, state)
    return graph_of_expression(trace(stack), tuple(stack.input_shape), state)


def graph_of_expression(node: Node, shape: tuple[int, ...], state: dict[str, Tensor]) -> Settled:
    """The graph of a traced expression, its layers on the tensors of ``state``."""
    vertices = [Vertex(None, (), tuple(shape), "input")]
    layers: dict[int, Layer] = {}
    output = _add(node, 0, vertices, layers, state)
    return Settled(tuple(vertices), output, layers)


def _add(
    node: Node, at: int, vertices: list[Vertex], layers: dict[int, Layer], state: dict[str, Tensor]
) -> int:
    """Index of the vertex that ``node`` makes of the vertex ``at``."""
    if isinstance(node, Layer):
        for own in (node, node.scale):
            if own is not None and type(own.module) not in NO_OPERATION:
                operation = settled(own.module, own.state(state))
                vertices.append(Vertex(operation, (at,), tuple(node.output_shape), own.place))
                at = len(vertices) - 1
                layers[at] = own
        return at
    if isinstance(node, Chain):
        for part in node.parts:
            at = _add(part, at, vertices, layers, state)
        return at
    ends = tuple(_add(part, at, vertices, layers, state) for part in node.parts)
    shapes = [vertices[end].shape for end in ends]
    if isinstance(node, Concat):
        axis = (node.dim if node.dim > 0 else node.dim + len(shapes[0]) + 1) - 1
        total = sum(shape[axis] for shape in shapes)
        shape = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
        vertices.append(Vertex(Concatenation(axis), ends, shape, "concatenation"))
    else:
        vertices.append(Vertex(Combination((1.0,) * len(ends)), ends, shapes[0], "sum"))
    return len(vertices) - 1


def _with_tensors(graph: Graph, module: nn.Module, state: dict[str, Tensor]) -> Settled:
    """Its operations built anew on the tensors of a state, found by the module's names."""
    names = {id(part): path for path, part in module.named_modules()}
    made: dict[int, nn.Module] = {}
    vertices: list[Vertex] = []
    layers: dict[int, Layer] = {}
    for i, vertex in enumerate(graph.vertices):
        operation: Any = vertex.operation
        if isinstance(operation, nn.Module):
            layer = layers[i] = Layer(operation, names.get(id(operation), ""))
            if id(operation) not in made:
                made[id(operation)] = settled(operation, layer.state(state))
                if declaration_of(operation) is not None:
                    shape = graph.vertices[vertex.inputs[0]].shape
                    check_declared(operation, layer.state(state), shape, layer.place)
            operation = made[id(operation)]
        vertices.append(replace(vertex, operation=operation))
    return Settled(tuple(vertices), graph.output, layers)


def settled(operation: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """An operation built anew, with the tensors of ``state`` as buffers in float64."""
    own = rebuilt(operation, state)
    if declaration_of(operation) is not None:
        return own.double()
    for name, tensor in state.items():
        vars(own).pop(name, None)
        own.register_buffer(name, tensor.double() if tensor.is_floating_point() else tensor)
    return own


def double(graph: Graph) -> Graph:
    """A copy of a graph by hand with all tensors in float64."""
    vertices = []
    for vertex in graph.vertices:
        operation: Any = vertex.operation
        if isinstance(operation, nn.Module):
            own = [*operation.named_parameters(), *operation.named_buffers()]
            state = {n: t.detach() for n, t in own}
            operation = settled(operation, state)
        vertices.append(replace(vertex, operation=operation))
    return Graph(tuple(vertices), graph.output)

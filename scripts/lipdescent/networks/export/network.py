"""The plain network that a user's network is, with its tensors from those of the user's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export import (
    activations,
    choices,
    elementwise,
    linear,
    normalising,
    rearranging,
    reducing,
    sorting,
)
from lipdescent.networks.export.builder import Builder, Constant, refused
from lipdescent.networks.export.program import Program, called, program, writes
from lipdescent.networks.export.program import name as name_of
from lipdescent.networks.graph import Concatenation, Graph
from lipdescent.networks.reading import Unreadable
from lipdescent.networks.reduction import network
from lipdescent.networks.vertices import Value, shape_of

PARTS = rearranging, activations, elementwise, linear, normalising, reducing, sorting, choices
RULES = {name: rule for part in PARTS for name, rule in part.RULES.items()}
# What only checks, or is for another machine.
_NOTHING = ("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range")


@dataclass(frozen=True)
class Exported:
    """What was read of a user's network.

    Attributes
    ----------
    network : layers, or a :class:`GraphNetwork`, in eval mode; one tensor in, one out.
    graph : the same as a graph.
    program : as PyTorch traced it.
    settled : constants of whose values ``network`` was made: those of other networks are the same.
    input_shape : of the network's one input, without the batch axis.
    output : which one of several outputs; None if they are side by side, or only one.
    notes : what a user should know.
    """

    network: nn.Module
    graph: Graph
    program: Program
    tensors: Mapping[str, Constant]
    settled: Sequence[Constant]
    input_shape: tuple[int, ...]
    output: int | None
    notes: tuple[str, ...]

    def state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the plain network, from those of another network of the user's class.

        ValueError where numbers or masks that are part of what was read are others there.
        """
        constants = self.program.constants(state)
        for one in self.settled:
            if not torch.equal(made := one.make(constants), one.value.to(made.device)):
                raise ValueError(
                    "a threshold, a mask, an index or a number that is filled in is not the same "
                    "in all networks of a stack; allowed is one, or each network by itself"
                )
        return {name: constant.make(constants).detach() for name, constant in self.tensors.items()}

    def evaluate(self, x: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """What the operations that PyTorch traced make of x (n, *input_shape), in its type."""
        constants = {
            node: v.to(x.dtype) if isinstance(v, Tensor) and v.is_floating_point() else v
            for node, v in self.program.constants(state).items()
        }
        return torch.cat([self._one(example[None], constants) for example in x])

    def _one(self, x: Tensor, constants: Mapping[fx.Node, Any]) -> Tensor:
        values, run = dict(constants), self.program
        sizes = [torch.Size(shape).numel() for shape in run.shapes]
        parts = x.flatten(1).split(sizes, 1)
        for node, part, shape in zip(run.inputs, parts, run.shapes, strict=True):
            values[node] = part.reshape(1, *shape).clone()
        for node in run.nodes:
            if node in values or name_of(node) in _NOTHING:
                continue
            if _is_cast(node):
                values[node] = values[next(iter(node.all_input_nodes))]
            else:
                values[node] = called(node, values)
        outputs = [values[node] for node in run.outputs]
        chosen = outputs if self.output is None else [outputs[self.output]]
        flat = [y.reshape(1, -1) for y in chosen]
        return torch.cat(flat, 1) if len(flat) > 1 else flat[0]


def export(
    module: nn.Module,
    input_shapes: Sequence[Sequence[int]],
    *,
    output: int | str | None = None,
    dtype: torch.dtype | None = None,
) -> Exported:
    """The plain network of ``module``: what its ``forward`` computes of one example.

    Parameters
    ----------
    module : in eval mode.
    input_shapes : of the arguments of ``forward``, without the batch axis. The plain network
        takes several as one vector, flat and side by side, in which one norm is taken.
    output : which one, where ``forward`` returns several, by its place or its name; all side by
        side unless given.

    Raises
    ------
    ValueError
        For an output that there is not, with those that there are.
    Unreadable
        For operations that are not known, with the user's file and line.
    """
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    floating = [t for t in own.values() if t.is_floating_point()]
    if dtype is None:
        dtype = floating[0].dtype if floating else torch.get_default_dtype()
    device = floating[0].device if floating else torch.device("cpu")
    traced = program(module, input_shapes, dtype, device)
    builder = Builder(traced, {name: t.detach() for name, t in own.items()})
    for node in traced.nodes:
        if node not in builder.constants and name_of(node) not in _NOTHING:
            builder.values[node] = _value(builder, node)
    chosen = None if output is None else _place_of(traced, output)
    result = _output(builder, traced, chosen)
    plain, graph = network(Graph(tuple(builder.vertices), result))
    places = {id(m): name for name, m in plain.named_modules()}
    tensors = {
        f"{places[id(m)]}.{name}": constant
        for (m, name), constant in builder.tensors.items()
        if id(m) in places
    }
    shape = graph.input_shape
    settled, notes = tuple(builder.settled.values()), tuple(builder.notes)
    return Exported(plain, graph, traced, tensors, settled, shape, chosen, notes)


def _value(builder: Builder, node: fx.Node) -> Any:
    """What an operation becomes."""
    if node.target.__name__ == "getitem" and not hasattr(node.target, "_schema"):  # type: ignore[union-attr]
        found, index = cast(
            tuple[Any, int],
            tuple(builder.resolve(arg) if isinstance(arg, fx.Node) else arg for arg in node.args),
        )
        if found[index] is None and node.users:
            raise refused(node, f"output {index} of {node.args[0]}")
        return found[index]
    name = name_of(node)
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None:
        why = choices.reason(name) or "is not known"
        raise refused(node, f"the operation {node.target} {why}")
    given: Any = node.args
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    a = {arg.name: arg.default_value for arg in schema if arg.has_default_value()}
    a |= dict(zip((arg.name for arg in schema), given, strict=False)) | dict(node.kwargs)
    a = {key: _resolved(builder, arg) for key, arg in a.items()}
    try:
        result = rule(builder, node, a)
    except Unreadable:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        kind = type(error).__name__
        raise refused(
            node, f"{node.target} in a form that is not known ({kind}: {error})"
        ) from error
    target = writes(node)
    if target is not None:  # in place: from here on that is what the other name means
        builder.values[target] = result
    return result


def _resolved(builder: Builder, arg: Any) -> Any:
    if isinstance(arg, fx.Node):
        return builder.resolve(arg)
    if isinstance(arg, (list, tuple)):
        return [_resolved(builder, part) for part in arg]
    return arg


def _place_of(traced: Program, output: int | str) -> int:
    """Of an output that is given by its place or its name."""
    names = list(traced.names)
    if isinstance(output, str) and names.count(output) == 1:
        return names.index(output)
    if type(output) is int and 0 <= output < len(names):
        return output
    known = ", ".join(
        str(i) if name in ("", str(i)) else f"{i} or {name!r}" for i, name in enumerate(names)
    )
    raise ValueError(f"output = {output!r}: allowed are {known}")


def _output(builder: Builder, traced: Program, output: int | None) -> int:
    nodes = traced.outputs
    if output is not None:
        nodes = (nodes[output],)
    found = [builder.resolve(node) for node in nodes]
    values = [
        (value, node) for value, node in zip(found, nodes, strict=True) if isinstance(value, Value)
    ]
    if not values:
        raise Unreadable("the network's output does not depend on its input")
    if len(values) == 1 and len(found) == 1:
        (value, node) = values[0]
        return builder.in_shape(value, shape_of(value.size), node)
    if len(values) < len(found):
        raise Unreadable(
            "one of the network's outputs does not depend on its input; choose another"
        )
    builder.notes[f"its {len(values)} outputs side by side, in one norm"] = None
    flat = []
    for value, node in values:
        size = torch.Size(value.size).numel()
        flat.append((builder.in_shape(value, (size,), node), size))
    total = sum(size for _, size in flat)
    return builder.vertex(Concatenation(0), [i for i, _ in flat], (total,), nodes[-1])


def _is_cast(node: fx.Node) -> bool:
    return name_of(node) in ("to", "_to_copy", "type_as")

"""PyTorch's trace of a network in eval mode, and the values of whatever depends on no input.

One example is traced. Whether examples influence each other is for those to ask who call both.
"""

import contextlib
import io
import logging
import operator
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from lipdescent.networks.export.leaves import Leaf, declared_as_leaves
from lipdescent.networks.export.outputs import plain_outputs
from lipdescent.networks.reading import Unreadable

_OURS = (Path(torch.__file__).parent, Path(__file__).parents[2])
# Taken apart by PyTorch itself into simpler operations.
_TAKEN_APART = (
    "einsum",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    "lp_pool1d",
    "lp_pool2d",
    "_weight_norm",
)


# Of their first tensor these take the shape and type, not the values.
_OF_THE_SHAPE = (
    *("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"),
    *("fill", "zero", "copy"),
)


@dataclass(frozen=True)
class Program:
    """The operations of one example, in their order.

    Attributes
    ----------
    nodes : calls of ATen operations and ``getitem``.
    inputs : the nodes of the examples' tensors.
    sources : nodes of parameters and buffers -> their names in the network.
    fixed : nodes of other tensors that the network holds -> their values.
    outputs : one or several nodes.
    leaves : declared layers, by the numbers that their operations have.
    names : of the outputs, as the network's own result holds them: ``logits``, ``1``, ``boxes.0``.
    shapes : of the inputs, without the batch axis.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    sources: Mapping[fx.Node, str]
    fixed: Mapping[fx.Node, Tensor]
    outputs: tuple[fx.Node, ...]
    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()
    leaves: Mapping[int, Leaf] = field(default_factory=dict)

    def dependent(self) -> set[fx.Node]:
        """Nodes whose values depend on an input."""
        return dependent(self.inputs, self.nodes)

    def constants(self, state: Mapping[str, Tensor]) -> dict[fx.Node, Any]:
        """Values of all nodes that depend on no input, from a network's tensors."""
        values: dict[fx.Node, Any] = {
            node: state[name].clone() for node, name in self.sources.items()
        }
        values |= {node: tensor.clone() for node, tensor in self.fixed.items()}
        changing = self.dependent()
        with torch.no_grad():
            for node in self.nodes:
                if node not in changing:
                    values[node] = called(node, _with_shapes(node, values))
        return values


def _with_shapes(node: fx.Node, values: dict[fx.Node, Any]) -> Mapping[fx.Node, Any]:
    """The values, and for what only asks for the shape of another one, some of that shape."""
    others = [arg for arg in node.all_input_nodes if arg not in values]
    if not others:
        return values
    device = next((v.device for v in values.values() if isinstance(v, Tensor)), None)
    shown = {
        arg: torch.zeros(arg.meta["val"].shape, dtype=arg.meta["val"].dtype, device=device)
        for arg in others
    }
    return {**values, **shown}


def dependent(inputs: Sequence[fx.Node], nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Those of the nodes, and the inputs, whose values depend on the inputs."""
    found = set(inputs)
    for node in nodes:
        shape = node.args[0] if name(node) in _OF_THE_SHAPE else None
        if any(arg in found for arg in node.all_input_nodes if arg is not shape):
            found.add(node)
    return found


def called(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """What the operation of a node makes of the values of others."""
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def program(
    module: nn.Module, shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device
) -> Program:
    """The program of ``module`` in eval mode on one example of the ``shapes``.

    Raises
    ------
    Unreadable
        For control flow that depends on data, shapes that do, and whatever else PyTorch cannot
        trace, with the user's file and line.
    """
    inputs = tuple(torch.zeros(1, *shape, dtype=dtype, device=device) for shape in shapes)
    level = logging.getLogger("torch").level
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch").setLevel(logging.CRITICAL)
            # What PyTorch prints of a network that it cannot trace is said in the error.
            quiet = contextlib.redirect_stderr(io.StringIO())
            with declared_as_leaves(module, inputs) as leaves, plain_outputs(module), quiet:
                exported = torch.export.export(module, inputs, strict=False)
            exported = _simplified(exported)
            _settle_eps(exported.graph.nodes)
    except Exception as error:  # whatever the user's code or PyTorch raises
        raise Unreadable(_why(error)) from error
    finally:
        logging.getLogger("torch").setLevel(level)
    return _program(exported, shapes, leaves)


def _simplified(exported: Any) -> Any:
    """Without operations in place on views, and with what PyTorch takes apart itself."""
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    given = exported.graph_signature.user_inputs
    inputs = [node for node in exported.graph.nodes if node.name in given]
    changing = dependent(inputs, calls)
    wanted = {node.target for node in calls if name(node) in _TAKEN_APART}
    written = any(_writes_into_a_view(node) for node in calls if node in changing)
    if not wanted and not written and not _changes_what_was_read(calls, changing):
        return exported
    table = _decompositions() if wanted else {}
    return exported.run_decompositions({op: table[op] for op in wanted if op in table})


@cache
def _decompositions() -> Mapping[Any, Any]:
    """How PyTorch takes operations apart; it looks through all of them to say so."""
    return torch.export.default_decompositions()


def _settle_eps(nodes: Iterable[fx.Node]) -> None:
    """Give RMS normalisations without eps the one that torch takes by the type of the network.

    It is part of what the network computes: in float64, in which bounds are taken, torch would take
    a smaller one.
    """
    for node in nodes:
        if name(node) == "rms_norm":
            given = (*node.args, None, None)[:4]
            eps = node.kwargs.get("eps", given[3])
            double = node.meta["val"].dtype is torch.float64
            own = torch.finfo(torch.float64 if double else torch.float32).eps
            weight = node.kwargs.get("weight", given[2])
            node.args = (*given[:2], weight, own if eps is None else eps)
            node.kwargs = {}


def name(node: fx.Node) -> str:
    """Of a node's operation, without its overload."""
    packet = getattr(node.target, "_overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))


def writes(node: fx.Node) -> fx.Node | None:
    """The node in whose tensor an operation in place writes."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or not node.args:
        return None
    first = node.args[0]
    return first if isinstance(first, fx.Node) else None


def _writes_into_a_view(node: fx.Node) -> bool:
    """Whether what an operation in place writes is seen under other names, or is all anew."""
    target = writes(node)
    if target is None:
        return False
    if name(node).removesuffix("_") in _OF_THE_SHAPE:
        return True
    views = [user for user in target.users if user is not node and _is_view(user)]
    return bool(views) or _is_view(target)


def _changes_what_was_read(calls: Sequence[fx.Node], changing: set[fx.Node]) -> bool:
    """Whether constants are written in place after something else has read such ones."""
    read = False
    for node in calls:
        if node in changing:
            others = (arg for arg in node.all_input_nodes if arg not in changing)
            read = read or any(arg.op == "call_function" for arg in others)
        elif read and writes(node) is not None and name(node) != "detach_":
            return True
    return False


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    read = [a for a in schema.arguments if a.alias_info is not None and not a.alias_info.is_write]
    return bool(read)


def _program(exported: Any, shapes: Sequence[Sequence[int]], leaves: tuple[Leaf, ...]) -> Program:
    signature = exported.graph_signature
    changed = [*signature.buffers_to_mutate.values()]
    if changed:
        raise Unreadable(
            f"the network changes its buffer {changed[0]} in eval mode: what it computes depends "
            "on what it computed before; allowed are networks that do not"
        )
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    wanted = [spec.arg.name for spec in signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    places = {node.name: node for node in exported.graph.nodes}
    holders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    return Program(
        nodes=tuple(node for node in exported.graph.nodes if node.op == "call_function"),
        inputs=tuple(n for n in holders if n.name in signature.user_inputs),
        sources={node: named[node.name] for node in holders if node.name in named},
        fixed={
            node: exported.constants[lifted[node.name]] for node in holders if node.name in lifted
        },
        outputs=tuple(places[name] for name in wanted),
        shapes=tuple(tuple(shape) for shape in shapes),
        names=_names(exported, len(wanted)),
        leaves={leaf.number: leaf for leaf in leaves},
    )


def _names(exported: Any, count: int) -> tuple[str, ...]:
    """Where each of ``count`` outputs stands in what the network returns."""
    spec = exported.call_spec.out_spec
    if spec is None or spec.num_leaves != count:
        return tuple(map(str, range(count)))
    whole = pytree.tree_unflatten(list(range(count)), spec)
    paths, _ = pytree.tree_flatten_with_path(whole)

    def part(key: Any) -> str:
        return str(next(getattr(key, n) for n in ("key", "idx", "name") if hasattr(key, n)))

    return tuple(".".join(map(part, path)) for path, _ in paths)


def place(node: fx.Node) -> str:
    """Module, and the user's file and line, of a node: as errors name it."""
    stack = node.meta.get("nn_module_stack") or {}
    owner = next(reversed(stack.values()))[0] if stack else ""
    owner = owner.removeprefix("L['self'].").removeprefix("L__self__.")
    line = _line(node.meta.get("stack_trace") or "")
    return f"{owner or 'the network'} ({line})" if line else owner or "the network"


def _line(trace: str) -> str:
    """The innermost line of the user's own code in a printed stack."""
    found = [line.strip() for line in trace.splitlines() if line.strip().startswith('File "')]
    for line in reversed(found):
        path, _, rest = line.removeprefix('File "').partition('", line ')
        if not any(folder in Path(path).parents for folder in _OURS):
            return f"{Path(path).name}, line {rest.partition(',')[0]}"
    return ""


def _why(error: BaseException) -> str:
    """What PyTorch could not trace, and where in the user's code."""
    where, one = "", cast(BaseException | None, error)
    while one is not None and not where:
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            path = Path(frame.filename)
            if path.is_file() and not any(folder in path.parents for folder in _OURS):
                where = f" ({path.name}, line {frame.lineno})"
                break
        one = one.__cause__ or one.__context__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in str(error).lower():
        said = "what is computed depends on the values of the inputs, as an if or a shape does"
    return (
        f"the network{where} cannot be exported: {kind}: {said[:300]}; allowed is a forward that "
        "does the same operations at all inputs, or a method lipschitz_structure(self) that says "
        "what it computes"
    )

"""A file in the ONNX format becomes a network, or an error that names what is wrong with it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.networks.export.network import export
from lipdescent.networks.graph import Graph
from lipdescent.networks.onnx_file import elementwise, recurrent, reducing, resampling, weighted
from lipdescent.networks.onnx_file.builder import Steps
from lipdescent.networks.onnx_file.calls import Rule
from lipdescent.networks.reading import Unreadable
from lipdescent.networks.vertices import Size, shape_of

PARTS = elementwise, weighted, reducing, resampling, recurrent
RULES: dict[str, Rule] = {name: rule for part in PARTS for name, rule in part.RULES.items()}
_FLOATS = {
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
}
# What a rule raises at what it does not expect.
_UNFIT = (KeyError, TypeError, ValueError, AssertionError, IndexError, RuntimeError)
# What ONNX's own check says of custom operators, and of outputs without a stated shape.
_NO_FAULT = ("No Op registered", "No opset import", "Field 'shape'")
# A custom operator: its attributes by name -> a layer that is known, or declared.
Operators = Mapping[str, Any]


@dataclass(frozen=True)
class OnnxNetwork:
    """What was read of a file.

    Attributes
    ----------
    network : layers, or a graph of them, in eval mode; one tensor in, one out.
    graph : the same as a graph.
    inputs : names of the file's inputs -> their sizes, with the batch of one example. Several are
        one vector, side by side in this order, in which one norm is taken.
    input_shape : of the network's input, without the batch axis.
    output_name : of the output that was read.
    """

    network: nn.Module
    graph: Graph
    inputs: Mapping[str, Size]
    input_shape: Size
    output_name: str


def read_onnx(
    path: str | Path,
    input_shape: Sequence[int] | None = None,
    *,
    output: str | None = None,
    operators: Operators | None = None,
) -> OnnxNetwork:
    """The network in a file, for one example at a time.

    Parameters
    ----------
    input_shape : of the one input, without the batch axis; the file's own unless given. Needed
        where it is dynamic.
    output : which one, where the file has several.
    operators : ``"domain::Name"`` (or ``"Name"``) of an operator that is not ONNX's own -> a class
        (or function) that is called with the node's attributes and gives an ``nn.Module``.

    Raises
    ------
    ImportError
        Without the package onnx.
    ValueError
        For a file that is not there, cut short, no ONNX model, of an opset that is not known or
        with its weights in other files; an input shape that does not fit, or of several inputs.
    Unreadable
        For operators that are not known, by name.
    """
    onnx = _package()
    model = _loaded(onnx, Path(path))
    opsets = _opsets(onnx, model, path)
    graph = model.graph
    inputs = _inputs(onnx, graph, input_shape, path)
    own, chosen = operators or {}, _output(graph, output, path)
    steps = Steps(graph, inputs, opsets)
    for node in _needed(graph, chosen):
        what = f"{node.op_type} {node.name or node.output[0]!r}"
        kind = f"{node.domain}::{node.op_type}".removeprefix("::")
        with _named(path, what):
            if kind in own:
                steps.layer(node, own[kind])
            else:
                steps.add(node, RULES)
    if chosen not in steps.values:
        raise Unreadable(f"{path}: its output {chosen!r} is none that is read")
    if not isinstance(steps.values[chosen], Tensor):
        said = ", ".join(map(repr, inputs))
        raise ValueError(f"{path}: its output {chosen!r} does not depend on its input {said}")
    sizes, dtype = (
        {name: size for name, (size, _) in inputs.items()},
        next(iter(inputs.values()))[1],
    )
    with _named(path, "the network"):
        read = export(steps.needed(chosen), [*map(shape_of, sizes.values())], dtype=dtype)
    floating = [t.dtype for t in read.network.state_dict().values() if t.is_floating_point()]
    if len(set(floating)) > 1:  # of the largest type, which changes no number
        read.network.to(max(floating, key=lambda kind: torch.finfo(kind).bits))
    return OnnxNetwork(read.network, read.graph, sizes, read.input_shape, chosen)


def _needed(graph: Any, output: str) -> list[Any]:
    """The nodes that an output takes, in their order: others need not be read."""
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= _taken(node)
    return kept[::-1]


def _taken(node: Any) -> set[str]:
    """Names that a node reads, and the nodes of its branches do."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    parts = (own for graph in inner for own in map(_taken, graph.node))
    return {name for name in node.input if name}.union(
        *parts, (one.name for graph in inner for one in graph.output)
    )


@contextlib.contextmanager
def _named(path: str | Path, what: str) -> Iterator[None]:
    """Say of errors where they are from."""
    try:
        yield
    except Unreadable as error:  # what helps with a module is of no use here
        raise Unreadable(f"{path}: {str(error).partition('; known are')[0]}") from error
    except _UNFIT as error:
        kind = type(error).__name__
        raise Unreadable(f"{path}: {what} in a form that is not known ({kind}: {error})") from error


def _package() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "reading ONNX files needs the packages onnx and onnxruntime: pip install "
            "'lipdescent[onnx]'"
        ) from error
    return onnx


def _loaded(onnx: Any, path: Path) -> Any:
    """The model in the file, checked by ONNX itself."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of the protobuf package: DecodeError, and what it is made from
        raise ValueError(f"{path}: cut short, or no ONNX file ({type(error).__name__})") from error
    if not model.opset_import or not model.graph.output:
        raise ValueError(f"{path}: cut short, or no ONNX file (it holds no network)")
    held = [t for t in model.graph.initializer if onnx.external_data_helper.uses_external_data(t)]
    if held:
        raise ValueError(
            f"{path}: keeps {held[0].name} and {len(held) - 1} more in other files; allowed is one "
            "file: onnx.save(onnx.load(PATH), NEW)"
        )
    return model


def _opsets(onnx: Any, model: Any, path: str | Path) -> dict[str, int]:
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if not 7 <= opsets.get("", 7) <= newest:
        raise ValueError(f"{path}: opset {opsets['']}; allowed are 7 to {newest}")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if not any(known in line for line in lines for known in _NO_FAULT):
            raise ValueError(f"{path}: {lines[0] if lines else error}") from error
    return opsets


def _inputs(
    onnx: Any, graph: Any, input_shape: Sequence[int] | None, path: str | Path
) -> dict[str, tuple[Size, torch.dtype]]:
    """Sizes of the inputs for a batch of one, and their types."""
    weights = {t.name for t in graph.initializer}
    given = [i for i in graph.input if i.name not in weights]
    if not given or (len(given) > 1 and input_shape is not None):
        names = ", ".join(i.name for i in given) or "none"
        raise ValueError(f"{path}: inputs {names}; an input_shape is for one, and there has to be")
    found = {}
    for one in given:
        kind = onnx.TensorProto.DataType.Name(one.type.tensor_type.elem_type)
        if kind not in _FLOATS:
            raise ValueError(
                f"{path}: its input {one.name} is {kind}; allowed are floating-point numbers"
            )
        found[one.name] = _size(one, input_shape, path), _FLOATS[kind]
    return found


def _size(given: Any, input_shape: Sequence[int] | None, path: str | Path) -> Size:
    """Of one input, for a batch of one."""
    axes = given.type.tensor_type.shape.dim
    stated = [d.dim_value if d.HasField("dim_value") else 0 for d in axes]
    said = f"({', '.join(str(d.dim_value or d.dim_param or '?') for d in axes)})"
    if input_shape is None:
        size = [1, *stated[1:]] if len(stated) > 1 and stated[0] in (0, 1) else stated
        if not size or not all(n > 0 for n in size):
            raise ValueError(
                f"{path}: its input {given.name} has the shape {said}, in which only the batch "
                "may be open; give its input_shape, without the batch axis"
            )
        return tuple(size)
    own = tuple(input_shape)
    size = [1, *own] if len(own) < len(stated) or not stated else list(own)
    if min(size) < 1 or (
        stated
        and (
            len(size) != len(stated) or any(a and a != b for a, b in zip(stated, size, strict=True))
        )
    ):
        raise ValueError(f"{path}: input_shape {own}; its input is {said}, lengths are above 0")
    return tuple(size)


def _output(graph: Any, output: str | None, path: str | Path) -> str:
    names = [o.name for o in graph.output]
    if output is None and len(names) == 1:
        return names[0]
    if output is None or output not in names:
        said = "several outputs" if output is None else f"no output {output!r}"
        raise ValueError(f"{path}: {said}; allowed are {', '.join(names)}")
    return output

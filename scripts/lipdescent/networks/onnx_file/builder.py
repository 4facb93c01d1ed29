"""From the nodes of an ONNX graph to the vertices of a graph, for a batch of one example.

A value of the file has its own size there, most often with a first axis of length 1, the batch.
Its vertex has the same numbers in the same order, without that axis.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipdescent.networks.graph import Join
from lipdescent.networks.operations import Shift
from lipdescent.networks.reading import Unreadable
from lipdescent.networks.vertices import Size, Value, Vertices, shape_of

# Operators that only move the numbers of their first input, and what they fill gaps with.
MOVING = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
REFERENCE_ONLY = ("Shape", "Size")  # of whatever they are asked about only the size counts


@dataclass(frozen=True)
class Call:
    """One node of the file.

    Attributes
    ----------
    inputs : a :class:`Value`, an array that depends on no input, or None where one is left out.
    """

    node: Any
    inputs: tuple[Value | np.ndarray | None, ...]
    opset: int

    @cached_property
    def attributes(self) -> dict[str, Any]:
        from onnx import helper

        found = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        return {n: v.decode() if isinstance(v, bytes) else v for n, v in found.items()}

    @property
    def place(self) -> str:
        """What errors call it."""
        return f"{self.node.op_type} {self.node.name or self.node.output[0]!r}"

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def argument(self, i: int, name: str = "") -> np.ndarray | None:
        """A constant input, which older versions of operators take as the attribute ``name``."""
        if name and name in self.attributes:
            return np.asarray(self.attributes[name])
        given = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(given, Value):
            raise self.refusal(f"its input {self.node.input[i]!r} depends on the network's input")
        return given

    def value(self, i: int = 0) -> Value:
        """An input that depends on the network's."""
        given = self.inputs[i]
        if not isinstance(given, Value):
            raise self.refusal(f"its input {self.node.input[i]!r} does not depend on the network's")
        return given

    def refusal(self, reason: str) -> Unreadable:
        return Unreadable(f"{self.place}: {reason}")


Rule = Callable[["Builder", Call], Value]


class Builder(Vertices[Call]):
    """The vertices of a file so far; every value's vertex has the shape of its size.

    Attributes
    ----------
    values : name in the file -> what is known of it.
    uses : name in the file -> how often it is asked for.
    """

    def __init__(self, graph: Any, inputs: Mapping[str, Size], opsets: Mapping[str, int]) -> None:
        from onnx import numpy_helper

        (name, size) = next(iter(inputs.items()))
        super().__init__(shape_of(size), name)
        self.opsets = opsets
        self.values: dict[str, Value | np.ndarray] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self.values[name] = Value(0, size)
        asked = [i for node in graph.node for i in node.input] + [o.name for o in graph.output]
        self.uses = Counter(asked)

    def add(self, node: Any, rules: Mapping[str, Rule]) -> None:
        """Whatever a node gives."""
        inputs = tuple(self.values[name] if name else None for name in node.input)
        call = Call(node, inputs, self.opsets.get(node.domain, self.opsets.get("", 1)))
        dependent = [given for given in inputs if isinstance(given, Value)]
        if not node.domain and (not dependent or node.op_type in REFERENCE_ONLY):
            blank = [np.zeros(v.size) if isinstance(v, Value) else v for v in inputs]
            self._name(node, self.evaluated(call, blank))
        elif not node.domain and node.op_type in MOVING:
            self._name(node, self.moved(call))
        elif (rule := rules.get(f"{node.domain}::{node.op_type}".removeprefix("::"))) is not None:
            self._name(node, [rule(self, call)])
        else:
            kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise call.refusal(
                f"operator {kind} is unknown; allowed are {', '.join(sorted({*rules, *MOVING}))}, "
                "and operators that are declared as layers (operators={'domain::Name': class})"
            )

    def _name(self, node: Any, results: Sequence[Value | np.ndarray]) -> None:
        for name, value in zip(node.output, results, strict=False):
            self.values[name] = value
        for name in node.output[len(results) :]:
            if name and self.uses[name]:
                raise Unreadable(f"{node.op_type} {node.name}: its output {name!r} is not known")

    def evaluated(self, call: Call, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """What a node makes of arrays, by ONNX's own reference."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        node = call.node
        feeds = {n: x for n, x in zip(node.input, inputs, strict=True) if x is not None}
        try:
            # A model, as of a node alone the newest version is taken, whatever the opset.
            names = [helper.make_empty_tensor_value_info(n) for n in (*feeds, *node.output) if n]
            graph = helper.make_graph([node], "", names[: len(feeds)], names[len(feeds) :])
            opsets = [helper.make_opsetid(*pair) for pair in self.opsets.items()]
            model = helper.make_model(graph, opset_imports=opsets)
            found = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:  # of another library: anything can be raised
            raise call.refusal(f"{type(error).__name__}: {error}") from error
        return [np.asarray(array) for array in found]

    def moved(self, call: Call) -> list[Value | np.ndarray]:
        """An operator that moves numbers: it is told their places, and gives them back."""
        value, fill = call.value(), 0.0
        places = np.arange(1, 1 + math.prod(value.size)).reshape(value.size)  # 0 is a gap
        inputs: list[Any] = [places, *call.inputs[1:]]
        if any(isinstance(given, Value) for given in inputs):
            raise call.refusal("where numbers go depends on the network's input")
        if call.node.op_type == "Pad":
            given = call.argument(2) if call.opset >= 11 else np.asarray(call.get("value", 0.0))
            fill = 0.0 if given is None or not given.size else float(given.reshape(-1)[0])
            inputs = inputs[:2] + [np.asarray(0)] * (len(inputs) > 2) + inputs[3:]
        found = self._places(call, inputs)
        return [self.gathered(value, torch.from_numpy(i - 1), call, fill) for i in found]

    def _places(self, call: Call, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if (
            call.node.op_type == "Pad"
            and call.opset < 11
            and call.get("mode", "constant") == "constant"
        ):
            return [np.pad(inputs[0], np.reshape(call.get("pads"), (2, -1)).T)]
        return self.evaluated(call, inputs)

    def place(self, origin: Call) -> str:
        return origin.place

    def gathered(self, value: Value, index: Tensor, origin: Call, fill: float = 0.0) -> Value:
        if not index.numel():
            raise origin.refusal("its output is empty")
        found = super().gathered(value, index, origin, fill)
        return self.in_size(found, found.size, origin)

    def in_size(self, value: Value, size: Size, call: Call) -> Value:
        """The same numbers in another size."""
        return Value(self.in_shape(value, shape_of(size), call), size)

    def placed(self, module: nn.Module, value: Value, call: Call) -> Value:
        """A layer at a value, evaluated to know what size that becomes."""
        shape = self.vertices[value.vertex].shape
        try:
            out = tuple(module.eval()(torch.zeros(1, *shape, dtype=_dtype(module))).shape[1:])
        except Exception as error:  # whatever a layer raises at what does not fit
            raise call.refusal(f"does not take inputs of size {value.size}: {error}") from error
        size = (1, *out) if shape_of((1, *out)) == out else out
        return self.apply(module, value, size, call)

    def join(self, join: Join, values: Sequence[Value], size: Size, call: Call) -> Value:
        """Several values that become one of ``size``."""
        return Value(self.vertex(join, [v.vertex for v in values], shape_of(size), call), size)

    def constant(self, array: np.ndarray, call: Call) -> Value:
        """A value that is the same at every input."""
        nothing = self.gathered(Value(0, ()), torch.full(array.shape, -1), call)
        return self.apply(shift(array, shape_of(array.shape)), nothing, array.shape, call)

    def dependent(self, call: Call) -> list[Value]:
        """All inputs as values."""
        given = [v for v in call.inputs if v is not None]
        return [v if isinstance(v, Value) else self.constant(v, call) for v in given]

    def only_use(self, call: Call, i: int) -> bool:
        """Whether nobody else asks for an input."""
        return self.uses[call.node.input[i]] == 1


def shift(array: np.ndarray, shape: Size) -> Shift:
    """x + array, which broadcasts to values of ``shape`` without the batch axis."""
    module = Shift(shape)
    module.weight = tensor(array).reshape(shape)
    return module


def tensor(array: np.ndarray) -> Tensor:
    """A copy, of torch's own."""
    return torch.from_numpy(np.array(array, copy=True, order="C"))


def _dtype(module: nn.Module) -> torch.dtype:
    tensors = [*module.parameters(), *module.buffers()]
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)

"""A file's nodes as PyTorch's operations, one after another, for a batch of one example.

What depends on no input is computed here, by ONNX's own reference. Every other node is a module
that calls a rule on what it is given, so that :mod:`lipdescent.networks.export` reads files as it
reads any ``forward``, and errors say the node's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipdescent.networks.onnx_file.calls import Call, Given, Layer, Moved, Rule, Step
from lipdescent.networks.vertices import Size

# Operators that only move the numbers of some of their inputs, the first one unless stated.
MOVING = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
    "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
)  # fmt: skip
JUMPING = (
    "And", "ArgMax", "ArgMin", "Ceil", "Compress", "DynamicQuantizeLinear", "Equal", "Floor",
    "Hardmax", "IsInf", "IsNaN", "Mod", "NonZero", "Not", "OneHot", "Or", "QuantizeLinear", "Round",
    "Unique", "Xor",
)  # fmt: skip
RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip
_MOVED = {"ScatterElements": (0, 2), "ScatterND": (0, 2)}
REFERENCE_ONLY = ("Shape", "Size")  # of whatever they are asked about only the size counts


class Steps(nn.Module):
    """The network of a file so far.

    Attributes
    ----------
    values : name in the file -> an example of what depends on the input, an array of what does not.
    output : name of what calling it gives.
    """

    def __init__(
        self, graph: Any, inputs: Mapping[str, tuple[Size, torch.dtype]], opsets: Mapping[str, int]
    ) -> None:
        from onnx import numpy_helper

        super().__init__()
        self.inputs, self.opsets = inputs, opsets
        self.values: dict[str, Given] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self.values |= {n: torch.zeros(size, dtype=kind) for n, (size, kind) in inputs.items()}
        self.steps: list[tuple[str, list[str], list[str]]] = []
        self.output = ""

    def forward(self, *given: Tensor) -> Tensor:
        pairs = zip(self.inputs.items(), given, strict=True)
        values = {name: x.reshape(size) for (name, (size, _)), x in pairs}
        for step, inputs, outputs in self.steps:
            found = self._modules[step](*(values[name] for name in inputs))  # type: ignore[misc]
            found = found if isinstance(found, (tuple, list)) else [found]
            values |= {n: v for n, v in zip(outputs, found, strict=False) if v is not None}
        return values[self.output]

    def add(self, node: Any, rules: Mapping[str, Rule]) -> None:
        """Whatever a node gives."""
        if node.domain == "ai.onnx":  # the long name of none
            node.domain = ""
        inputs = self._given(node)
        call = Call(node, inputs, self.opsets.get(node.domain, self.opsets.get("", 1)))
        if node.op_type == "If" and not node.domain:
            self._branch(call, rules)
            return
        pairs = zip(node.input, inputs, strict=True)
        dependent = [name for name, given in pairs if isinstance(given, Tensor)]
        own = not node.domain
        kind = node.op_type if own else f"{node.domain}::{node.op_type}"
        if kind in RANDOM:
            raise call.refusal("is random; allowed is a network that is the same at every call")
        if own and (not dependent or kind in REFERENCE_ONLY):
            blank = [np.zeros(v.shape) if isinstance(v, Tensor) else v for v in inputs]
            self._name(node.output, self._evaluated(call, blank))
        elif own and kind in MOVING:
            self._move(call)
        elif kind in rules:
            self._step(call, Step(call, rules[kind]), dependent, node.output)
        elif kind in JUMPING:
            raise call.refusal(
                "jumps or picks by values of the input, where no Lipschitz constant is known; "
                "Relu, Clip, Max, TopK, Softmax and a Where of two lines that meet have one"
            )
        else:
            raise call.refusal(
                f"operator {kind} is unknown; allowed are {', '.join(sorted({*rules, *MOVING}))}, "
                "and operators that are declared as layers (operators={'domain::Name': class})"
            )

    def layer(self, node: Any, kind: Callable[..., Any]) -> None:
        """A node that is a layer of the user's."""
        inputs = self._given(node)
        call = Call(node, inputs, 1)
        try:
            module = kind(**call.attributes)
        except Exception as error:  # it is not our code: anything can be raised
            raise call.refusal(f"{type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise call.refusal(f"{kind} gives a {type(module).__name__}; allowed is an nn.Module")
        self._step(call, Layer(module.eval()), [node.input[0]], node.output)

    def needed(self, output: str) -> Steps:
        """With the steps alone that an output takes."""
        wanted, kept = {output}, []
        for step in reversed(self.steps):
            if wanted & set(step[2]):
                kept.append(step)
                wanted |= set(step[1])
        for step in self.steps:
            if step not in kept:
                del self._modules[step[0]]
        self.steps, self.output = kept[::-1], output
        return self.eval()

    def _given(self, node: Any) -> tuple[Given, ...]:
        for name in node.input:
            if name and name not in self.values:
                raise Call(node, (), 1).refusal(f"takes {name!r}, an output that is not read")
        return tuple(self.values[name] if name else None for name in node.input)

    def _step(self, call: Call, step: nn.Module, inputs: list[str], outputs: Sequence[str]) -> None:
        values: list[Any] = [self.values[name] for name in inputs]
        with torch.no_grad():
            found = step(*values)
        found = found if isinstance(found, (tuple, list)) else [found]
        if any(isinstance(y, Tensor) and not y.numel() for y in found):
            raise call.refusal("its output is empty")
        name = call.place.replace(".", "_")
        name += f" ({len(self.steps)})" if name in self._modules else ""
        self.add_module(name, step)
        self.steps.append((name, inputs, list(outputs)))
        self._name(outputs, found)

    def _name(self, names: Sequence[str], results: Sequence[Given]) -> None:
        self.values |= {n: v for n, v in zip(names, results, strict=False) if v is not None}

    def _move(self, call: Call) -> None:
        """An operator that moves numbers: it is told their places, and gives them back."""
        node, inputs, fill, start = call.node, list(call.inputs), 0.0, 1  # 0 is a gap
        moved = _MOVED.get(node.op_type, (0,))
        if (own := call.get("reduction", "none")) != "none":  # places do not add up
            raise call.refusal(f"reduction {own!r} is unknown; allowed is 'none'")
        if any(isinstance(x, Tensor) for i, x in enumerate(inputs) if i not in moved):
            raise call.refusal("where numbers go depends on the network's input")
        parts = tuple(inputs[i] for i in moved)
        for i, part in zip(moved, parts, strict=True):
            shape = tuple(part.shape)  # type: ignore[union-attr]
            inputs[i] = np.arange(start, start + math.prod(shape)).reshape(shape)
            start += math.prod(shape)
        if node.op_type == "Pad":
            fill = call.number(2, "value", 0.0) or 0.0
            inputs = [
                np.asarray(0) if i == 2 and x is not None else x for i, x in enumerate(inputs)
            ]
        names = [node.input[i] for i in moved if isinstance(call.inputs[i], Tensor)]
        for name, places in zip(node.output, self._places(call, inputs), strict=False):
            if places is None:
                continue
            index = torch.from_numpy(places.astype(np.int64) - 1)
            self._step(call, Moved(replace(call, inputs=parts), index, fill), names, [name])

    def _branch(self, call: Call, rules: Mapping[str, Rule]) -> None:
        """The nodes of the branch that an ``If`` takes whatever the input is."""
        from onnx import helper, numpy_helper

        taken = call.get("then_branch" if call.number(0) else "else_branch")
        self.values |= {t.name: numpy_helper.to_array(t) for t in taken.initializer}
        for node in taken.node:
            self.add(node, rules)
        for inner, outer in zip(taken.output, call.node.output, strict=True):
            self.add(helper.make_node("Identity", [inner.name], [outer]), rules)

    def _places(self, call: Call, inputs: Sequence[Any]) -> list[np.ndarray | None]:
        if call.node.op_type != "Pad":
            return self._evaluated(call, inputs)
        # By ONNX's reference, negative pads, which cut off, are errors.
        shape, axes = inputs[0].shape, call.argument(3)
        given: Any = call.argument(1, "pads")
        amount = np.zeros((len(shape), 2), int)
        amount[slice(None) if axes is None else axes] = np.reshape(given, (2, -1)).T
        if (amount.clip(max=0).sum(1) <= -np.array(shape)).any():
            raise call.refusal(f"pads {amount.T.tolist()} cut off all of a shape {shape}")
        kept = [slice(max(0, -a), n + min(0, b)) for n, (a, b) in zip(shape, amount, strict=True)]
        return [np.pad(inputs[0][tuple(kept)], amount.clip(0), call.get("mode", "constant"))]

    def _evaluated(
        self, call: Call, inputs: Sequence[np.ndarray | None]
    ) -> list[np.ndarray | None]:
        """What a node makes of arrays, by ONNX's own reference; None for outputs without a name."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        node = call.node
        feeds = {n: x for n, x in zip(node.input, inputs, strict=True) if x is not None}
        try:
            # A model, as of a node alone the newest version is taken, whatever the opset.
            names = [helper.make_empty_tensor_value_info(n) for n in (*feeds, *node.output) if n]
            graph = helper.make_graph([node], "", names[: len(feeds)], names[len(feeds) :])
            opsets = [
                # Which the reference has since 19 alone; before, it did the same to fewer types.
                helper.make_opsetid(n, max(v, 19) if node.op_type == "DequantizeLinear" else v)
                for n, v in self.opsets.items()
            ]
            model = helper.make_model(graph, opset_imports=opsets)
            found = iter(ReferenceEvaluator(model).run(None, feeds))
        except Exception as error:  # of another library: anything can be raised
            raise call.refusal(f"{type(error).__name__}: {error}") from error
        return [np.asarray(next(found)) if name else None for name in node.output]

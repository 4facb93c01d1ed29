"""One node of a file, as a module that calls its rule on what it is given."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipdescent.networks.reading import Unreadable

Given = Tensor | np.ndarray | None
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """One node of the file.

    Attributes
    ----------
    inputs : an example of what depends on the network's input, an array of what does not, None
        where one is left out.
    """

    node: Any
    inputs: tuple[Given, ...]
    opset: int

    @cached_property
    def attributes(self) -> dict[str, Any]:
        from onnx import helper

        found = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        return {n: _text(v) for n, v in found.items()}

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
        if isinstance(given, Tensor):
            raise self.refusal(f"its input {self.node.input[i]!r} depends on the network's input")
        return given

    def number(self, i: int, name: str = "", default: float | None = None) -> float | None:
        """A constant input, or attribute, of one number."""
        given = self.argument(i, name)
        return default if given is None or not given.size else float(given.reshape(-1)[0])

    def refusal(self, reason: str) -> Unreadable:
        return Unreadable(f"{self.place}: {reason}")


class Step(nn.Module):
    """What a node makes of inputs; those that depend on no input are its buffers."""

    def __init__(self, call: Call, rule: Rule) -> None:
        super().__init__()
        self.call, self.rule = call, rule
        for i, given in enumerate(call.inputs):
            if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
                self.register_buffer(f"input_{i}", tensor(given))

    def forward(self, *values: Tensor) -> Any:
        left = iter(values)
        own = (
            next(left) if isinstance(given, Tensor) else self._buffers.get(f"input_{i}")
            for i, given in enumerate(self.call.inputs)
        )
        return self.rule(self.call, *own)


class Layer(nn.Module):
    """A module in place of a rule, at the first input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.layer = module

    def forward(self, *values: Tensor) -> Tensor:
        return self.layer(values[0])


class Moved(Step):
    """The numbers of all inputs in a row, each where ``index`` says, -1 for ``fill``."""

    def __init__(self, call: Call, index: Tensor, fill: float) -> None:
        super().__init__(call, self._moved)
        self.size, self.fill, self.gap = tuple(index.shape), fill, bool((index < 0).any())
        count = sum(math.prod(given.shape) for given in call.inputs if given is not None)
        same = torch.equal(index.flatten(), torch.arange(count))
        self.index: Tensor | None
        self.register_buffer("index", None if same else index)

    def _moved(self, call: Call, *parts: Tensor) -> Tensor:
        flat = torch.cat([part.reshape(-1) for part in parts])
        if self.index is None:
            return flat.reshape(self.size)
        found = flat[self.index.clamp_min(0)]
        return found.masked_fill(self.index < 0, self.fill) if self.gap else found


def tensor(array: np.ndarray) -> Tensor:
    """A copy, of torch's own."""
    return torch.from_numpy(np.array(array, copy=True, order="C"))


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value

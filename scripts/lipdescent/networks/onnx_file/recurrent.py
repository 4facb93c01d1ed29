"""Recurrences, step by step: RNN, LSTM and GRU over a fixed number of steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipdescent.networks.onnx_file.calls import Call, Rule

Activation = Callable[[Tensor], Tensor]
_KNOWN: dict[str, Callable[[float | None, float | None], Activation]] = {
    "Sigmoid": lambda a, b: torch.sigmoid,
    "Tanh": lambda a, b: torch.tanh,
    "Relu": lambda a, b: F.relu,
    "Softsign": lambda a, b: F.softsign,
    "Softplus": lambda a, b: F.softplus,
    "LeakyRelu": lambda a, b: lambda x: F.leaky_relu(x, 0.01 if a is None else a),
    "HardSigmoid": lambda a, b: (
        lambda x: ((0.2 if a is None else a) * x + (0.5 if b is None else b)).clamp(0.0, 1.0)
    ),
}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULT = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


@dataclass(frozen=True)
class _Cell:
    """One direction of a recurrence.

    Attributes
    ----------
    weight, recurrent : (gates hidden, inputs) and (gates hidden, hidden).
    bias : of both, (gates hidden,) each.
    peepholes : of the gates i, o, f, (hidden,) each, or None.
    """

    call: Call
    weight: Tensor
    recurrent: Tensor
    bias: tuple[Tensor, Tensor]
    activations: tuple[Activation, ...]
    peepholes: tuple[Tensor, ...] | None

    def parts(self, x: Tensor, h: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What inputs and states add to each gate: (batch, hidden) each."""
        count = _GATES[self.call.node.op_type]
        own = F.linear(x, self.weight, self.bias[0]), F.linear(h, self.recurrent, self.bias[1])
        return own[0].chunk(count, -1), own[1].chunk(count, -1)

    def gate(self, x: Tensor, h: Tensor, activation: int) -> Tensor:
        total, clip = x + h, self.call.get("clip")
        return self.activations[activation](total if clip is None else total.clamp(-clip, clip))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next states."""
        kind = self.call.node.op_type
        own, before = self.parts(x, h)
        if kind == "RNN":
            return self.gate(own[0], before[0], 0), c
        return self._gru(own, before, h, c) if kind == "GRU" else self._lstm(own, before, c)

    def _gru(self, own: Any, before: Any, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z, r = (self.gate(own[k], before[k], 0) for k in range(2))
        if self.call.get("linear_before_reset", 0):
            last = r * before[2]
        else:
            last = F.linear(r * h, self.recurrent.chunk(3)[2], self.bias[1].chunk(3)[2])
        new = self.gate(own[2], last, 1)
        return (h - new) * z + new, c

    def _lstm(self, own: Any, before: Any, c: Tensor) -> tuple[Tensor, Tensor]:
        i, o, f, g = ((own[k], before[k]) for k in range(4))
        peepholes = self.peepholes
        seen = [0.0] * 3 if peepholes is None else [p * c for p in (peepholes[0], peepholes[2])]
        enter = self.gate(i[0], i[1] + seen[0], 0)
        coupled = self.call.get("input_forget", 0)
        forget = 1 - enter if coupled else self.gate(f[0], f[1] + seen[1], 0)
        c = forget * c + enter * self.gate(*g, 1)
        leave = self.gate(o[0], o[1] if peepholes is None else o[1] + peepholes[1] * c, 0)
        return leave * self.activations[2](c), c


def _recurrence(
    call: Call, x: Tensor, weights: Tensor, recurrent: Tensor, *given: Tensor | None
) -> list[Tensor]:
    """All states (steps, directions, batch, hidden), and the last ones (directions, ...)."""
    bias, _, h, c, peepholes = (*given, *[None] * 5)[:5]
    first = bool(call.get("layout", 0))  # the examples are the first axis
    x = x.transpose(0, 1) if first else x
    lengths = call.argument(4)
    if lengths is not None and (lengths != len(x)).any():
        raise call.refusal(f"sequences of lengths {lengths.tolist()}; allowed are {len(x)} steps")
    directions = [False, True] if call.get("direction") == "bidirectional" else []
    directions = directions or [call.get("direction") == "reverse"]
    hidden = recurrent.shape[-1]
    cells = _cells(call, weights, recurrent, bias, peepholes)
    every, last, inner = [], [], []
    for d, (cell, backwards) in enumerate(zip(cells, directions, strict=True)):
        zeros = x.new_zeros(x.shape[1], hidden)
        states = [zeros if s is None else (s.transpose(0, 1) if first else s)[d] for s in (h, c)]
        found: list[Tensor] = []
        for t in reversed(range(len(x))) if backwards else range(len(x)):
            states = list(cell.step(x[t], *states))
            found.append(states[0])
        every.append(torch.stack(found[::-1] if backwards else found))
        last.append(states[0])
        inner.append(states[1])
    axis = 1 if first else 0
    ends = [torch.stack(last, axis)] + ([torch.stack(inner, axis)] if "LSTM" in call.place else [])
    whole = torch.stack(every, 1)
    return [whole.permute(2, 0, 1, 3) if first else whole, *ends]


def _cells(
    call: Call, weights: Tensor, recurrent: Tensor, bias: Tensor | None, peepholes: Tensor | None
) -> Iterator[_Cell]:
    kind = call.node.op_type
    names = call.get("activations") or _DEFAULT[kind] * len(weights)
    alphas, betas = (iter(call.get(f"activation_{n}", ())) for n in ("alpha", "beta"))
    unknown = sorted(set(names) - set(_KNOWN))
    if unknown:
        raise call.refusal(f"activations {unknown}; allowed are {', '.join(_KNOWN)}")
    functions = [
        _KNOWN[name](
            next(alphas, None) if name in ("LeakyRelu", "HardSigmoid") else None,
            next(betas, None) if name == "HardSigmoid" else None,
        )
        for name in names
    ]
    each = len(_DEFAULT[kind])
    for d, weight in enumerate(weights):
        own = weight.new_zeros(2 * len(weight)) if bias is None else bias[d]
        yield _Cell(
            call,
            weight,
            recurrent[d],
            (own[: len(weight)], own[len(weight) :]),
            tuple(functions[d * each : (d + 1) * each]),
            None if peepholes is None else peepholes[d].chunk(3),
        )


RULES: dict[str, Rule] = dict.fromkeys(_GATES, _recurrence)

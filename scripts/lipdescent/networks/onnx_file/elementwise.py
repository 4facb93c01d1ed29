"""Operators that act entry by entry: activations, functions of a number, arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from lipdescent.networks.graph import Combination, Extremum, Product, Quotient
from lipdescent.networks.onnx_file.builder import Builder, Call, Rule, tensor
from lipdescent.networks.operations import Divide, Function, Scale, Shift, power
from lipdescent.networks.vertices import Size, Value, shape_of

# A parameter's value where the file says nothing, by ONNX's definitions.
_SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}
ACTIVATIONS: dict[str, Callable[[Call], nn.Module]] = {
    "Relu": lambda c: nn.ReLU(),
    "LeakyRelu": lambda c: nn.LeakyReLU(c.get("alpha", 0.01)),
    "Elu": lambda c: nn.ELU(c.get("alpha", 1.0)),
    "Celu": lambda c: nn.CELU(c.get("alpha", 1.0)),
    "Selu": lambda c: _selu(c),
    "Sigmoid": lambda c: nn.Sigmoid(),
    "Tanh": lambda c: nn.Tanh(),
    "Softplus": lambda c: nn.Softplus(),
    "Softsign": lambda c: nn.Softsign(),
    "HardSwish": lambda c: nn.Hardswish(),
    "Gelu": lambda c: nn.GELU(approximate=c.get("approximate", "none")),
    "Mish": lambda c: nn.Mish(),
    "Clip": lambda c: _clip(c),
    "Dropout": lambda c: _identity(c, training=2),
    "Cast": lambda c: _cast(c),
    "Neg": lambda c: Scale(None, -1.0),
    "Pow": lambda c: _power(c),
}
FUNCTIONS = {
    "Sin": "sin", "Cos": "cos", "Abs": "abs", "Atan": "atan", "Asinh": "asinh", "Erf": "erf",
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sinh": "sinh",
    "Cosh": "cosh", "Tan": "tan",
}  # fmt: skip
_FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}


def _selu(call: Call) -> nn.Module:
    if any(abs(call.get(n, v) - v) > 1e-6 for n, v in _SELU.items()):
        raise call.refusal("alpha and gamma are not those of SELU")
    return nn.SELU()


def _clip(call: Call) -> nn.Module:
    low, high = call.argument(1, "min"), call.argument(2, "max")
    low_number = -math.inf if low is None else float(low.reshape(-1)[0])
    high_number = math.inf if high is None else float(high.reshape(-1)[0])
    if (low_number, high_number) == (0.0, math.inf):
        return nn.ReLU()
    return nn.Hardtanh(low_number, high_number)


def _identity(call: Call, *, training: int) -> nn.Module:
    mode = call.argument(training)
    if mode is not None and bool(mode.any()):
        raise call.refusal("is in training mode; export the network in eval mode")
    return nn.Identity()


def _cast(call: Call) -> nn.Module:
    if call.get("to") not in _FLOATS:
        raise call.refusal("makes integers of numbers: it jumps, so it is not Lipschitz")
    return nn.Identity()  # exact arithmetic is what is certified, whatever type holds it


def _power(call: Call) -> nn.Module:
    exponent = call.argument(1)
    if exponent is None or exponent.size != 1:
        raise call.refusal("its exponent is no single number")
    number = float(exponent.reshape(-1)[0])
    return power(number)


def _activation(builder: Builder, call: Call) -> Value:
    return _entrywise(builder, ACTIVATIONS[call.node.op_type](call), call.value(), call)


def _entrywise(builder: Builder, module: nn.Module, value: Value, call: Call) -> Value:
    return value if type(module) is nn.Identity else builder.entrywise(module, value, call)


def _function(builder: Builder, call: Call) -> Value:
    return _entrywise(builder, Function(FUNCTIONS[call.node.op_type]), call.value(), call)


def _hard_sigmoid(builder: Builder, call: Call) -> Value:
    """max(0, min(1, alpha x + beta)); PyTorch's has alpha 1/6 and beta 1/2."""
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if beta == 0.5 and np.float32(alpha) == np.float32(1 / 6):
        return _entrywise(builder, nn.Hardsigmoid(), call.value(), call)
    value = _entrywise(builder, Scale(None, alpha), call.value(), call)
    value = _entrywise(builder, Shift(None, beta), value, call)
    return _entrywise(builder, nn.Hardtanh(0.0, 1.0), value, call)


def _prelu(builder: Builder, call: Call) -> Value:
    value, slope = call.value(), call.argument(1)
    if slope is None or slope.size not in (1, shape_of(value.size)[0]):
        raise call.refusal("its slopes are not one a channel")
    module = nn.PReLU(slope.size)
    module.weight = nn.Parameter(tensor(slope).reshape(-1))
    return builder.apply(module, value, value.size, call)


def _add(builder: Builder, call: Call) -> Value:
    return _sum(builder, call, 1.0)


def _subtract(builder: Builder, call: Call) -> Value:
    return _sum(builder, call, -1.0)


def _sum(builder: Builder, call: Call, sign: float) -> Value:
    a, b = call.inputs
    if isinstance(a, Value) and isinstance(b, Value):
        size = np.broadcast_shapes(a.size, b.size)
        pair = [builder.expanded(value, size, call) for value in (a, b)]
        return builder.join(Combination((1.0, sign)), pair, size, call)
    value = call.value(0) if isinstance(a, Value) else call.value(1)
    number = np.asarray(b if isinstance(a, Value) else a)
    if not isinstance(a, Value) and sign < 0:
        value = _entrywise(builder, Scale(None, -1.0), value, call)
    elif sign < 0:
        number = -number
    if not number.any() and np.broadcast_shapes(value.size, number.shape) == value.size:
        return value
    i = 0 if isinstance(a, Value) else 1
    if builder.only_use(call, i) and _becomes_bias(builder, value, number):
        return value
    return builder.apply(*_with_constant(builder, Shift, value, number, call))


def _becomes_bias(builder: Builder, value: Value, number: np.ndarray) -> bool:
    """x W + b is one layer: whether ``number`` now is the bias of a layer without one."""
    module = builder.vertices[value.vertex].operation
    if not isinstance(module, nn.Linear) or getattr(module, "bias", None) is not None:
        return False
    if number.size not in (1, module.out_features) or number.shape[-1:] != (number.size,):
        return False
    if number.ndim > len(value.size):
        return False
    module.bias = nn.Parameter(tensor(np.broadcast_to(number.reshape(-1), module.out_features)))
    return True


def _with_constant(
    builder: Builder, kind: Callable[..., Any], value: Value, number: np.ndarray, call: Call
) -> tuple[nn.Module, Value, Size, Call]:
    """A layer with a number or tensor, and the value in the size that both broadcast to."""
    size = np.broadcast_shapes(value.size, number.shape)
    value = builder.expanded(value, size, call)
    if number.size == 1:
        return kind(None, float(number.reshape(-1)[0])), value, size, call
    # Without the batch axis of its own, and with as many axes as the value.
    own = number.reshape((1,) * (len(size) - number.ndim) + number.shape)
    shape = own.shape[1:] if len(shape_of(size)) < len(size) else own.shape
    module = kind(shape)
    module.weight = tensor(number).reshape(shape)
    return module, value, size, call


def _multiply(builder: Builder, call: Call) -> Value:
    a, b = call.inputs
    if isinstance(a, Value) and isinstance(b, Value):
        return builder.join(Product(), [a, b], np.broadcast_shapes(a.size, b.size), call)
    value, number = (call.value(0), b) if isinstance(a, Value) else (call.value(1), a)
    return builder.apply(*_with_constant(builder, Scale, value, np.asarray(number), call))


def _divide(builder: Builder, call: Call) -> Value:
    a, b = call.inputs
    if isinstance(a, Value) and isinstance(b, Value):
        return builder.join(Quotient(), [a, b], np.broadcast_shapes(a.size, b.size), call)
    if isinstance(a, Value):
        return builder.apply(*_with_constant(builder, Divide, a, np.asarray(b), call))
    inverse = _entrywise(builder, Function("reciprocal"), call.value(1), call)
    return builder.apply(*_with_constant(builder, Scale, inverse, np.asarray(a), call))


def _added(builder: Builder, call: Call) -> Value:
    """Sum, or mean, of any number of values."""
    values = builder.dependent(call)
    size = np.broadcast_shapes(*(v.size for v in values))
    values = [builder.expanded(value, size, call) for value in values]
    factor = 1 / len(values) if call.node.op_type == "Mean" else 1.0
    return builder.join(Combination((factor,) * len(values)), values, size, call)


def _extremum(builder: Builder, call: Call) -> Value:
    largest = call.node.op_type == "Max"
    constants = [c for c in call.inputs if isinstance(c, np.ndarray)]
    if len(call.inputs) == 2 and len(constants) == 1 and constants[0].size == 1:
        number = float(constants[0].reshape(-1)[0])
        value = next(v for v in call.inputs if isinstance(v, Value))
        limits = (number, math.inf) if largest else (-math.inf, number)
        module = nn.ReLU() if limits == (0.0, math.inf) else nn.Hardtanh(*limits)
        return _entrywise(builder, module, value, call)
    first, *others = builder.dependent(call)
    for other in others:
        size = np.broadcast_shapes(first.size, other.size)
        first = builder.join(Extremum(largest), [first, other], size, call)
    return first


RULES: dict[str, Rule] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(FUNCTIONS, _function),
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _prelu,
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Sum": _added,
    "Mean": _added,
    "Max": _extremum,
    "Min": _extremum,
}

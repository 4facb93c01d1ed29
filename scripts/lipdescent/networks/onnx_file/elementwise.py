"""Operators that act entry by entry: activations, functions of a number, arithmetic."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipdescent.networks.onnx_file.calls import Call, Rule

# A parameter's value where the file says nothing, by ONNX's definitions.
_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}
_TYPES = {
    1: torch.float32, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def _selu(c: Call, x: Tensor) -> Tensor:
    """With a file's own numbers: rounded to float32, gamma is above PyTorch's."""
    alpha, gamma = (c.get(name, value) for name, value in _SELU.items())
    return gamma * F.elu(x, alpha)


def _clip(c: Call, x: Tensor, *_: Any) -> Tensor:
    low, high = c.number(1, "min"), c.number(2, "max")
    most = torch.finfo(x.dtype).max
    if any(end is not None and math.isnan(end) for end in (low, high)):
        raise c.refusal(f"between {low} and {high}; allowed are numbers")
    low = None if low is None or low <= -most else low
    high = None if high is None or high >= most else high
    if low is None and high is None:
        return x
    return F.relu(x) if (low, high) == (0.0, None) else x.clamp(low, high)


def _dropout(c: Call, x: Tensor, *_: Any) -> Tensor:
    if c.number(2):
        raise c.refusal("is in training mode; export the network in eval mode")
    return x


def _cast(c: Call, x: Tensor, *like: Tensor) -> Tensor:
    to = like[0].dtype if like else _TYPES.get(c.get("to"))
    if to is None or not (to.is_floating_point or x.dtype is to):
        raise c.refusal("makes integers of numbers: it jumps, so it is not Lipschitz")
    return x.to(to)


def _power(c: Call, x: Tensor, *_: Any) -> Tensor:
    exponent = c.argument(1)
    if exponent is None or exponent.size != 1:
        raise c.refusal("its exponent is no single number")
    return x ** float(exponent.reshape(-1)[0])


def _hard_sigmoid(c: Call, x: Tensor) -> Tensor:
    """max(0, min(1, alpha x + beta)); with beta 1/2 PyTorch's of 6 alpha x.

    Which is x for no file: 1/6 in float32 is larger than it is.
    """
    alpha, beta = c.get("alpha", 0.20000000298023223876953125), c.get("beta", 0.5)
    if beta == 0.5:
        return F.hardsigmoid(x * (6 * alpha))
    return (alpha * x + beta).clamp(0.0, 1.0)


def _prelu(c: Call, x: Tensor, slope: Tensor) -> Tensor:
    shown = [m for m, n in zip(slope.shape[::-1], x.shape[::-1], strict=False) if m not in (1, n)]
    if shown or slope.ndim > x.ndim:
        own, given = tuple(slope.shape), tuple(x.shape)
        raise c.refusal(
            f"its slope has the shape {own}, its input {given}; allowed is what broadcasts to the "
            "input's shape: for one slope per channel "
            f"{(given[1], *[1] * (x.ndim - 2)) if x.ndim > 1 else given}"
        )
    each = slope.ndim >= x.ndim - 1 and slope.shape[1 - x.ndim] == slope.numel() == x.shape[1]
    if x.ndim > 1 and (each or slope.numel() == 1):
        return F.prelu(x, slope.flatten())
    return F.relu(x) - slope * F.relu(-x)


def _shrunk(c: Call, x: Tensor) -> Tensor:
    by, end = c.get("bias", 0.0), c.get("lambd", 0.5)
    if by not in (0.0, end):
        raise c.refusal(
            f"shrinks by {by} beyond {end}: it jumps there, so that no Lipschitz constant exists; "
            "read are bias = lambd, and bias = 0, which has one on a domain away from the jumps"
        )
    return F.softshrink(x, end) if by else F.hardshrink(x, end)


def operands(c: Call, *given: Tensor) -> list[Any]:
    """Inputs, constants that are one number everywhere as that, where it changes no shape."""
    values = [x.shape for x in c.inputs if isinstance(x, Tensor)]
    size = torch.broadcast_shapes(*values)

    def own(x: Tensor, array: Any) -> Any:
        if isinstance(array, Tensor) or torch.broadcast_shapes(x.shape, size) != size:
            return x
        one = x.numel() == 1 or not array.any()
        return float(array.reshape(-1)[0]) if one else x

    return [own(x, array) for x, array in zip(given, c.inputs, strict=True)]


def _binary(function: Any) -> Rule:
    return lambda c, x, y: function(*operands(c, x, y))


def _divided(x: Any, y: Any) -> Tensor:
    return x / y


def _subtracted(x: Any, y: Any) -> Tensor:
    return x - y


def _larger(x: Any, y: Any) -> Tensor:
    return torch.gt(x, y) if isinstance(x, Tensor) else torch.lt(y, x)


def _extreme(c: Call, *given: Tensor) -> Tensor:
    """Largest, or smallest, of any number of values and constants."""
    largest = c.node.op_type == "Max"

    def both(x: Any, y: Any) -> Tensor:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.maximum(x, y) if largest else torch.minimum(x, y)
        value, number = (x, y) if isinstance(x, Tensor) else (y, x)
        if largest and number == 0:
            return F.relu(value)
        return value.clamp_min(number) if largest else value.clamp_max(number)

    # What depends on the input first: two numbers have no operation.
    ordered = sorted(operands(c, *given), key=lambda x: not isinstance(x, Tensor))
    return functools.reduce(both, ordered)


def _sum(c: Call, *given: Tensor) -> Tensor:
    total = functools.reduce(torch.add, given)
    return total / len(given) if c.node.op_type == "Mean" else total


def _swish(c: Call, x: Tensor) -> Tensor:
    alpha = c.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def _same(name: str, *options: str, **defaults: Any) -> Rule:
    """A function of ``torch.nn.functional`` or ``torch``, with attributes as its options."""
    function = getattr(F, name, None) or getattr(torch, name)
    return lambda c, x: function(x, *(c.get(n, defaults[n]) for n in options))


RULES: dict[str, Rule] = {
    "Relu": _same("relu"),
    "LeakyRelu": _same("leaky_relu", "alpha", alpha=0.01),
    "Elu": _same("elu", "alpha", alpha=1.0),
    "Celu": _same("celu", "alpha", alpha=1.0),
    "ThresholdedRelu": lambda c, x: F.threshold(x, c.get("alpha", 1.0), 0.0),
    "Gelu": lambda c, x: F.gelu(x, approximate=c.get("approximate", "none")),
    "HardSwish": _same("hardswish"),
    **{n: _same(n.lower()) for n in ("Sigmoid", "Tanh", "Softplus", "Softsign", "Mish")},
    **{n: _same(n.lower()) for n in ("Sin", "Cos", "Abs", "Atan", "Asinh", "Erf", "Exp", "Log")},
    **{n: _same(n.lower()) for n in ("Sqrt", "Reciprocal", "Sinh", "Cosh", "Tan", "Neg", "Sign")},
    "Selu": _selu,
    "Swish": _swish,
    "Shrink": _shrunk,
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _prelu,
    "Clip": _clip,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
    "Pow": _power,
    "Add": _binary(torch.add),
    "Sub": _binary(_subtracted),
    "Mul": _binary(torch.mul),
    "Div": _binary(_divided),
    "Sum": _sum,
    "Mean": _sum,
    "Max": _extreme,
    "Min": _extreme,
    "Where": lambda c, mask, x, y: torch.where(mask, x, y),
    **dict.fromkeys(("Greater", "GreaterOrEqual"), _binary(_larger)),
    **dict.fromkeys(("Less", "LessOrEqual"), _binary(lambda x, y: _larger(y, x))),
}

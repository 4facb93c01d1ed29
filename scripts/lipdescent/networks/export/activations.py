"""Functions of single numbers: activations, powers, clamps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from lipdescent.networks.export.builder import Builder, Constant, refused
from lipdescent.networks.operations import SCALARS, WRITTEN_OUT, Function, power
from lipdescent.networks.vertices import Value

Arguments = dict[str, Any]
_OTHERS = ("at_most", "power", *WRITTEN_OUT)  # no operations of these names


def _layer(kind: type[nn.Module], *names: str) -> Callable[[Builder, fx.Node, Arguments], Value]:
    """An activation, whose options are the operation's arguments of these names."""

    def rule(b: Builder, node: fx.Node, a: Arguments) -> Value:
        options = [a[name] for name in names]
        return b.entrywise(b.module(kind, *options), a["self"], node)

    return rule


def _function(name: str) -> Callable[[Builder, fx.Node, Arguments], Value]:
    def rule(b: Builder, node: fx.Node, a: Arguments) -> Value:
        return b.entrywise(b.module(Function, name), a["self"], node)

    return rule


def _elu(b: Builder, node: fx.Node, a: Arguments) -> Value:
    if (a["scale"], a["input_scale"]) != (1, 1):
        raise refused(node, f"elu with scale {a['scale']}, input_scale {a['input_scale']}")
    return b.entrywise(b.module(nn.ELU, a["alpha"]), a["self"], node)


def _gelu(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return b.entrywise(b.module(nn.GELU, approximate=a["approximate"]), a["self"], node)


def _rrelu(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return b.entrywise(b.module(nn.RReLU, a["lower"], a["upper"]), a["self"], node)


def _prelu(b: Builder, node: fx.Node, a: Arguments) -> Value:
    value, weight = a["self"], a["weight"]
    if not isinstance(value, Value) or not isinstance(weight, Constant):
        raise refused(node, "prelu with a slope that depends on the input")
    weight = weight.map(torch.flatten, "flat")
    layer = b.module(nn.PReLU, weight.value.numel(), tensors={"weight": weight})
    return b.apply(layer, value, value.size, node)


def clamp(b: Builder, node: fx.Node, a: Arguments) -> Value:
    low, high, value = number(a.get("min")), number(a.get("max")), a["self"]
    if any(isinstance(bound, (Constant, Value)) for bound in (low, high)):
        raise refused(node, "clamp between tensors")
    if low is not None and high is not None:
        if low >= high:
            raise refused(node, f"clamp between {low} and {high}; allowed is the smaller first")
        return b.entrywise(b.module(nn.Hardtanh, low, high), value, node)
    if low is not None:
        layer = b.module(nn.ReLU) if low == 0 else b.module(nn.Threshold, low, low)
        return b.entrywise(layer, value, node)
    return value if high is None else b.entrywise(b.module(Function, "at_most", high), value, node)


def _power(b: Builder, node: fx.Node, a: Arguments) -> Value:
    value, exponent = a["self"], number(a["exponent"])
    if not isinstance(value, Value) or isinstance(exponent, (Value, Constant)):
        raise refused(node, "a power whose exponent is not a number")
    if exponent == 1:
        return value
    return b.entrywise(b.module(power, float(exponent)), value, node)


def number(x: Any) -> Any:
    """A Python number where a constant is one that no state of the network holds."""
    if isinstance(x, bool):
        return float(x)
    return float(x) if isinstance(x, int) else x


RULES: dict[str, Callable[[Builder, fx.Node, Arguments], Any]] = {
    "relu": _layer(nn.ReLU),
    "relu6": _layer(nn.ReLU6),
    "sigmoid": _layer(nn.Sigmoid),
    "tanh": _layer(nn.Tanh),
    "silu": _layer(nn.SiLU),
    "mish": _layer(nn.Mish),
    "selu": _layer(nn.SELU),
    "hardswish": _layer(nn.Hardswish),
    "hardsigmoid": _layer(nn.Hardsigmoid),
    "log_sigmoid": _layer(nn.LogSigmoid),
    "softplus": _layer(nn.Softplus, "beta", "threshold"),
    "leaky_relu": _layer(nn.LeakyReLU, "negative_slope"),
    "hardtanh": _layer(nn.Hardtanh, "min_val", "max_val"),
    "threshold": _layer(nn.Threshold, "threshold", "value"),
    "softshrink": _layer(nn.Softshrink, "lambd"),
    "hardshrink": _layer(nn.Hardshrink, "lambd"),
    "celu": _layer(nn.CELU, "alpha"),
    "elu": _elu,
    "gelu": _gelu,
    "rrelu": _rrelu,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max"), clamp),
    "pow": _power,
    **{name: _function(name) for name in SCALARS if name not in _OTHERS},
    "arctan": _function("atan"),
    "sgn": _function("sign"),
}

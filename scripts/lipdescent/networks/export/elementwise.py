"""Sums, products and quotients of values and constants."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export.activations import clamp, number
from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.export.root_mean_square import normalised, weighted
from lipdescent.networks.graph import Combination, Extremum, Product, Quotient
from lipdescent.networks.operations import Divide, Function, Scale, Shift
from lipdescent.networks.vertices import Value, shape_of

Arguments = dict[str, Any]


def _add(b: Builder, node: fx.Node, a: Arguments, sign: float = 1.0) -> Value:
    x, y = a["self"], a["other"]
    factor = sign * a.get("alpha", 1)
    if not isinstance(x, Value):  # constant + factor y
        return shifted(b, node, scaled(b, node, y, factor), x)
    if not isinstance(y, Value):
        if isinstance(y, Constant):
            return shifted(b, node, x, y if factor == 1 else y.map(lambda t: factor * t, factor))
        return shifted(b, node, x, factor * number(y))
    size = size_of(node)
    pair = [b.expanded(value, size, node) for value in (x, y)]
    inputs = [b.in_shape(value, shape_of(size), node) for value in pair]
    if inputs[0] == inputs[1]:
        return scaled(b, node, Value(inputs[0], size), 1 + factor)
    return Value(b.vertex(Combination((1.0, float(factor))), inputs, shape_of(size), node), size)


def _subtract(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return _add(b, node, a, -1.0)


def _subtract_reversed(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return _add(b, node, {"self": a["other"], "other": a["self"]} | _alpha(node, a), -1.0)


def _alpha(node: fx.Node, a: Arguments) -> Arguments:
    if a.get("alpha", 1) != 1:
        raise refused(node, f"rsub with alpha = {a['alpha']}")
    return {}


def shifted(b: Builder, node: fx.Node, value: Value, by: Any) -> Value:
    """A value plus a constant or a number; minus infinity in it, a mask, is put in last."""
    if (found := _with_bias(b, node, value, by)) is not None:
        return found
    if not isinstance(by, Constant) or not bool((left := by.value == -math.inf).any()):
        return _with_constant(b, node, Shift, value, by, 0.0)
    total = _with_constant(b, node, Shift, value, finite(by), 0.0)
    places = torch.arange(math.prod(total.size)).reshape(total.size)
    return b.gathered(total, torch.where(left.cpu(), -1, places), node, -math.inf)


def _with_bias(b: Builder, node: fx.Node, value: Value, by: Any) -> Value | None:
    """x W + b is one layer, where nothing else takes x W."""
    vertex = b.vertices[value.vertex]
    layer, others = vertex.operation, [n for n in node.all_input_nodes if n in b.values]
    if not isinstance(layer, nn.Linear) or value.size[-1:] == ():
        return None
    if (layer, "bias") in b.tensors:
        return None
    if len(others) != 1 or len(others[0].users) != 1 or value.size[-1] != layer.out_features:
        return None
    outputs, like = layer.out_features, layer.weight
    if not isinstance(by, Constant):
        full = torch.full((1,), number(by), dtype=like.dtype, device=like.device)
        by = Constant(full, lambda c: full, ("number", by))
    shape = by.value.shape
    if shape[-1:] not in ((outputs,), (1,)) or shape.numel() != shape[-1]:
        return None
    if len(shape) > len(value.size) or bool(by.value.isinf().any()):
        return None
    own = {"weight": b.tensors[layer, "weight"]}
    own["bias"] = by.map(lambda t: t.flatten().expand(outputs), ("expand", outputs))
    whole = b.module(nn.Linear, layer.in_features, outputs, True, tensors=own)
    return Value(b.vertex(whole, vertex.inputs, vertex.shape, node), value.size)


def finite(constant: Constant) -> Constant:
    """0 in place of minus infinity, which has to be in the same places in every network."""
    left = constant.value == -math.inf
    if not bool(left.any()):
        return constant

    def without(t: Tensor) -> Tensor:
        if not torch.equal((t == -math.inf).cpu(), left.cpu()):
            raise ValueError("a mask is not the same in all networks of a stack; allowed is one")
        return torch.where(left.to(t.device), 0.0, t)

    return constant.map(without, "finite")


def scaled(b: Builder, node: fx.Node, value: Value, by: Any) -> Value:
    """A value times a constant or a number."""
    if (found := weighted(b, node, value, by)) is not None:
        return found
    return _with_constant(b, node, Scale, value, by, 1.0)


def _with_constant(
    b: Builder, node: fx.Node, kind: type[nn.Module], value: Value, by: Any, nothing: float
) -> Value:
    if not isinstance(by, Constant):
        by = number(by)
        if by == nothing:
            return value
        return b.entrywise(b.module(kind, None, by), value, node)
    size = tuple(torch.broadcast_shapes(value.size, by.value.shape))
    value = b.expanded(value, size, node)
    if not by.value.is_floating_point():
        by = by.map(lambda t: t.to(torch.get_default_dtype()), "real")
    missing = len(size) - by.value.ndim
    if size and shape_of(size) != size and by.value.ndim == len(size):
        by = by.map(lambda t: t[0], "first")
    elif size and not missing and not by.value.ndim:
        by = by.map(lambda t: t.reshape(1), "vector")
    layer = b.module(kind, tuple(by.value.shape), tensors={"weight": by})
    return b.apply(layer, value, size, node)


def multiply(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """Of two values, numbers or constants, entry by entry."""
    x, y = a["self"], a["other"]
    if not isinstance(x, Value):
        return scaled(b, node, y, x)
    if not isinstance(y, Value):
        return scaled(b, node, x, y)
    if x.vertex == y.vertex and x.size == y.size:
        return b.entrywise(b.module(Function, "square"), x, node)
    for one, other in ((x, y), (y, x)):
        if one.size == size_of(node) and (found := normalised(b, node, one, other, "rsqrt")):
            return found
    return _two(b, node, Product(), x, y)


def _divide(b: Builder, node: fx.Node, a: Arguments) -> Value:
    x, y = a["self"], a["other"]
    if a.get("rounding_mode") is not None:
        raise refused(node, f"division with rounding_mode {a['rounding_mode']}, which jumps")
    if not isinstance(y, Value):
        return _with_constant(b, node, Divide, x, y, 1.0)
    if not isinstance(x, Value):
        inverse = b.entrywise(b.module(Function, "reciprocal"), y, node)
        return scaled(b, node, inverse, x)
    if x.size == size_of(node) and (found := normalised(b, node, x, y, "sqrt")):
        return found
    return _two(b, node, Quotient(), x, y)


def extremum(b: Builder, node: fx.Node, a: Arguments, largest: bool = True) -> Value:
    """The larger of two values, numbers or constants, or the smaller."""
    x, y = a["self"], a["other"]
    if not isinstance(x, Value) or not isinstance(y, Value):
        value, other = (x, y) if isinstance(x, Value) else (y, x)
        if not isinstance(other, Constant):
            return clamp(b, node, {"self": value, ("min" if largest else "max"): other})
        # max(x, c) = relu(x - c) + c, min(x, c) = c - relu(c - x)
        minus = other.map(torch.neg, "minus")
        if largest:
            inner = shifted(b, node, value, minus)
            return shifted(b, node, b.entrywise(b.module(nn.ReLU), inner, node), other)
        inner = shifted(b, node, scaled(b, node, value, -1.0), other)
        inner = b.entrywise(b.module(nn.ReLU), inner, node)
        return shifted(b, node, scaled(b, node, inner, -1.0), other)
    return _two(b, node, Extremum(largest), x, y)


def _smallest(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return extremum(b, node, a, largest=False)


def _two(b: Builder, node: fx.Node, join: Any, x: Value, y: Value) -> Value:
    size = size_of(node)
    inputs = [b.in_shape(value, shape_of(value.size), node) for value in (x, y)]
    shape = tuple(torch.broadcast_shapes(*(b.vertices[i].shape for i in inputs)))
    return Value(b.vertex(join, inputs, shape, node), size)


def _negate(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return scaled(b, node, a["self"], -1.0)


def _between(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """``lerp``: x + w (y - x)."""
    x, y, w = a["self"], a["end"], a["weight"]
    step = _subtract(b, node, {"self": y, "other": x})
    return _add(b, node, {"self": x, "other": multiply(b, node, {"self": step, "other": w})})


def _add_product(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """x + value t1 t2, or x + value t1 / t2."""
    pair = {"self": a["tensor1"], "other": a["tensor2"]}
    rule = multiply if "addcmul" in str(node.target) else _divide
    return _add(b, node, {"self": a["self"], "other": rule(b, node, pair), "alpha": a["value"]})


RULES: dict[str, Callable[[Builder, fx.Node, Arguments], Any]] = {
    "neg": _negate,
    "add": _add,
    "sub": _subtract,
    "subtract": _subtract,
    "rsub": _subtract_reversed,
    "div": _divide,
    "divide": _divide,
    "true_divide": _divide,
    "lerp": _between,
    "addcmul": _add_product,
    "addcdiv": _add_product,
    "maximum": extremum,
    "minimum": _smallest,
}

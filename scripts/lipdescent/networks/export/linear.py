"""Products with constants, convolutions, products of matrices."""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export import attention
from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.export.elementwise import scaled
from lipdescent.networks.export.rearranging import as_value
from lipdescent.networks.graph import MatrixProduct
from lipdescent.networks.vertices import Value, shape_of

Arguments = dict[str, Any]


def _linear(b: Builder, node: fx.Node, a: Arguments) -> Value:
    value, weight, bias = a["input"], a["weight"], a["bias"]
    if isinstance(weight, Value) or isinstance(bias, Value) or not isinstance(value, Value):
        if isinstance(weight, Value):
            weight = b.swapped(weight, node)
        else:
            weight = weight.map(lambda t: t.mT, "mT")
        product = _product(b, node, value, weight, size_of(node))
        return product if bias is None else _sum(b, node, product, bias)
    return linear(b, node, value, weight, bias)


def linear(
    b: Builder, node: fx.Node, value: Value, weight: Constant, bias: Constant | None
) -> Value:
    """``nn.Linear`` over the last axis."""
    if weight.value.ndim == 1:
        weight = weight.map(lambda t: t[None], "row")
    if bias is not None and bias.value.ndim == 0:
        bias = bias.map(lambda t: t.reshape(1), "vector")
    outputs, features = weight.value.shape
    if bias is not None and bias.value.shape != (outputs,):
        bias = bias.map(lambda t: t.flatten().expand(outputs), ("expand", outputs))
    layer = b.module(
        nn.Linear, features, outputs, bias is not None, tensors={"weight": weight, "bias": bias}
    )
    shape = shape_of(value.size)
    size = (*value.size[:-1], outputs)
    if len(value.size) == 1:  # no axis for the example: shape_of keeps the last one
        return Value(b.apply(layer, value, size, node).vertex, size_of(node))
    index = b.in_shape(value, shape, node)
    return Value(b.vertex(layer, (index,), (*shape[:-1], outputs), node), size_of(node))


def _sum(b: Builder, node: fx.Node, value: Value, other: Any) -> Value:
    from lipdescent.networks.export.elementwise import RULES

    return RULES["add"](b, node, {"self": value, "other": other})


def _add_matrix_product(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """beta x + alpha m1 m2, as ``addmm`` and ``baddbmm`` say it."""
    first, second = (a[n] for n in (("mat1", "mat2") if "mat1" in a else ("batch1", "batch2")))
    shift = a["self"]
    plain = (a.get("alpha", 1), a.get("beta", 1)) == (1, 1)
    if plain and _are_matrix_and_bias(second, shift):
        return linear(b, node, first, second.map(lambda t: t.T, "T"), shift.map(_flat, "flat"))
    product = scaled(b, node, _product(b, node, first, second, size_of(node)), a.get("alpha", 1))
    beta = a.get("beta", 1)
    if beta == 0:  # what it would be added to may be anything, such as torch.empty
        return product
    if beta != 1:
        shift = (
            scaled(b, node, shift, beta)
            if isinstance(shift, Value)
            else shift.map(lambda t: beta * t, ("times", beta))
        )
    return _sum(b, node, product, shift)


def _are_matrix_and_bias(weight: Any, bias: Any) -> bool:
    if not isinstance(weight, Constant) or not isinstance(bias, Constant):
        return False
    return weight.value.ndim == 2 and bias.value.numel() in (1, weight.value.shape[1])


def _flat(t: Tensor) -> Tensor:
    return t.flatten()


def _matmul(b: Builder, node: fx.Node, a: Arguments) -> Value:
    first = a["self"]
    second = next(a[n] for n in ("other", "mat2", "vec", "tensor") if n in a)
    return _product(b, node, first, second, size_of(node))


def _product(b: Builder, node: fx.Node, x: Any, y: Any, size: tuple[int, ...]) -> Value:
    """x @ y; a constant of several matrices as a value that does not depend on the input."""
    several = [isinstance(z, Constant) and math.prod(z.value.shape[:-2]) > 1 for z in (x, y)]
    if any(several):
        like = y if several[0] else x
        x, y = (
            as_value(b, node, z, like) if own else z for z, own in zip((x, y), several, strict=True)
        )
    if isinstance(x, Value) and isinstance(y, Constant):
        y = _matrix(b, node, y)
        return linear(b, node, x, y if y.value.ndim == 1 else y.map(lambda t: t.T, "T"), None)
    if isinstance(x, Constant):
        x = _matrix(b, node, x)
        if len(y.size) == 1:
            return Value(linear(b, node, y, x, None).vertex, size)
        turned = b.swapped(y, node)
        linear_turned = _linear_sized(b, node, turned, x)
        return Value(b.swapped(linear_turned, node).vertex, size)
    x, y = _at_least_two(x, last=True), _at_least_two(y, last=False)
    rows = torch.broadcast_shapes(x.size[:-2], y.size[:-2])
    x, y = (b.expanded(v, (*rows, *v.size[-2:]), node) for v in (x, y))
    shapes = [v.size[1:] if len(v.size) > 2 and v.size[0] == 1 else v.size for v in (x, y)]
    inputs = [b.in_shape(v, shape, node) for v, shape in zip((x, y), shapes, strict=True)]
    if (found := attention.recognised(b, node, inputs, size)) is not None:
        return found
    shape = (*shapes[0][:-1], shapes[1][-1])
    return Value(b.vertex(MatrixProduct(), inputs, shape, node), size)


def _linear_sized(b: Builder, node: fx.Node, value: Value, weight: Constant) -> Value:
    """``linear`` inside of what an operation does: with a size of its own."""
    if weight.value.ndim == 1:
        weight = weight.map(lambda t: t[None], "row")
    found = linear(b, node, value, weight, None)
    return Value(found.vertex, (*value.size[:-1], weight.value.shape[0]))


def _matrix(b: Builder, node: fx.Node, constant: Constant) -> Constant:
    """Without leading axes of length 1."""
    while constant.value.ndim > 2 and constant.value.shape[0] == 1:
        constant = constant.map(lambda t: t[0], "first")
    return constant


def _at_least_two(value: Value, *, last: bool) -> Value:
    if len(value.size) > 1:
        return value
    return Value(value.vertex, (1, *value.size) if last else (*value.size, 1))


def _bilinear(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """x' W_k y + b_k for every k: W y, a matrix, times x."""
    x, y, weight = a["input1"], a["input2"], a["weight"]
    values = isinstance(x, Value) and isinstance(y, Value) and isinstance(weight, Constant)
    if not values or len(x.size) != 2:
        raise refused(node, "a bilinear map of something else than two vectors of the input")
    outputs, first, second = weight.value.shape
    flat = weight.map(lambda t: t.reshape(outputs * first, second), "rows")
    matrix = _linear_sized(b, node, y, flat)._replace(size=(1, outputs, first))
    column = x._replace(size=(1, first, 1))
    found = _product(b, node, matrix, column, (1, outputs, 1))._replace(size=size_of(node))
    return found if a.get("bias") is None else _sum(b, node, found, a["bias"])


def _convolution(b: Builder, node: fx.Node, a: Arguments) -> Value:
    value, weight, bias = a["input"], a["weight"], a["bias"]
    if not isinstance(value, Value) or not isinstance(weight, Constant) or isinstance(bias, Value):
        raise refused(node, "a convolution whose kernel or bias depends on the input")
    dims = weight.value.ndim - 2
    if len(value.size) == dims + 2 and value.size[0] != 1:
        raise refused(node, f"a convolution of {value.size[0]} inputs made of one example")
    transposed = bool(a.get("transposed", "transpose" in str(node.target)))
    groups, (first, second) = a["groups"], weight.value.shape[:2]
    channels = (first, second * groups) if transposed else (second * groups, first)
    options: Arguments = {"groups": groups, "bias": bias is not None}
    for name in ("stride", "dilation", "padding", "output_padding"):
        given = a.get(name)
        if given is None or (name == "output_padding" and not transposed):
            continue
        options[name] = given if isinstance(given, str) else tuple(given) * (dims // len(given))
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    kernel = tuple(weight.value.shape[2:])
    layer = b.module(kind, *channels, kernel, tensors={"weight": weight, "bias": bias}, **options)
    shape = value.size if len(value.size) == dims + 1 else value.size[1:]
    size = size_of(node)
    index = b.in_shape(value, shape, node)
    out = size if len(size) == dims + 1 else size[1:]
    return Value(b.vertex(layer, (index,), out, node), size)


def _folded(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """``fold``: a transposed convolution whose kernels have a single 1; overlaps are added."""
    value, kernel, size = a["self"], tuple(a["kernel_size"]), size_of(node)
    channels, each = size[-3], math.prod(kernel)
    options: Arguments = {n: tuple(a[n]) for n in ("stride", "padding", "dilation")}
    places = list(zip(size[-2:], kernel, *options.values(), strict=True))
    counts = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in places]
    options["output_padding"] = tuple(
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for m, (n, k, s, p, d) in zip(counts, places, strict=True)
    )
    like = torch.get_default_dtype()
    ones = torch.eye(each, dtype=like).reshape(each, 1, *kernel).repeat(channels, 1, 1, 1)
    weight = Constant(ones, lambda c: ones, ("fold", channels, kernel))
    options |= {"groups": channels, "bias": False, "tensors": {"weight": weight}}
    layer = b.module(nn.ConvTranspose2d, channels * each, channels, kernel, **options)
    index = b.in_shape(value, (channels * each, *counts), node)
    return Value(b.vertex(layer, (index,), size[-3:], node), size)


RULES = {
    "linear": _linear,
    "col2im": _folded,
    "bilinear": _bilinear,
    "addmm": _add_matrix_product,
    "baddbmm": _add_matrix_product,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _matmul),
    "scaled_dot_product_attention": attention.fused,
    **dict.fromkeys(("convolution", "conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
}

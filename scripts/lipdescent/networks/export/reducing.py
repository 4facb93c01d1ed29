"""Pools, resampling, softmax, sums and means."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.export.elementwise import extremum, multiply, scaled
from lipdescent.networks.export.normalising import example_of
from lipdescent.networks.export.rearranging import as_value
from lipdescent.networks.graph import Combination, Concatenation
from lipdescent.networks.operations import Function, Reduce
from lipdescent.networks.vertices import Value, axis_of, shape_of

Arguments = dict[str, Any]
Rule = Callable[[Builder, fx.Node, Arguments], Any]


def _pool(kind: str, dims: int, *names: str) -> Rule:
    """A layer of ``torch.nn`` of this name, with the arguments of these names."""

    def rule(b: Builder, node: fx.Node, a: Arguments) -> Any:
        options = {n: _each(a[n], dims) for n in names if n in a and a[n] not in ([], None)}
        layer = b.module(getattr(nn, f"{kind}{dims}d"), **options)
        several = isinstance(node.meta["val"], (tuple, list))
        value, size = a["self"], size_of(node, 0 if several else None)
        if len(value.size) == dims + 2:
            example_of(node, value, "a pool")
        shapes = [s if len(s) == dims + 1 else s[1:] for s in (value.size, size)]
        index = b.in_shape(value, shapes[0], node)
        found = Value(b.vertex(layer, (index,), shapes[1], node), size)
        return [found, None] if several else found

    return rule


def _each(given: Any, dims: int) -> Any:
    """One number per axis."""
    return tuple(given) * (dims // len(given)) if isinstance(given, (list, tuple)) else given


def _upsample(mode: str) -> Rule:
    def rule(b: Builder, node: fx.Node, a: Arguments) -> Value:
        value, size = a[next(n for n in ("input", "self") if n in a)], size_of(node)
        shape = example_of(node, value, "resampling")
        scales = a.get("scale_factors") or [
            a[n] for n in ("scales_d", "scales_h", "scales_w", "scales") if a.get(n)
        ]
        exact = [s * n == m for s, n, m in zip(scales, shape[1:], size[2:], strict=False)]
        options: Arguments = {"mode": mode, "align_corners": a.get("align_corners")}
        if scales and not all(exact):
            options["scale_factor"] = tuple(scales)
        else:
            options["size"] = tuple(size[2:])
        return b.apply(b.module(nn.Upsample, **options), value, size, node)

    return rule


def _softmax(kind: type[nn.Module]) -> Rule:
    def rule(b: Builder, node: fx.Node, a: Arguments) -> Value:
        value = a["self"]
        axis = axis_of(value.size, a["dim"])
        if axis < 0:
            raise refused(node, "softmax over the examples")
        return b.apply(b.module(kind, axis + 1), value, value.size, node)

    return rule


def _axes(node: fx.Node, value: Value, a: Arguments) -> list[int]:
    """Axes of the vertex's shape that an operation reduces; the example's own is left out."""
    dims = a.get("dim", a.get("dims"))
    if dims is None or dims == []:
        dims = range(len(value.size))
    dims = [dims] if isinstance(dims, int) else dims
    return sorted({axis for axis in (axis_of(value.size, d) for d in dims) if axis >= 0})


def reduced(b: Builder, node: fx.Node, kind: str, value: Value, axes: Sequence[int]) -> int:
    """The vertex without these axes of a value's shape."""
    shape = shape_of(value.size)
    axes = [axis for axis in axes if shape[axis] > 1]
    index = b.in_shape(value, shape, node)
    if not axes:
        if kind == "length":
            return b.entrywise(b.module(Function, "abs"), Value(index, shape), node).vertex
        return index
    if kind == "mean" and len(shape) in (3, 4) and tuple(axes) == tuple(range(1, len(shape))):
        pool = nn.AdaptiveAvgPool2d if len(shape) == 3 else nn.AdaptiveAvgPool3d
        out = (shape[0], *[1] * len(axes))
        return b.vertex(b.module(pool, 1), (index,), out, node)
    left = tuple(n for i, n in enumerate(shape) if i not in axes)
    return b.vertex(b.module(Reduce, kind, tuple(axes)), (index,), left or (1,), node)


def _reduction(kind: str) -> Rule:
    def rule(b: Builder, node: fx.Node, a: Arguments) -> Any:
        if "other" in a:  # of two values, which has the same name
            return extremum(b, node, a, largest=kind == "max")
        several = isinstance(node.meta["val"], (tuple, list))
        value = a["self"]
        index = reduced(b, node, kind, value, _axes(node, value, a))
        found = Value(index, size_of(node, 0 if several else None))
        return [found, None] if several else found

    return rule


def _log_of_sum(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """``logaddexp``: log-sum-exp of two values side by side."""
    size = size_of(node)
    parts = [
        b.expanded(p if isinstance(p, Value) else as_value(b, node, p, like), size, node)
        for p, like in ((a["self"], a["other"]), (a["other"], a["self"]))
    ]
    shape = shape_of(size)
    inputs = [b.in_shape(part, (1, *shape), node) for part in parts]
    both = b.vertex(Concatenation(0), inputs, (2, *shape), node)
    layer = b.module(Reduce, "logsumexp", (0,))
    return Value(b.vertex(layer, (both,), shape, node), size)


def _running_sum(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """``cumsum``: a triangle of ones times the axis."""
    value, dim = a["self"], a["dim"] % len(a["self"].size)
    places = torch.arange(math.prod(value.size)).reshape(value.size).movedim(dim, -1)
    turned = b.gathered(value, places.contiguous(), node)
    ones = torch.ones(value.size[dim], value.size[dim], dtype=torch.get_default_dtype()).tril()
    weight = Constant(ones, lambda c: ones, ("running sum", value.size[dim]))
    layer = b.module(nn.Linear, *ones.shape, False, tensors={"weight": weight})
    total = b.apply(layer, turned, turned.size, node)
    return b.gathered(total, places.flatten().argsort().reshape(value.size), node)


def _length(b: Builder, node: fx.Node, a: Arguments) -> Value:
    order = a.get("ord", a.get("p"))
    order = 2 if order is None else float(order)
    value, axes = a["self"], _axes(node, a["self"], a)
    if order == 2:
        return Value(reduced(b, node, "length", value, axes), size_of(node))
    if order not in (1, math.inf):
        raise refused(node, f"a norm of order {order}; known are 1, 2 and inf")
    sizes = b.entrywise(b.module(Function, "abs"), value, node)
    return Value(reduced(b, node, "sum" if order == 1 else "max", sizes, axes), size_of(node))


def _distances(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """``cdist``: the lengths of all differences."""
    parts = [a["x1"], a["x2"]]
    like = next(part for part in parts if isinstance(part, Value))
    size = (*size_of(node), like.size[-1])
    pair = []
    for part, new in zip(parts, (-2, -3), strict=True):
        value = part if isinstance(part, Value) else as_value(b, node, part, like)
        value = Value(value.vertex, tuple(torch.empty(value.size).unsqueeze(new).shape))
        pair.append(b.in_shape(b.expanded(value, size, node), shape_of(size), node))
    order = float(a.get("p", 2.0))
    shape = shape_of(size)
    apart = Value(b.vertex(Combination((1.0, -1.0)), pair, shape, node), size)
    return _length(b, node, {"self": apart, "ord": order, "dim": [len(size) - 1]})


def _variance(root: bool) -> Rule:
    """Mean of the squares of what is left when the mean is taken off."""

    def rule(b: Builder, node: fx.Node, a: Arguments) -> Value:
        value, axes = a["self"], _axes(node, a["self"], a)
        count = math.prod(shape_of(value.size)[axis] for axis in axes)
        correction = a.get("correction", 1 if a.get("unbiased", True) else 0)
        correction = 1 if correction is None else correction
        kept = list(shape_of(value.size))
        for axis in axes:
            kept[axis] = 1
        strip = len(value.size) - len(kept)
        size = (*value.size[:strip], *kept)
        mean = Value(reduced(b, node, "mean", value, axes), size)
        full = b.expanded(mean, value.size, node)
        inputs = [b.in_shape(v, shape_of(value.size), node) for v in (value, full)]
        shape = shape_of(value.size)
        centred = Value(b.vertex(Combination((1.0, -1.0)), inputs, shape, node), value.size)
        squares = b.entrywise(b.module(Function, "square"), centred, node)
        found = Value(reduced(b, node, "mean", squares, axes), size_of(node))
        if correction:
            found = scaled(b, node, found, count / (count - correction))
        return b.entrywise(b.module(Function, "sqrt"), found, node) if root else found

    return rule


def _declared(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """A layer of which a user has declared the constant."""
    value, size = a["x"], size_of(node)
    constants = a["tensors"]
    shape = example_of(node, value, "a declared layer")
    if any(isinstance(c, Value) for c in constants) or size[:1] != (1,):
        raise refused(
            node, "a declared layer whose weights depend on the input, or of mixed examples"
        )
    return b.apply(b.leaf(a["number"], constants), value, size, node, shape=shape)


def _gated(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """a sigmoid(b), of two halves."""
    value = a["self"]
    dim = a["dim"] % len(value.size)
    places = torch.arange(math.prod(value.size)).reshape(value.size)
    one, other = (b.gathered(value, part, node) for part in places.chunk(2, dim))
    gate = b.entrywise(b.module(nn.Sigmoid), other, node)
    return multiply(b, node, {"self": one, "other": gate})


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

RULES: dict[str, Rule] = {
    **{f"max_pool{d}d": _pool("MaxPool", d, *_MAX) for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": _pool("MaxPool", d, *_MAX) for d in (1, 2, 3)},
    "avg_pool1d": _pool("AvgPool", 1, *_AVERAGE),
    **{f"avg_pool{d}d": _pool("AvgPool", d, *_AVERAGE, "divisor_override") for d in (2, 3)},
    **{f"adaptive_avg_pool{d}d": _pool("AdaptiveAvgPool", d, "output_size") for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": _pool("AdaptiveMaxPool", d, "output_size") for d in (1, 2, 3)},
    **{f"upsample_nearest{d}d": _upsample("nearest") for d in (1, 2, 3)},
    **{f"_upsample_nearest_exact{d}d": _upsample("nearest-exact") for d in (1, 2, 3)},
    "upsample_linear1d": _upsample("linear"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "upsample_bicubic2d": _upsample("bicubic"),
    "upsample_trilinear3d": _upsample("trilinear"),
    **dict.fromkeys(("softmax", "_softmax"), _softmax(nn.Softmax)),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax(nn.LogSoftmax)),
    "mean": _reduction("mean"),
    "sum": _reduction("sum"),
    "amax": _reduction("max"),
    "amin": _reduction("min"),
    "max": _reduction("max"),
    "min": _reduction("min"),
    "logsumexp": _reduction("logsumexp"),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _length),
    "cdist": _distances,
    "var": _variance(root=False),
    "std": _variance(root=True),
    "logaddexp": _log_of_sum,
    "cumsum": _running_sum,
    "glu": _gated,
    "declared": _declared,
}

"""Operations that only move numbers around: views, slices, permutations, copies, pads."""

from typing import Any

import torch
from torch import Tensor, fx

from lipdescent.networks.export import sorting
from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.graph import Concatenation
from lipdescent.networks.vertices import Value, axis_of, shape_of

Arguments = dict[str, Any]


def rearranged(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """Whatever the operation does with the places of the numbers, it does with these numbers."""
    (name,) = (n for n, arg in a.items() if isinstance(arg, Value))
    return _of_places(b, node, a[name], a)


def _of_places(b: Builder, node: fx.Node, value: Value, a: Arguments, fill: float = 0.0) -> Any:
    places = torch.arange(1, 1 + _count(value.size)).reshape(value.size)

    def argument(arg: Any) -> Any:
        if isinstance(arg, Value):
            return places
        if isinstance(arg, (list, tuple)):
            return type(arg)(map(argument, arg)) if not isinstance(arg, Value) else places
        return b.settle(arg).cpu() if isinstance(arg, Constant) else arg

    target: Any = node.target
    found = target(**{name: argument(arg) for name, arg in a.items()})
    if isinstance(found, (list, tuple)):
        return [b.gathered(value, part - 1, node, fill) for part in found]
    return b.gathered(value, found - 1, node, fill)


def merged(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """Numbers of several values, of which the operation takes these from one, those from another.

    Side by side they are one value, of which the operation is asked where it takes its numbers.
    """
    names = [name for name in ("self", "src", "other", "values", "source") if name in a]
    like = next(a[name] for name in names if isinstance(a[name], Value))
    places, inputs, start = {}, [], 1
    for name in names:
        part = a[name] if isinstance(a[name], Value) else as_value(b, node, a[name], like)
        count = _count(part.size)
        places[name] = torch.arange(start, start + count).reshape(part.size)
        inputs.append(b.in_shape(part, (count,), node))
        start += count
    given = {n: _plain(b, arg) for n, arg in a.items() if n not in places}
    target: Any = node.target
    found = target(**(given | places))
    both = Value(b.vertex(Concatenation(0), inputs, (start - 1,), node), (1, start - 1))
    return b.gathered(both, found - 1, node)


def _plain(b: Builder, arg: Any) -> Any:
    """Tensors in place of constants, also in lists."""
    if isinstance(arg, (list, tuple)) and not isinstance(arg, Value):
        return [_plain(b, part) for part in arg]
    return b.settle(arg).cpu() if isinstance(arg, Constant) else arg


def put(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """Numbers, or values, where a constant index says."""
    places = a["indices"] if "indices" in a else [a["index"]]
    if any(isinstance(place, Value) for place in places):
        raise refused(node, f"{node.target} where the input says (jumps)")
    if a.get("accumulate"):
        raise refused(node, f"{node.target} with accumulate=True; without it is read")
    if "value" not in a:
        return merged(b, node, a)
    fill, zero = _filling(b, a["value"])
    if isinstance(fill, Value):
        raise refused(node, f"{node.target} by a number of the input; a tensor of its size is read")
    return _of_places(b, node, a["self"], {**a, "value": zero}, float(fill))


def _filling(b: Builder, value: Any) -> tuple[Any, Any]:
    """The number that is written, and what stands for place 0 in the operation's own form."""
    return (b.settle(value).item(), torch.tensor(0)) if isinstance(value, Constant) else (value, 0)


def copied(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """What is copied, in the size and the type of what it is copied to."""
    value = a["src"] if "src" in a else a["value"]
    _check_type(b, node, node.args[1])
    return shown_as(b, node, {"self": value})


def padded(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """A pad; of a constant, which stands for place 0."""
    fill = a.get("value")
    if "value" in a:
        a = {**a, "value": 0}
    return _of_places(b, node, a["self"], a, float(fill or 0.0))


def masked(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """``masked_fill`` by a number, where a constant says."""
    (fill, zero), mask = _filling(b, a["value"]), a["mask"]
    if not isinstance(a["self"], Value) or not isinstance(mask, Constant):
        raise refused(node, "masked_fill where the input says (jumps)")
    if fill == float("inf"):  # minus infinity is what a softmax leaves out
        raise refused(node, "masked_fill by inf")
    return _of_places(b, node, a["self"], {**a, "value": zero}, float(fill))


def concatenated(b: Builder, node: fx.Node, a: Arguments) -> Value:
    return joined(b, node, a["tensors"], a.get("dim", 0))


def stacked(b: Builder, node: fx.Node, a: Arguments) -> Value:
    parts, dim = a["tensors"], a.get("dim", 0)

    def longer(part: Any) -> Any:
        if isinstance(part, Constant):
            return part.map(lambda t: t.unsqueeze(dim), ("unsqueeze", dim))
        where = dim % (len(part.size) + 1)
        return Value(part.vertex, (*part.size[:where], 1, *part.size[where:]))

    return joined(b, node, [longer(part) for part in parts], dim)


def shown_as(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """A value in the size of another one."""
    value = a["self"]
    if not isinstance(value, Value):
        raise refused(node, "a constant in the size of a value")
    return b.expanded(value, size_of(node), node)


def side_by_side(b: Builder, node: fx.Node, a: Arguments) -> Value:
    """``hstack`` and the like of parts that have the axis."""
    dim = 0 if "vstack" in str(node.target) else 1
    parts = a["tensors"]
    if any(len(p.size if isinstance(p, Value) else p.value.shape) <= 1 for p in parts):
        raise refused(node, f"{node.target} of vectors without an axis for the examples")
    return joined(b, node, parts, dim)


def joined(b: Builder, node: fx.Node, parts: list, dim: int) -> Value:
    """Values and constants side by side."""
    size = size_of(node)
    parts = [p for p in parts if not _empty(p)]
    like = next(part for part in parts if isinstance(part, Value))
    parts = [p if isinstance(p, Value) else as_value(b, node, p, like) for p in parts]
    if len(parts) == 1:
        return Value(parts[0].vertex, size)
    strip = shape_of(size) != size
    shapes = [part.size[1:] if strip else part.size for part in parts]
    inputs = [b.in_shape(p, shape, node) for p, shape in zip(parts, shapes, strict=True)]
    axis = axis_of(size, dim)
    if (both := sorting.pair(b, node, inputs, axis)) is not None:
        return Value(both, size)
    inputs = _nested(b, inputs, axis, node)
    if len(inputs) == 1:
        return Value(inputs[0], size)
    return Value(b.vertex(Concatenation(axis), inputs, shape_of(size), node), size)


def _nested(b: Builder, inputs: list[int], axis: int, node: fx.Node) -> list[int]:
    """With the longest beginning that is a concatenation already as one, as in a DenseNet."""
    for end in range(len(inputs), 1, -1):
        for i, vertex in enumerate(b.vertices):
            if vertex.operation == Concatenation(axis) and _leaves(b, i, axis) == inputs[:end]:
                return [i, *inputs[end:]]
    return inputs


def _leaves(b: Builder, index: int, axis: int) -> list[int]:
    vertex = b.vertices[index]
    if vertex.operation != Concatenation(axis):
        return [index]
    return [leaf for i in vertex.inputs for leaf in _leaves(b, i, axis)]


def as_value(b: Builder, node: fx.Node, constant: Constant, like: Value) -> Value:
    """A constant as what no input changes: zeros of its shape, and it added."""
    from lipdescent.networks.export.elementwise import shifted

    zeros = b.gathered(like, torch.full(tuple(constant.value.shape), -1), node)
    return shifted(b, node, zeros, constant)


def _empty(part: Any) -> bool:
    return isinstance(part, Constant) and not part.value.numel()


def _count(size: tuple[int, ...]) -> int:
    return int(torch.Size(size).numel())


def cast(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """To another type of real numbers: bounds are of the network without its rounding."""
    _check_type(b, node, node.args[0])
    return next(arg for arg in a.values() if isinstance(arg, Value))


def _check_type(b: Builder, node: fx.Node, source: Any) -> None:
    before, after = source.meta["val"], node.meta["val"]
    if isinstance(before, Tensor) and before.dtype != after.dtype:
        if not after.is_floating_point():
            raise refused(node, f"a cast to {after.dtype} rounds to whole numbers, which jumps")
        b.notes[f"a cast to {after.dtype} is left out: bounds are of the function not rounded"] = (
            None
        )


def same(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """Nothing, in eval mode."""
    if a.get("train"):
        raise refused(node, "dropout in training")
    return next(arg for arg in a.values() if isinstance(arg, Value))


# Views, copies and choices of numbers.
_MOVING = (
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten"),
    *("squeeze", "unsqueeze", "transpose", "t", "permute", "movedim", "swapaxes", "swapdims"),
    *("mT", "numpy_T", "expand", "repeat", "tile", "repeat_interleave"),
    *("slice", "select", "index", "index_select", "narrow", "gather", "take_along_dim"),
    *("split", "split_with_sizes", "chunk", "unbind", "unsafe_chunk", "unsafe_split"),
    *("tensor_split", "hsplit", "flip", "fliplr", "flipud", "roll", "rot90", "diagonal"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
    *("im2col", "unfold", "tril", "triu"),
)
_PADS = (
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
)
_NOTHING = (
    *("clone", "contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy", "positive"),
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
)

RULES = {
    **dict.fromkeys(_MOVING, rearranged),
    **dict.fromkeys(_PADS, padded),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenated),
    "stack": stacked,
    **dict.fromkeys(("copy", "fill"), copied),
    **dict.fromkeys(("slice_scatter", "select_scatter", "diagonal_scatter"), merged),
    **dict.fromkeys(("index_put", "index_fill", "index_copy", "scatter"), put),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), shown_as),
    **dict.fromkeys(("hstack", "vstack", "column_stack"), side_by_side),
    **dict.fromkeys(_NOTHING, same),
}

"""``where`` and what is written like it, and why what jumps or picks by the input is refused."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.export.elementwise import extremum, multiply, scaled, shifted
from lipdescent.networks.export.rearranging import cast, masked, merged
from lipdescent.networks.vertices import Value
from lipdescent.networks.written_out import affine_of

Arguments = dict[str, Any]
_TAKEN_BY = ("where", "masked_fill", "mul", "multiply")  # what takes a comparison
_CASTS = ("to", "_to_copy", "type_as")
Piece = tuple[Fraction, Fraction]  # a, b of the line a x + b

_JUMPS = (
    *("round", "floor", "ceil", "trunc", "frac", "heaviside", "fmod", "remainder"),
    *("argmax", "argmin", "argsort", "topk", "bucketize", "searchsorted", "floor_divide"),
    *("masked_select", "nonzero", "isnan", "isinf", "equal", "logical_and"),
    *("logical_not", "logical_or", "bitwise_and", "bitwise_not", "bitwise_or"),
)
_COMPLEX = ("view_as_complex", "complex", "polar", "view_as_real", "angle")


class Comparison(NamedTuple):
    """Whether a value is larger (or smaller) than a number, a constant or another value."""

    value: Value
    larger: bool
    than: Any


def reason(name: str) -> str | None:
    """Why an operation of this name is not read, or None where there is nothing to say of it."""
    if name.removesuffix("_") in _JUMPS:
        return (
            "jumps or picks by values of the input, where no Lipschitz constant is known; relu, "
            "clamp, maximum, sort and softmax have one"
        )
    if name.startswith("fft_") or name in _COMPLEX:
        return (
            "gives complex numbers, which are not read; a discrete Fourier transform as two real "
            "matrices, or the real and the imaginary part side by side, is"
        )
    return None


def compared(larger: bool) -> Any:
    """``x > a``, for what chooses by it; others jump."""

    def rule(b: Builder, node: fx.Node, a: Arguments) -> Comparison:
        value, other = a["self"], a["other"]
        if not all(map(_chooses, node.users)):
            raise refused(node, f"the operation {node.target} {reason('round')}")
        if not isinstance(value, Value):  # c > x is x < c
            return Comparison(other, not larger, value)
        return Comparison(value, larger, other)

    return rule


def _chooses(node: fx.Node) -> bool:
    name = _name(node).removesuffix("_")
    known = name in _TAKEN_BY or name == "_assert_tensor_metadata"
    return known or (name in _CASTS and all(map(_chooses, node.users)))


def _number(b: Builder, x: Any) -> Any:
    """The number that a constant is everywhere; other constants and values as they are."""
    if not isinstance(x, Constant):
        return float(x) if isinstance(x, (int, float)) else x
    numbers = x.value.unique()
    return float(b.settle(x).flatten()[0]) if len(numbers) == 1 else x


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "_overloadpacket", node.target)).rpartition(".")[2]


def chosen(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """``where`` a constant says: of two values, numbers or constants."""
    mask, parts = a["condition"], [a["self"], a["other"]]
    if isinstance(mask, Comparison):
        return b.expanded(_bent(b, node, mask, parts), size_of(node), node)
    if not isinstance(mask, Constant):
        raise refused(node, "where, as the input says (jumps)")
    size = size_of(node)
    keep = b.settle(mask).cpu().expand(size)
    for i, part in enumerate(parts):
        if isinstance(part, Value) or (isinstance(part, Constant) and b.is_held(part)):
            continue
        number = part.value.unique() if isinstance(part, Constant) else torch.tensor([part])
        if len(number) == 1:
            value = b.expanded(parts[1 - i], size, node)
            places = torch.arange(math.prod(size)).reshape(size)
            index = torch.where(keep if i else ~keep, places, -1)
            if float(number) == math.inf:
                raise refused(node, "where with inf")
            return b.gathered(value, index, node, float(number))
    return merged(b, node, a)


def _bent(b: Builder, node: fx.Node, mask: Comparison, parts: list[Any]) -> Value:
    """``where(x > t, a x + b, c x + d)`` that does not jump, and of two values the larger.

    ``where(x > 20, x, softplus(x))``, as exporters write it, is ``nn.Softplus``.
    """
    above, below = parts if mask.larger else reversed(parts)
    x, than = mask.value, mask.than
    if not isinstance(than, Constant) or not b.is_held(than):
        than = _number(b, than)
    for largest in (True, False):
        ends = (x, than) if largest else (than, x)
        if all(_same(b, one, end) for one, end in zip((above, below), ends, strict=True)):
            return extremum(b, node, {"self": x, "other": than}, largest)
    if (
        isinstance(below, Value)
        and isinstance(above, Value)
        and _is_softplus(b, mask, below, above)
    ):
        return below  # as PyTorch's own is x from there on
    pieces, than = [_piece(b, x, part) for part in (above, below)], _number(b, than)
    if not isinstance(than, float) or None in pieces or not math.isfinite(than):
        raise refused(
            node,
            "where, as the input says: it may jump; where(x > t, a * x + b, c * x + d) with "
            "numbers that agree at t is read, and so are relu, clamp and maximum",
        )
    return _of_pieces(b, node, x, Fraction(than), *pieces)  # type: ignore[arg-type]


def _of_pieces(
    b: Builder, node: fx.Node, x: Value, at: Fraction, above: Piece, below: Piece
) -> Value:
    """The function of two lines: f(at) + c leaky(x - at), or of at - x where it is flat above."""
    ends = [a * at + shift for a, shift in (above, below)]
    if ends[0] != ends[1]:
        raise refused(
            node,
            f"where jumps at {float(at):g}, from {float(ends[1]):g} to {float(ends[0]):g} (by "
            f"{float(ends[0] - ends[1]):.3g}): it is not Lipschitz, no constant exists",
        )
    flat = not above[0]
    steep, ratio = (-below[0], Fraction(0)) if flat else (above[0], below[0] / above[0])
    if any(Fraction(float(number)) != number for number in (steep, ratio, ends[0])):
        raise refused(node, "where of two lines whose slopes have no ratio in float64")
    x = shifted(b, node, scaled(b, node, x, -1.0 if flat else 1.0), float(at if flat else -at))
    layer = b.module(nn.LeakyReLU, float(ratio)) if ratio else b.module(nn.ReLU)
    x = scaled(b, node, b.entrywise(layer, x, node), float(steep))
    return shifted(b, node, x, float(ends[0]))


def _same(b: Builder, one: Any, other: Any) -> bool:
    """Whether two numbers, constants or values are the same."""
    if isinstance(one, Value) and isinstance(other, Value):
        return one.size == other.size and b.unviewed(one.vertex) == b.unviewed(other.vertex)
    if isinstance(one, Constant) and isinstance(other, Constant):
        if one.key == other.key:
            return True
        if torch.equal(one.value, other.value):
            return torch.equal(b.settle(one), b.settle(other))
    one, other = _number(b, one), _number(b, other)
    return isinstance(one, float) and isinstance(other, float) and one == other


def _is_softplus(b: Builder, mask: Comparison, below: Value, above: Value) -> bool:
    """Whether it goes on as x where PyTorch's softplus, of threshold 20, is x."""
    own = b.vertices[b.unviewed(below.vertex)]
    x = b.unviewed(mask.value.vertex)
    if not isinstance(own.operation, nn.Softplus) or b.unviewed(above.vertex) != x:
        return False
    known = b.unviewed(own.inputs[0]) == x and own.operation.beta == 1 and mask.larger
    return known and own.operation.threshold == _number(b, mask.than)


def _piece(b: Builder, x: Value, part: Any) -> Piece | None:
    """a and b of ``part`` = a x + b; None if it is nothing such."""
    part = _number(b, part)
    if isinstance(part, float):
        return (Fraction(0), Fraction(part)) if math.isfinite(part) else None
    if not isinstance(part, Value) or part.size != x.size:
        return None
    own = b.unviewed(x.vertex)
    lines = affine_of(b.vertices, part.vertex)
    return next(((a, shift) for i, a, shift in lines if b.unviewed(i) == own), None)


def _filled(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """``masked_fill``, where a constant or a comparison says."""
    if isinstance(a["mask"], Comparison):
        own = {"condition": a["mask"], "self": a["value"], "other": a["self"]}
        return chosen(b, node, own)
    return masked(b, node, a)


def _product(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """x (x > 0) is x where x > 0, else 0."""
    for one, other in (("self", "other"), ("other", "self")):
        if isinstance(a[one], Comparison):
            return chosen(b, node, {"condition": a[one], "self": a[other], "other": 0.0})
    return multiply(b, node, a)


def _cast(b: Builder, node: fx.Node, a: Arguments) -> Any:
    return a["self"] if isinstance(a["self"], Comparison) else cast(b, node, a)


RULES = {
    "where": chosen,
    **dict.fromkeys(_CASTS, _cast),
    "masked_fill": _filled,
    **dict.fromkeys(("mul", "multiply"), _product),
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal"), compared(larger=True)),
    **dict.fromkeys(("lt", "le", "less", "less_equal"), compared(larger=False)),
}

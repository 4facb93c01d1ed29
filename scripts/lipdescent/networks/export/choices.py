"""``where``, and why what jumps or picks by the input is refused."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import fx, nn

from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.export.rearranging import merged
from lipdescent.networks.operations import Scale
from lipdescent.networks.vertices import Value

Arguments = dict[str, Any]

_JUMPS = (
    *("round", "floor", "ceil", "trunc", "frac", "heaviside", "fmod", "remainder"),
    *("argmax", "argmin", "argsort", "topk", "bucketize", "searchsorted", "floor_divide"),
    *("index_put", "masked_select", "nonzero", "isnan", "isinf", "equal", "logical_and"),
    *("logical_not", "logical_or", "bitwise_and", "bitwise_not", "bitwise_or"),
)
_COMPLEX = ("view_as_complex", "complex", "polar", "view_as_real", "angle")


class Comparison(NamedTuple):
    """Whether a value is larger (or smaller) than a number."""

    value: Value
    larger: bool
    than: float


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
    """``x > a``, for ``where`` alone; others jump."""

    def rule(b: Builder, node: fx.Node, a: Arguments) -> Comparison:
        value, other = a["self"], a["other"]
        numbers = other.value.unique() if isinstance(other, Constant) else torch.tensor([other])
        taken = all(_name(user) == "where" for user in node.users)
        if not isinstance(value, Value) or len(numbers) != 1 or not taken:
            raise refused(node, f"the operation {node.target} {reason('round')}")
        return Comparison(value, larger, float(numbers))

    return rule


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "_overloadpacket", node.target)).rpartition(".")[2]


def chosen(b: Builder, node: fx.Node, a: Arguments) -> Any:
    """``where`` a constant says: of two values, numbers or constants."""
    mask, parts = a["condition"], [a["self"], a["other"]]
    if isinstance(mask, Comparison):
        return _leaky(b, node, mask, parts)
    if not isinstance(mask, Constant):
        raise refused(node, "where, as the input says (jumps)")
    size = size_of(node)
    keep = mask.value.cpu().expand(size)
    for i, part in enumerate(parts):
        if isinstance(part, Value):
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


def _leaky(b: Builder, node: fx.Node, mask: Comparison, parts: list[Any]) -> Value:
    """``where(x > 0, x, a x)``: a ReLU or leaky ReLU; anything else may jump.

    ``where(x > 20, x, softplus(x))``, as exporters write it, is ``nn.Softplus``.
    """
    above, below = parts if mask.larger else reversed(parts)
    x = mask.value
    if (
        isinstance(below, Value)
        and isinstance(above, Value)
        and _is_softplus(b, mask, below, above)
    ):
        return below  # as PyTorch's own is x from there on
    slopes = [_slope(b, x, part) for part in (above, below)]
    if slopes[0] != 1 or slopes[1] is None or mask.than:
        raise refused(
            node,
            "where, as the input says: it may jump; where(x > 0, x, a * x) with a number a is "
            "read, and so are relu, clamp and maximum",
        )
    layer = b.module(nn.LeakyReLU, slopes[1]) if slopes[1] else b.module(nn.ReLU)
    return b.entrywise(layer, x, node)


def _is_softplus(b: Builder, mask: Comparison, below: Value, above: Value) -> bool:
    """Whether it goes on as x where PyTorch's softplus, of threshold 20, is x."""
    own = b.vertices[b.unviewed(below.vertex)]
    x = b.unviewed(mask.value.vertex)
    if not isinstance(own.operation, nn.Softplus) or b.unviewed(above.vertex) != x:
        return False
    known = b.unviewed(own.inputs[0]) == x and own.operation.beta == 1 and mask.larger
    return known and own.operation.threshold == mask.than


def _slope(b: Builder, x: Value, part: Any) -> float | None:
    """The number that ``part`` is x times; None if it is not."""
    if isinstance(part, Constant):
        return None if bool(part.value.any()) else 0.0
    if not isinstance(part, Value) or part.size != x.size:
        return None
    own, vertex = b.unviewed(x.vertex), b.vertices[b.unviewed(part.vertex)]
    if b.unviewed(part.vertex) == own:
        return 1.0
    scaled = isinstance(vertex.operation, Scale) and vertex.operation.weight is None
    if scaled and b.unviewed(vertex.inputs[0]) == own:
        return float(cast(Scale, vertex.operation).number)
    return None


RULES = {
    "where": chosen,
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal"), compared(larger=True)),
    **dict.fromkeys(("lt", "le", "less", "less_equal"), compared(larger=False)),
}

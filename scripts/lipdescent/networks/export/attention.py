"""Attention, fused or written out: softmax(scale q k' + bias) v as one vertex.

Written out it is seen from its last product back: whatever stands between the softmax and the
product of queries and keys is a factor of rows, which goes to the queries, exactly ((s q) k' =
s (q k')), a bias of positions, or a mask. Anything else leaves the products what they are.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lipdescent.networks.export.builder import Builder, Constant, refused, size_of
from lipdescent.networks.export.elementwise import finite, shifted
from lipdescent.networks.export.rearranging import as_value
from lipdescent.networks.graph import Attention, Combination, MatrixProduct, Vertex
from lipdescent.networks.operations import Divide, Gather, Scale, Shift
from lipdescent.networks.vertices import Value, shape_of

Shape = tuple[int, ...]


class Factor(NamedTuple):
    """What rows are multiplied by, or divided."""

    kind: type[Scale] | type[Divide]
    by: Constant | float


@dataclass
class _Scores:
    """What stands between a softmax and the product that it is of.

    Attributes
    ----------
    product : the vertex of queries times keys.
    scale, factors : of the rows.
    biases : constants or vertices, and the factors that come after them, the last one first.
    kept : bool, keys that a mask leaves.
    """

    product: Vertex
    scale: float = 1.0
    factors: list[Factor] = field(default_factory=list)
    biases: list[tuple[Vertex | Constant | float, list[Factor]]] = field(default_factory=list)
    kept: Tensor | None = None


def recognised(b: Builder, node: fx.Node, inputs: list[int], size: Shape) -> Value | None:
    """The attention that the product of two vertices is, or None."""
    softmax = b.vertices[b.unviewed(inputs[0])]
    if type(softmax.operation) is not nn.Softmax or len(softmax.shape) < 2:
        return None
    shape = b.vertices[inputs[0]].shape
    last = softmax.operation.dim in (-1, len(softmax.shape))
    found = _scores(b, softmax.inputs[0]) if last and softmax.shape[-2:] == shape[-2:] else None
    if found is None or found.product.shape[-2:] != shape[-2:]:
        return None
    q, turned = found.product.inputs
    k = b.swapped(Value(turned, b.vertices[turned].shape), node)
    shapes = [b.vertices[i].shape for i in (q, turned, inputs[1])]
    lead = found.product.shape[:-2]
    if {math.prod(s[:-2]) for s in shapes} != {math.prod(lead)}:
        return None
    wide = shapes[0][-1]
    query = _scaled_rows(b, node, Value(q, (*lead, shape[-2], wide)), found.factors)
    parts = [(query, shape[-2], wide), (k, shape[-1], wide)]
    parts.append((Value(inputs[1], shapes[2]), shapes[2][-2], shapes[2][-1]))
    taken = [b.in_shape(value, (*lead, n, d), node) for value, n, d in parts]
    bias = _bias(b, node, found, Value(q, shapes[0]))
    if bias is not None:
        taken.append(bias)
    out = (*lead, shape[-2], shapes[2][-1])
    return Value(b.vertex(Attention(found.scale), taken, out, node), size)


def _scores(b: Builder, at: int) -> _Scores | None:
    """From what a softmax takes back to a product; None where something else is between."""
    found = _Scores(b.vertices[0])
    ends = b.vertices[b.unviewed(at)].shape[-2:]
    while True:
        index = b.unviewed(at)
        vertex = b.vertices[index]
        operation, shape = vertex.operation, vertex.shape
        if shape[-2:] != ends:
            return None
        if operation == MatrixProduct():
            found.product = vertex
            return found
        before = found.factors + ([] if found.scale == 1 else [Factor(Scale, found.scale)])
        if isinstance(operation, (Scale, Divide)) and _is_of_rows(operation):
            factor = _factor(b, operation, shape)
            if factor.kind is Scale and not isinstance(factor.by, Constant) and found.scale == 1:
                found.scale = factor.by
            else:
                found.factors = [*found.factors, factor]
        elif isinstance(operation, Shift):
            given: Constant | float = operation.number
            if operation.weight is not None:
                given = _spread(b.tensors[operation, "weight"], shape)
            found.biases.append((given, before))
        elif isinstance(operation, Gather) and _is_mask(operation, math.prod(shape)):
            if any(not _is_positive(factor) for factor in before):
                return None
            kept = (operation.index >= 0).flatten()
            found.kept = kept if found.kept is None else found.kept & kept
        elif operation == Combination((1.0, 1.0)):
            ways = [i for i in vertex.inputs if _leads_to_product(b, i)]
            if len(ways) != 1 or any(b.vertices[i].shape != shape for i in vertex.inputs):
                return None
            (other,) = (i for i in vertex.inputs if i != ways[0])
            found.biases.append((b.vertices[other], before))
            at = ways[0]
            continue
        else:
            return None
        at = vertex.inputs[0]


def _leads_to_product(b: Builder, at: int) -> bool:
    return _scores(b, at) is not None


def _is_of_rows(operation: Scale | Divide) -> bool:
    """Whether it multiplies each row of a matrix by a number, or divides it by one."""
    return operation.weight is None or not operation.shape or operation.shape[-1] == 1


def _is_mask(operation: Gather, count: int) -> bool:
    """Whether it only puts minus infinity in some places."""
    index = operation.index.flatten().to(torch.int64)
    same = (index < 0) | (index == torch.arange(len(index)))
    return operation.fill == -math.inf and len(index) == count and bool(same.all())


def _is_positive(factor: Factor) -> bool:
    by = factor.by
    return bool((by.value > 0).all()) if isinstance(by, Constant) else by > 0


def _spread(constant: Constant, shape: Shape) -> Constant:
    """Entry by entry of a vertex of this shape, flat."""
    return constant.map(lambda t: t.expand(shape).flatten(), ("flat", shape))


def _factor(b: Builder, operation: Scale | Divide, shape: Shape) -> Factor:
    """Of the rows of a vertex of this shape."""
    by: Constant | float = operation.number
    if operation.weight is not None:
        weight, rows = b.tensors[operation, "weight"], (*shape[:-1], 1)
        by = weight.map(lambda t: t.expand(rows).flatten(), ("rows", rows))
    return Factor(type(operation), by)


def _scaled_rows(b: Builder, node: fx.Node, value: Value, factors: list[Factor]) -> Value:
    """As they were applied: the last one that was found first."""
    rows = shape_of(value.size)[:-1]
    for factor in reversed(factors):
        by = factor.by
        if isinstance(by, Constant):
            own = by.map(lambda t: t.reshape(*rows, 1), ("as", rows))
            layer = b.module(factor.kind, (*rows, 1), tensors={"weight": own})
            value = b.apply(layer, value, value.size, node)
        elif by != 1:
            value = b.entrywise(b.module(factor.kind, None, by), value, node)
    return value


def _bias(b: Builder, node: fx.Node, found: _Scores, like: Value) -> int | None:
    """The vertex of all biases and masks, in the shape of the scores."""
    if not found.biases and found.kept is None:
        return None
    shape = found.product.shape
    zeros = Value(b.gathered(like, torch.full(shape, -1), node).vertex, shape)
    total = None
    for given, factors in reversed(found.biases):
        own = _scaled_rows(b, node, _one_bias(b, node, zeros, given), factors)
        if total is None:
            total = own
        else:
            inputs = [b.in_shape(value, shape, node) for value in (total, own)]
            total = Value(b.vertex(Combination((1.0, 1.0)), inputs, shape, node), shape)
    total = zeros if total is None else total
    if found.kept is not None and not bool(found.kept.all()):
        total = _left_out(b, node, total, found.kept.reshape(shape))
    return b.in_shape(total, shape, node)


def _one_bias(b: Builder, node: fx.Node, zeros: Value, given: Vertex | Constant | float) -> Value:
    shape = zeros.size
    if isinstance(given, Vertex):
        index = b.vertices.index(given)
        return Value(b.in_shape(Value(index, given.shape), shape, node), shape)
    if isinstance(given, Constant):
        given = given.map(lambda t: t.reshape(shape), ("as", shape))
    return Value(shifted(b, node, zeros, given).vertex, shape)


def _left_out(b: Builder, node: fx.Node, total: Value, kept: Tensor) -> Value:
    if not bool(kept.any(-1).all()):
        raise refused(node, "attention with a mask that leaves a query without keys")
    count = kept.numel()
    index = torch.where(kept.flatten(), torch.arange(count), -1).reshape(total.size)
    return b.gathered(total, index, node, -math.inf)


def fused(b: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    """``scaled_dot_product_attention``."""
    parts = [a["query"], a["key"], a["value"]]
    mask, scale = a.get("attn_mask"), a.get("scale")
    like = next(part for part in parts if isinstance(part, Value))
    if a.get("dropout_p"):
        raise refused(node, "attention with dropout")
    q, k, v = (p if isinstance(p, Value) else as_value(b, node, p, like) for p in parts)
    scale = 1 / math.sqrt(q.size[-1]) if scale is None else float(scale)
    if a.get("enable_gqa"):
        k, v = (_repeated(b, node, part, q.size[-3]) for part in (k, v))
    lead = torch.broadcast_shapes(q.size[:-2], k.size[:-2], v.size[:-2])
    taken = [b.expanded(part, (*lead, *part.size[-2:]), node) for part in (q, k, v)]
    between = shape_of((*lead, q.size[-2], k.size[-2]))
    inputs = [b.in_shape(part, shape_of(part.size), node) for part in taken]
    bias = _given_mask(b, node, mask, between, like, bool(a.get("is_causal")))
    if bias is not None:
        inputs.append(bias)
    size = size_of(node)
    return Value(b.vertex(Attention(scale), inputs, shape_of(size), node), size)


def _given_mask(
    b: Builder, node: fx.Node, mask: Any, shape: Shape, like: Value, causal: bool
) -> int | None:
    found = _Scores(Vertex(MatrixProduct(), (), shape))
    if causal:
        found.kept = torch.ones(shape[-2:], dtype=torch.bool).tril().expand(shape).flatten()
    if isinstance(mask, Value):
        size = mask.size
        lead = (1,) * (len(shape) - len(size)) if len(size) < len(shape) else ()
        size = (*lead, *size) if lead else size[len(size) - len(shape) :]
        found.biases.append((b.expanded(Value(mask.vertex, size), shape, node).vertex, []))
    elif mask is not None and mask.value.dtype == torch.bool:
        found.kept = _in_shape(b.settle(mask), shape).flatten()
    elif mask is not None:
        left = mask.value == -math.inf
        found.kept = _in_shape(~left, shape).flatten() & (
            torch.tensor(True) if found.kept is None else found.kept
        )
        flat = finite(mask).map(lambda t: _in_shape(t, shape).flatten(), ("in", shape))
        found.biases.append((flat, []))
    return _bias(b, node, found, like)


def _in_shape(t: Tensor, shape: Shape) -> Tensor:
    """Expanded to the scores' shape, which has no axis for the one example."""
    return t.reshape(t.shape[max(0, t.ndim - len(shape)) :]).expand(shape)


def _repeated(b: Builder, node: fx.Node, value: Value, heads: int) -> Value:
    """Heads of keys and values, each for as many heads of queries that follow each other."""
    places = torch.arange(math.prod(value.size)).reshape(value.size)
    index = places.repeat_interleave(heads // value.size[-3], -3)
    return b.gathered(value, index, node)

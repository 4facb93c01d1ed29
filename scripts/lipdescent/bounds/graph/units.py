"""Vectors divided by their length and a little more: ``F.normalize``, and by their deviation.

Of x (d numbers), for e > 0 and k > 0:

- x / max(|x|, e) is the projection on a ball, divided by e: where |x| >= e its Jacobian is
  (I - u u') / |x| with u = x / |x|, elsewhere I / e;
- that of x / (|x| + e) is I / (|x| + e) - |x| u u' / (|x| + e)^2, eigenvalues 1 / (|x| + e) and
  e / (|x| + e)^2;
- x / (|x| / k + e) and x / sqrt(|x|^2 / k^2 + e), with k^2 = d / c of a variance c mean x^2, are
  k x / (|x| + k e) and k x / sqrt(|x|^2 + k^2 e), whose Jacobian is I / s - x x' / s^3 times k.

So all are at most k / max(|x|, k e) (k = 1 for the length) or k / sqrt(|x|^2 + k^2 e) in l2, and
1 + sqrt(d) times that in the other norms, as rows of u u' sum to at most |u_i| |u|_1 <= sqrt(d). No
result is longer than k.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import round_down, round_up
from lipdescent.bounds.graph import derivatives, ranges
from lipdescent.bounds.graph.known import Known, Slope, times
from lipdescent.bounds.graph.ranges import Range
from lipdescent.networks.graph import Graph, Quotient, Vertex
from lipdescent.networks.operations import Function, Gather, Reduce, Scale, Shift


@dataclass(frozen=True)
class Unit:
    """By what values are divided.

    Attributes
    ----------
    axes : of the vectors, 0 behind the batch.
    least : e. square : k^2. rooted : whether e is below the root. clipped : max(|x|, e).
    """

    axes: tuple[int, ...]
    least: float
    square: float = 1.0
    rooted: bool = False
    clipped: bool = False


def units(graph: Graph) -> dict[int, Unit]:
    """Vertices of this kind, and what they are."""
    found = {}
    for i, vertex in enumerate(graph.vertices):
        if isinstance(vertex.operation, Quotient):
            own = _unit(graph, *vertex.inputs)
            if own is not None:
                found[i] = own
    return found


def _unit(graph: Graph, x: int, by: int) -> Unit | None:
    shape, vertex = graph.vertices[x].shape, graph.vertices[by]
    spread, wide = None, vertex.shape
    while isinstance(vertex.operation, (Gather, nn.Flatten, nn.Unflatten)):
        if isinstance(vertex.operation, Gather):
            if spread is not None:
                return None
            spread = vertex.operation.index
        vertex = graph.vertices[vertex.inputs[0]]
    found = _of_vector(graph, vertex, x)
    if found is None:
        return None
    kept = tuple(1 if i in found.axes else n for i, n in enumerate(shape))
    if spread is None:
        return found if wide == kept else None
    same = torch.arange(math.prod(kept)).reshape(kept).expand(shape).flatten()
    return found if torch.equal(spread.flatten().to(same), same) else None


def _of_vector(graph: Graph, vertex: Vertex, x: int) -> Unit | None:
    """max(|x|, e), |x| + e, the root of c mean x^2 plus e, or that of c mean x^2 + e."""
    operation: Any = vertex.operation
    before = graph.vertices[vertex.inputs[0]]
    if isinstance(operation, nn.Threshold) and operation.threshold == operation.value > 0:
        length: Any = before.operation
        if _is_reduction(before, "length") and before.inputs == (x,):
            return Unit(length.axes, operation.value, clipped=True)
        return None
    rooted = _is_function(vertex, "sqrt")
    shift = before if rooted else vertex
    operation = shift.operation
    if not isinstance(operation, Shift) or operation.weight is not None or not operation.number > 0:
        return None
    before = graph.vertices[shift.inputs[0]]
    if _is_reduction(before, "length") and before.inputs == (x,) and not rooted:
        length = before.operation
        return Unit(length.axes, operation.number)
    if not rooted:
        if not _is_function(before, "sqrt"):
            return None
        before = graph.vertices[before.inputs[0]]
    count = 1.0
    if isinstance(before.operation, Scale) and before.operation.weight is None:
        count, before = before.operation.number, graph.vertices[before.inputs[0]]
    if not _is_reduction(before, "mean") or not count > 0:
        return None
    mean: Any = before.operation
    square = graph.vertices[before.inputs[0]]
    if not _is_function(square, "square") or square.inputs != (x,):
        return None
    return Unit(mean.axes, operation.number, mean.count(square.shape) / count, rooted)


def _is_reduction(vertex: Vertex, kind: str) -> bool:
    return isinstance(vertex.operation, Reduce) and vertex.operation.kind == kind


def _is_function(vertex: Vertex, name: str) -> bool:
    return isinstance(vertex.operation, Function) and vertex.operation.name == name


def of_length(own: Known, x: Known, unit: Unit, norm: str) -> Known:
    """What is known of the quotient, with its constant and values as above."""
    last = [i + 1 for i in unit.axes]
    low, high = (
        t.movedim(last, list(range(-len(last), 0))).flatten(-len(last))
        for t in (x.span.low, x.span.high)
    )
    inside = torch.where((low > 0) | (high < 0), torch.minimum(low.abs(), high.abs()), 0.0)
    d = inside.shape[-1]
    rows = round_down(inside.square().sum(-1), d + 2).clamp_min(0.0)  # |x|^2 at least
    least = rows.reshape(len(rows), -1).amin(1)
    k = math.sqrt(unit.square) * (1 + 2.0**-50)
    if unit.rooted:
        bottom = round_down(
            (least + round_down(least.new_tensor(unit.square * unit.least), 2)).sqrt(), 3
        )
    else:
        smallest = unit.least * math.sqrt(unit.square) * (1 - 2.0**-50)
        bottom = round_down(least.sqrt(), 2).clamp_min(smallest)
    steep = round_up(k / bottom, 2)
    if norm != "l2":
        steep = round_up(steep * (1 + math.sqrt(d)), 3)
    constant = torch.minimum(own.constant, times(steep, x.constant))
    top = torch.full_like(own.span.low, k * (1 + 2.0**-40))
    length = own.length
    if unit.axes == (x.span.low.ndim - 2,):
        length = torch.full_like(x.span.low[..., 0], k * (1 + 2.0**-40))
    own = replace(own, constant=constant, span=own.span.meet(Range(-top, top)), length=length)
    if not unit.clipped or length is None or x.slope is None:
        return own
    return replace(own, slope=_slope(own.span, x, rows, unit.least))


def _slope(u: Range, x: Known, rows: Tensor, e: float) -> Slope | None:
    """(dx - u u' dx) / |x| of the last axis, where all |x| are at least e."""
    assert x.slope is not None
    d, longest = u.low.shape[-1], ranges.lengths(x.span)
    least = round_down(rows.sqrt(), 2)
    if not bool((least > e).all() and longest.isfinite().all()):
        return None
    inverse = Range(round_down(1 / longest, 2)[..., None], round_up(1 / least, 2)[..., None])
    root = math.sqrt(d)
    z = Range(round_down(u.low * root, 4), round_up(u.high * root, 4))
    lead, shape = x.slope.center.shape[:2], x.slope.center.shape[2:]
    parts = [t.reshape(*lead, -1, d) for t in (x.slope.center, x.slope.radius)]
    z, inverse = (r.each(lambda t: t.reshape(len(t), -1, t.shape[-1])) for r in (z, inverse))
    one = torch.ones((), dtype=torch.float64)
    found = derivatives.normalised(Slope(*parts), z, inverse, one, centred=False)
    return Slope(*(t.reshape(*lead, *shape) for t in (found.center, found.radius)))

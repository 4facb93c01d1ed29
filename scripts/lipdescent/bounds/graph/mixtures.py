"""Mixtures z a + (1 - z) b, entry by entry, with a gate z in [0, 1]: GRU, highway networks, lerp.

Values lie between a and b, however often mixtures follow each other, where a sum of products would
grow with each. With da, db of lengths L_a, L_b and z in [l, u], the change is
z da + (1 - z) db + (a - b) dz, whose first two parts are at most

- u L_a + (1 - l) L_b in all norms;
- in l2 sqrt(u L_a^2 + (1 - l) L_b^2), as the square is convex: (z s + (1 - z) t)^2 <= z s^2 +
  (1 - z) t^2, summed over the entries;
- in l_inf max(L_a, L_b).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import round_up
from lipdescent.bounds.graph.elementwise import weight
from lipdescent.bounds.graph.known import Known, times
from lipdescent.bounds.graph.ranges import Range
from lipdescent.networks.graph import Combination, Graph, Product, unviewed
from lipdescent.networks.operations import Scale, Shift


@dataclass(frozen=True)
class Mixture:
    """Vertices: gate z, its share ``first`` and what ``second`` has the rest of.

    ``first`` is a number or tensor where that depends on no input: the first step of a recurrence.
    """

    gate: int
    first: int | Tensor
    second: int


def mixtures(graph: Graph) -> dict[int, Mixture]:
    """Vertices of this kind, and of what they are mixed."""
    reading = _Reading(graph)
    found = {i: reading.mixture(i) for i in range(len(graph.vertices))}
    return {i: own for i, own in found.items() if own is not None}


class _Reading:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def mixture(self, i: int) -> Mixture | None:
        vertex = self.graph.vertices[i]
        if vertex.operation != Combination((1.0, 1.0)):
            return None
        for one, other in (vertex.inputs, vertex.inputs[::-1]):
            for gate, first in self.factors(one):
                own = self.difference(first, other) or self.rest(gate, first, other)
                if own is not None:
                    found = Mixture(gate, *own)
                    taken = [j for j in (i, *own) if isinstance(j, int)]
                    shapes = {self.graph.vertices[j].shape for j in taken}
                    return found if len(shapes) == 1 else None
        return None

    def difference(self, first: int, other: int) -> tuple[int | Tensor, int] | None:
        """z (a - b) + b."""
        vertex = self.graph.vertices[self.plain(first)]
        shift: Any = vertex.operation
        if self.is_times_minus_1(first, other):
            return torch.zeros((), dtype=torch.float64), other
        if isinstance(shift, Shift) and self.is_times_minus_1(vertex.inputs[0], other):
            fixed = shift.number if shift.weight is None else shift.weight.detach()
            return torch.as_tensor(fixed, dtype=torch.float64), other
        if vertex.operation != Combination((1.0, -1.0)):
            return None
        a, b = vertex.inputs
        return (a, b) if self.plain(b) == self.plain(other) else None

    def rest(self, gate: int, first: int, other: int) -> tuple[int, int] | None:
        """z a + (1 - z) b."""
        for left, second in self.factors(other):
            if self.is_rest(left, gate):
                return first, second
        return None

    def factors(self, i: int) -> list[tuple[int, int]]:
        """Of a product, in both orders."""
        vertex = self.graph.vertices[self.plain(i)]
        if not isinstance(vertex.operation, Product):
            return []
        a, b = vertex.inputs
        return [(a, b), (b, a)]

    def is_rest(self, i: int, gate: int) -> bool:
        """Whether a vertex is 1 - z."""
        shift = self.graph.vertices[self.plain(i)]
        one: Any = shift.operation
        if not isinstance(one, Shift) or one.weight is not None or one.number != 1:
            return False
        return self.is_times_minus_1(shift.inputs[0], gate)

    def is_times_minus_1(self, i: int, of: int) -> bool:
        scale = self.graph.vertices[self.plain(i)]
        minus: Any = scale.operation
        if not isinstance(minus, Scale) or minus.weight is not None or minus.number != -1:
            return False
        return self.plain(scale.inputs[0]) == self.plain(of)

    def plain(self, i: int) -> int:
        """The vertex that is shown in another shape."""
        return unviewed(self.graph.vertices, i)


def fixed(value: Tensor, like: Known) -> Known:
    """A value that depends on no input, in the shape of another."""
    span = like.span.each(lambda t: value.expand_as(t))
    return Known(span, span, torch.zeros_like(like.constant))


def mixed(own: Known, z: Known, a: Known, b: Known, norm: str) -> Known:
    """What is known of a mixture, with its constant and values as above."""
    shape = own.span.shape
    low, high = z.span.low.flatten(1).amin(1), z.span.high.flatten(1).amax(1)
    gated = (low >= 0) & (high <= 1)
    rest = round_up(1 - low)
    both = round_up(times(high, a.constant) + times(rest, b.constant))
    if norm == "l2":
        squares = times(high, round_up(a.constant**2)) + times(rest, round_up(b.constant**2))
        both = torch.minimum(both, round_up(round_up(squares, 2).sqrt(), 2))
    elif norm == "linf":
        both = torch.minimum(both, torch.maximum(a.constant, b.constant))
    apart = torch.maximum(a.span.high - b.span.low, b.span.high - a.span.low)
    size = torch.where(apart.isnan(), torch.inf, round_up(apart)).clamp_min(0.0)
    moved = times(weight(size, _shape(z, shape), shape, norm), z.constant)
    constant = torch.where(gated, round_up(both + moved), torch.inf)
    constant = torch.where(constant.isnan(), torch.inf, constant)
    hull = Range(torch.minimum(a.span.low, b.span.low), torch.maximum(a.span.high, b.span.high))
    wide = gated.reshape(-1, *[1] * (len(shape) - 1))
    span = own.span.meet(
        Range(torch.where(wide, hull.low, -torch.inf), torch.where(wide, hull.high, torch.inf))
    )
    return replace(own, span=span, constant=torch.minimum(own.constant, constant))


def _shape(z: Known, shape: torch.Size) -> torch.Size:
    """The gate's shape with as many axes as the mixture."""
    own = z.span.shape
    return torch.Size([own[0], *[1] * (len(shape) - len(own)), *own[1:]])

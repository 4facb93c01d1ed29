"""Jacobians of a piecewise-linear graph for given slopes, and the largest where few are open.

The Jacobian is affine in the slope of each unit, so that its norm is convex in it: on a region the
largest norm is reached where every open unit has one end of its slopes. With k open units these
are 2^k Jacobians, exact but for rounding, where an interval that holds them all is never tight at
a kink, however small the region is.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.graph.elementwise import scaled
from lipdescent.bounds.graph.known import Known, Slope, slope_norm
from lipdescent.bounds.graph.linear_maps import Linear
from lipdescent.bounds.graph.ranges import Range
from lipdescent.bounds.graph.scalars import bounded_slopes
from lipdescent.networks.graph import Combination, Concatenation, Graph

MOST = 6  # open units: 64 Jacobians
_ENTRIES = 2**22  # of all Jacobians of one vertex at once


def affordable(graph: Graph, maps: list[Linear | None]) -> bool:
    """Whether all operations are linear, joins of such, or act entry by entry."""
    for vertex, linear in zip(graph.vertices[1:], maps[1:], strict=True):
        joined = isinstance(vertex.operation, (Combination, Concatenation))
        if (
            linear is None
            and not joined
            and not acts_entry_by_entry(vertex.operation, vertex.shape)
        ):
            return False
    return True


def acts_entry_by_entry(operation: Any, shape: tuple[int, ...]) -> bool:
    """Whether each entry is a function of one; a normalisation's has the same shape, too."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    return (
        isinstance(operation, nn.Module)
        and bounded_slopes(operation, Range(zero, zero)) is not None
    )


def largest_norms(
    graph: Graph, maps: list[Linear | None], known: list[Any], *, norm: str
) -> Tensor:
    """Largest norm (B,) of a Jacobian on each region, infinite where too many slopes are open."""
    at = [i for i, own in enumerate(known) if own.slopes is not None]
    if not at:  # linear: its Jacobian is known already
        return known[0].constant * torch.inf
    lows = torch.cat([known[i].slopes.low.flatten(1) for i in at], 1)
    highs = torch.cat([known[i].slopes.high.flatten(1) for i in at], 1)
    open_ = highs > lows
    counts = open_.sum(1)
    best = lows.new_full((len(lows),), torch.inf)
    largest = max(vertex_size(known, i) for i in range(len(known)))
    for k in range(MOST + 1):
        rows = (counts == k).nonzero().flatten()
        inputs = known[0].span.low[0].numel()
        for part in rows.split(max(1, _ENTRIES // (2**k * inputs * largest))):
            best[part] = _of_patterns(graph, maps, known, at, part, (lows, highs, open_), k, norm)
    return best


def vertex_size(known: list[Any], i: int) -> int:
    """Numbers of one vertex's value."""
    own: Known = known[i]
    return own.span.low[0].numel()


def _of_patterns(
    graph: Graph,
    maps: list[Linear | None],
    known: list[Any],
    at: list[int],
    rows: Tensor,
    ends: tuple[Tensor, Tensor, Tensor],
    k: int,
    norm: str,
) -> Tensor:
    if not len(rows):
        return rows.double()
    low, high, open_ = (end[rows] for end in ends)
    count, total = len(rows), 2**k
    slopes = low[:, None].repeat(1, total, 1)
    if k:
        units = open_.nonzero()[:, 1].reshape(count, k)
        bits = (torch.arange(total)[:, None] >> torch.arange(k)) & 1  # (patterns, k)
        chosen = torch.where(
            bits.bool()[None], high.gather(1, units)[:, None], low.gather(1, units)[:, None]
        )
        slopes.scatter_(2, units[:, None].expand(-1, total, -1), chosen)
    flat = slopes.reshape(count * total, -1)
    sizes = [known[i].slopes.low[0].numel() for i in at]
    shapes = [known[i].slopes.low.shape[1:] for i in at]
    parts = {
        i: part.reshape(-1, *shape)
        for i, part, shape in zip(at, flat.split(sizes, 1), shapes, strict=True)
    }
    value = slope_norm(jacobians(graph, maps, parts), norm)
    return value.reshape(count, total).amax(1)


def jacobians(graph: Graph, maps: list[Linear | None], slopes: dict[int, Tensor]) -> Slope:
    """The Jacobians (N, inputs, *output shape) where vertex i has the ``slopes[i]`` (N, *shape)."""
    count = len(next(iter(slopes.values())))
    shape = graph.input_shape
    n = torch.Size(shape).numel()
    eye = torch.eye(n, dtype=torch.float64).reshape(1, n, *shape).expand(count, n, *shape)
    found = [Slope(eye, torch.zeros_like(eye))]
    for i in range(1, graph.output + 1):
        vertex, linear = graph.vertices[i], maps[i]
        own = [found[j] for j in vertex.inputs]
        if linear is not None:
            flat = own[0].center.flatten(0, 1)
            reach = linear.spread(flat.abs(), own[0].radius.flatten(0, 1))
            center = linear.apply(flat)
            found.append(Slope(*(t.reshape(count, n, *t.shape[1:]) for t in (center, reach))))
        elif isinstance(vertex.operation, Combination):
            found.append(_sum(vertex.operation.factors, own))
        elif isinstance(vertex.operation, Concatenation):
            axis = vertex.operation.axis + 2
            joined = ([s.center for s in own], [s.radius for s in own])
            found.append(Slope(*(torch.cat(ts, axis) for ts in joined)))
        else:
            found.append(scaled(own[0], slopes[i], torch.zeros_like(slopes[i])))
    return found[graph.output]


def _sum(factors: tuple[float, ...], own: list[Slope]) -> Slope:
    most = max(s.center.ndim for s in own)

    def wide(t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:2], *[1] * (most - t.ndim), *t.shape[2:])

    centers = [f * wide(s.center) for f, s in zip(factors, own, strict=True)]
    radii = [abs(f) * wide(s.radius) for f, s in zip(factors, own, strict=True)]
    count = len(own) + 2
    total, reach, size = centers[0], radii[0], centers[0].abs()
    for center, radius in zip(centers[1:], radii[1:], strict=True):
        total, reach, size = total + center, reach + radius, size + center.abs()
    return Slope(total, round_up(reach + gamma(count) * size, 2 * count))

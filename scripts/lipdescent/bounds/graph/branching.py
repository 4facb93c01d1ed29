"""Branch and bound over a box of few inputs.

The constant on a box is the largest of those on its parts. Many parts are bounded at once by the
interval that holds their Jacobians: units whose sign is known on a part have one slope there, so
that the bound tends to the norm at a point as parts shrink. The parts with the largest bounds are
halved, along the input from which most of what the other units take comes. Where few of these are
left their slopes' ends are enumerated (:mod:`patterns`). Any moment's largest bound of all parts
holds. The Jacobian at the middle of each part shows how far it may still fall.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.bounds.graph import patterns
from lipdescent.bounds.graph.analysis import Analysis
from lipdescent.bounds.graph.known import slope_norm
from lipdescent.domains.domain import Regions
from lipdescent.measurement import NotApplicable
from lipdescent.networks.graph import Graph

_BATCH = 1024  # parts that are halved at once
_ROOM = 2**22  # parts that are held
# Of the box, as wide as a part that is not halved again: its bound stays where a kink touches it.
LEAST = 2.0**-32


@dataclass(frozen=True)
class Found:
    """Upper bound, the norm at the best middle of a part (not proved), and how many parts."""

    upper: float
    lower: float
    parts: int


@torch.no_grad()
def branch(
    graph: Graph, regions: Regions, *, norm: str, start: float, gap: float, budget: float
) -> Found:
    """Bound on one box, at most ``start``, which holds already.

    Parameters
    ----------
    regions : one box.
    gap : relative distance between the bound and the largest norm found, at which to stop.
    budget : seconds, about.
    """
    deadline = time.monotonic() + budget
    analysis = Analysis(graph, norm, thorough=False)
    low, high = regions.low, regions.high
    try:
        first = analysis(regions)[graph.output]
        if first is None or first.slope is None:  # an operation without Jacobians: nothing to gain
            return Found(start, 0.0, 1)
        bound, widths = _bounds(analysis, low, high)
        lower = _at_points(analysis, (low / 2 + high / 2))
    except NotApplicable:  # less is tried here than for ``start``, such as of extreme weights
        return Found(start, 0.0, 1)
    bound = bound.clamp_max(start)
    while (
        bool(bound.max() > lower * (1 + gap)) and time.monotonic() < deadline and len(low) < _ROOM
    ):
        worst = bound.topk(min(_BATCH, len(bound))).indices
        worst = worst[bound[worst] > lower * (1 + gap)]
        if too_narrow(low[worst[0]], high[worst[0]], _axis(widths[worst[:1]]), regions):
            break
        keep = torch.ones(len(bound), dtype=torch.bool)
        keep[worst] = False
        ends = _halved(low[worst], high[worst], widths[worst])
        try:
            found, across = _bounds(analysis, *ends)
            lower = max(lower, _at_points(analysis, ends[0] / 2 + ends[1] / 2))
        except NotApplicable:
            break
        found = torch.minimum(found, bound[worst].repeat(2))
        # Parts below the best norm are done: they only count by ``lower``.
        open_ = found > lower
        done = bound[keep] > lower
        low = torch.cat([low[keep][done], ends[0][open_]])
        high = torch.cat([high[keep][done], ends[1][open_]])
        bound = torch.cat([bound[keep][done], found[open_]])
        widths = torch.cat([widths[keep][done], across[open_]])
        if not len(bound):
            break
    closed = lower * (1 + 2.0**-30)  # parts left out have bounds of at most ``lower``
    upper = max(float(bound.max()) if len(bound) else 0.0, closed)
    return Found(min(upper, start), lower, len(bound))


def too_narrow(low: Tensor, high: Tensor, axis: Tensor, regions: Regions) -> bool:
    """Whether a part of the box ``regions`` is not to be halved along ``axis`` (1,)."""
    own, whole = (high - low).flatten()[axis], (regions.high - regions.low).flatten()[axis]
    return bool(own <= LEAST * whole)


def _axis(widths: Tensor) -> Tensor:
    return widths.nan_to_num(0.0).argmax(1)


def _bounds(analysis: Analysis, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (B,) and how much comes of every input: (B, n)."""
    center = torch.minimum(torch.maximum(low / 2 + high / 2, low), high)
    regions = Regions(low, high, center)
    known = analysis(regions)
    own = known[analysis.graph.output]
    assert own is not None
    bound = own.constant
    if patterns.affordable(analysis.graph, analysis.maps):
        found = patterns.largest_norms(analysis.graph, analysis.maps, known, norm=analysis.norm)
        bound = torch.minimum(bound, found)
    return bound, analysis.influence


def _at_points(analysis: Analysis, points: Tensor) -> float:
    """Largest norm of the Jacobian at points, to rounding; points near kinks count little."""
    known = analysis(Regions(points, points, points))[analysis.graph.output]
    assert known is not None
    assert known.slope is not None
    sharp = known.slope.radius.flatten(1).amax(1) <= 1e-9 * known.slope.center.abs().flatten(
        1
    ).amax(1)
    if not bool(sharp.any()):
        return 0.0
    slope = type(known.slope)(known.slope.center[sharp], 0 * known.slope.radius[sharp])
    return float(slope_norm(slope, analysis.norm).max())


def _halved(low: Tensor, high: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of every part, along the input of the largest ``widths``."""
    shape = low.shape
    low, high = low.flatten(1), high.flatten(1)
    rows = torch.arange(len(low))
    axis = _axis(widths)
    cut = low[rows, axis] / 2 + high[rows, axis] / 2
    below, above = high.clone(), low.clone()
    below[rows, axis], above[rows, axis] = cut, cut
    lows, highs = torch.cat([low, above]), torch.cat([below, high])
    return lows.reshape(-1, *shape[1:]), highs.reshape(-1, *shape[1:])

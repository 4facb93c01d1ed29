"""Bounds of a chain's constant on many regions: values, system, and the best of what bounds it.

In l2 LipSDP with the domain's open units, in l_inf and l1 the bounds of all entries; where few
units are open the largest norm over their patterns. Each is a bound on its own, the smallest is
returned.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.bounds.local.entries import FEW, largest_of_patterns, sum_norms
from lipdescent.bounds.local.multipliers import geolip, lipsdp
from lipdescent.bounds.local.network import Network
from lipdescent.bounds.local.row_sums import row_sums
from lipdescent.bounds.local.tangents import Tangents, tangents
from lipdescent.bounds.local.values import Values, values
from lipdescent.domains.domain import Regions

_ENTRIES = 2**21  # of one matrix of all regions of a part
_MOST = 64  # regions of a part
_SIDE = 400  # inputs and open units of GeoLIP on a domain
_LARGEST = 2**23  # entries of the largest matrix of one region: 64 MiB
_FLOPS = 1e11  # of all steps of all regions
_FEWEST, _MOST_STEPS = 8, 80


@dataclass(frozen=True)
class Bounded:
    """Of B regions: ``bound`` (B,), and multipliers (B, N) of the units that are open, others 0."""

    bound: Tensor
    multipliers: Tensor


@torch.no_grad()
def local_bounds(network: Network, regions: Regions, *, norm: str) -> Tensor:
    """Certified constants (B,) in "l2", "linf" or "l1" on bounded regions; perhaps infinite.

    As many steps of descent are taken as some ten seconds allow for all regions together; regions
    with too many open units are left without a bound.
    """
    found = []
    for i in range(len(regions)):
        part = regions[i : i + 1]
        known = values(network, part)
        infinite = torch.full_like(known.low[:, 0], torch.inf)
        count = int((known.state() == 0).sum())
        steps = _affordable(network, count, len(regions), norm)
        if steps < _FEWEST or not bool(known.low.isfinite().all() & known.high.isfinite().all()):
            found.append(infinite)
            continue
        none = known.low.new_zeros(1, network.units)
        own = bounded(network, known, none, best=infinite, norm=norm, steps=steps)
        found.append(own.bound)
    return torch.cat(found)


def _affordable(network: Network, count: int, regions: int, norm: str) -> int:
    """Steps of descent for each of ``regions`` with ``count`` open units."""
    inputs, outputs = network.inputs, network.outputs
    widest = max(own.weight.shape[0] for own in network.layers)
    if (inputs + count) * max(widest, count) > _LARGEST:
        return 0
    side, times = min(inputs, outputs) + count, 1
    if norm != "l2":  # of entries, in any case
        side, times = max(inputs, outputs) + count, max(inputs, outputs)
        if side > _SIDE:
            return _FEWEST
    flops = 3 * side**3 + 2 * max(inputs, outputs) * side**2
    return min(_MOST_STEPS, int(_FLOPS / (flops * times * regions)))


def parts(order: Tensor, network: Network, counts: Tensor) -> list[Tensor]:
    """``order`` in parts whose matrices are of moderate size; ``counts`` (B,) of open units."""
    found, at = [], 0
    while at < len(order):
        side = network.inputs + int(counts[order[min(at + _MOST, len(order)) - 1]])
        size = max(1, min(_MOST, _ENTRIES // side**2))
        found.append(order[at : at + size])
        at += size
    return found


def bounded(
    network: Network,
    known: Values,
    multipliers: Tensor,
    *,
    best: Tensor,
    norm: str,
    goal: float = 0.0,
    steps: int = 12,
) -> Bounded:
    """Bounds where values are known; ``multipliers`` (B, N) to start from, 0 where there are none.

    ``best`` (B,): bounds that hold already, at most which are returned. ``goal``: a bound at which
    one is done.
    """
    system = tangents(network, known)
    count = system.hidden.shape[2]
    if count <= FEW:
        return Bounded(torch.minimum(best, largest_of_patterns(system, norm)), multipliers)
    if norm != "l2":
        value = _sums(network, known, system, norm=norm, goal=goal, steps=steps)
        return Bounded(torch.minimum(best, value), multipliers)
    turned = system.turned() if network.outputs < network.inputs else system
    start = torch.where(system.real, multipliers.gather(1, system.index), 0.0)
    found = lipsdp(turned, start, best, goal=goal, steps=steps)
    # Padding points at units that are not open: written first, so that nothing real is lost.
    new = torch.zeros_like(multipliers)
    new.scatter_add_(1, system.index, found.multipliers * system.real)
    return Bounded(torch.minimum(best, found.bound), new)


def _sums(
    network: Network, known: Values, system: Tangents, *, norm: str, goal: float, steps: int
) -> Tensor:
    """Bounds (B,) in l_inf or l1."""
    found = torch.minimum(sum_norms(system, norm), row_sums(network, known, norm))
    turned = system if norm == "linf" else system.turned()
    todo = (found > goal).nonzero().flatten()
    if len(todo) and system.hidden.shape[1] <= _SIDE:
        found[todo] = torch.minimum(found[todo], geolip(turned[todo], goal=goal, steps=steps))
    return found

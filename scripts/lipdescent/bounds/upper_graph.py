"""Any network as a graph of operations, on the whole space, on a box or on balls around data.

Vertex by vertex a bound of its values and of its constant from the input on; the rules and their
proofs are in :mod:`lipdescent.bounds.graph`, all rounding is included. Products of branches,
squeeze-and-excitation, normalisation and attention have constants where the values that they
multiply are bounded: behind a normalisation, a sigmoid or a softmax everywhere, else on a domain.

Chains of affine maps and ReLU or LeakyReLU have a better bound on a domain, LipSDP (l2) or GeoLIP
(l_inf, l1) of what its open units leave, by :mod:`lipdescent.bounds.local`.

On a box of few inputs the box is halved again and again where the bound is largest, until it is
within ``gap`` of the largest norm found or ``budget`` seconds have passed.

A value on a domain is no bound of the global constant: its direction is "metric".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds.graph.analysis import Analysis
from lipdescent.bounds.graph.branching import branch
from lipdescent.bounds.graph.conversion import Settled, graph_of
from lipdescent.bounds.graph.known import Symbols
from lipdescent.bounds.graph.layer_constants import LayerConstants
from lipdescent.bounds.local.branching import branch as branch_chain
from lipdescent.bounds.local.network import network_of
from lipdescent.bounds.local.regions import local_bounds
from lipdescent.domains.domain import Ball, Domain, Everywhere, Regions, domain_of
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.points._parts import some
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "upper"
NORMS = ("l1", "l2", "linf")
BRANCHED = 6  # inputs at most of a box that is halved
_ENTRIES = 2**24  # numbers that one vertex's bounds hold: 128 MiB
_QUANTILES = (0.05, 0.5, 0.95)


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    domain: Mapping[str, Any] | Domain | None = None,
    num_points: int = 16,
    gap: float = 0.05,
    budget: float = 10.0,
) -> Iterator[Measurement]:
    """Yield ``upper_graph`` for each norm; for balls around data the largest of each split, and
    ``upper_graph_mean`` and ``upper_graph_q5``, ``_q50``, ``_q95`` over its points.

    Parameters
    ----------
    inputs : split -> (n, *input_shape); balls lie around them.
    seed : of the choice of points where there are more than ``num_points``.
    domain : everywhere unless given; as :mod:`lipdescent.domains.written`.
    num_points : balls of each split.
    gap, budget : of the search on a box of up to ``BRANCHED`` inputs, relative and in seconds for
        each model.

    Raises
    ------
    NotApplicable
        Where an operation has no constant on the domain: which one, and what would help.
    TypeError, ValueError
        For an unknown layer, weights that are not finite, or an option out of its range.
    """
    refuse_other_norms(norms, NORMS)
    if not gap >= 0 or not budget > 0 or num_points < 1:
        raise ValueError(
            f"gap = {gap}, budget = {budget}, num_points = {num_points}: allowed are gap >= 0, "
            "budget > 0, num_points >= 1"
        )
    where = domain_of(domain)
    around_data = isinstance(where, Ball) and where.centers is None
    if around_data and not inputs:
        raise NotApplicable("balls need points as their centres, and no data were given")
    sets = dict(inputs or {}) if around_data else {"": None}
    direction = DIRECTION if isinstance(where, Everywhere) else "metric"
    graphs = _graphs(stack)
    for split, points in sets.items():
        centers = None if points is None else some(points, num_points, seed).cpu().double()
        regions = where.regions(stack.input_shape, centers)
        for norm in norms:
            found = [
                graph_bounds(g, regions, norm=norm, gap=gap, budget=budget, layers=known)
                for g, known in graphs
            ]
            values = torch.stack(found).to(stack.device)
            yield Measurement("upper_graph", direction, norm, values.amax(1), split)
            if around_data:
                yield from _averages(values, direction, norm, split)


def _graphs(stack: ModelStack) -> list[tuple[Settled, LayerConstants]]:
    """Each model's graph, with what the stack knows of its layers; in float64 on the CPU."""
    own = stack if stack.device.type == "cpu" else stack.to(device="cpu")
    graphs = [graph_of(own, model) for model in range(stack.num_models)]
    return [(g, LayerConstants(g, own, model, g.layers)) for model, g in enumerate(graphs)]


def _averages(values: Tensor, direction: str, norm: str, split: str) -> Iterator[Measurement]:
    """Mean and quantiles over the points, of values (models, points)."""
    yield Measurement("upper_graph_mean", direction, norm, values.mean(1), split)
    for q in _QUANTILES:
        name = f"upper_graph_q{100 * q:g}"
        yield Measurement(name, direction, norm, values.quantile(q, dim=1), split)


def graph_bounds(
    graph: Any,
    regions: Regions,
    *,
    norm: str = "l2",
    gap: float = 0.05,
    budget: float = 10.0,
    layers: LayerConstants | None = None,
) -> Tensor:
    """Certified constants of a graph in float64 on every region: (B,). Errors as above."""
    analysis = Analysis(graph, norm, constants_of_layers=layers)
    inputs = math.prod(graph.input_shape)
    largest = max(math.prod(v.shape) for v in graph.vertices)
    each = largest * (3 * inputs + 4) + 2 * Symbols.limit if analysis.dense else 4 * largest
    found = []
    for part in torch.arange(len(regions)).split(max(1, _ENTRIES // each)):
        found.append(analysis.constants(regions[part]))
    values = torch.cat(found)
    network = network_of(graph) if regions.bounded else None
    if network is not None:
        values = torch.minimum(values, local_bounds(network, regions, norm=norm))
    if regions.radius is None and regions.bounded and len(regions) == 1 and inputs <= BRANCHED:
        start = float(values[0])
        if network is not None:
            ends = branch_chain(network, regions, norm=norm, start=start, gap=gap, budget=budget)
        else:
            ends = branch(graph, regions, norm=norm, start=start, gap=gap, budget=budget)
        values = values.new_tensor([ends.upper])
    return values

"""A bracket on a domain: which points, balls and rows belong to it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lipdescent.bracketing.affordable import NUM_NORMAL
from lipdescent.domains.domain import Ball, Domain, Everywhere, Regions, domain_of
from lipdescent.plugins import bound_entries, lookup
from lipdescent.points._parts import some

NUM_BALLS = 16  # around data points, of all splits together
UNIFORM = "uniform"  # the split that is drawn in a box where no data are given


def settled(
    given: Any, inputs: Mapping[str, Tensor], seed: int, report: Callable[[str], None]
) -> Domain:
    """The domain, balls around data with these as their centres: at most ``NUM_BALLS``.

    Raises
    ------
    ValueError
        For what is no domain, or balls around data where there are none.
    """
    domain = domain_of(given)
    if not isinstance(domain, Ball) or domain.centers is not None:
        return domain
    if not inputs:
        raise ValueError("domain: a ball lies around data points, and no data were given")
    points = torch.cat([own.cpu().double() for own in inputs.values()])
    centers = some(points, NUM_BALLS, seed)
    if len(centers) < len(points):
        report(f"balls lie around {len(centers)} of {len(points)} points, drawn by the seed")
    return Ball(domain.radius, domain.norm, centers)


def inside(
    inputs: Mapping[str, Tensor],
    regions: Regions,
    seed: int,
    report: Callable[[str], None],
    *,
    device: torch.device,
) -> dict[str, Tensor]:
    """The points that lie in the domain; without any, uniform ones in its boxes, moved into it.

    ``inputs`` lie on ``device``, and so do the points found.
    """
    kept = {}
    for split, points in inputs.items():
        held = regions.contain(points).to(device)
        if bool(held.any()):
            kept[split] = points[held]
        if not bool(held.all()):
            report(
                f"data {split!r}: {int((~held).sum())} of {len(points)} points lie outside the "
                "domain and are left out"
            )
    if kept:
        return kept
    generator = torch.Generator().manual_seed(seed)
    shape = regions.low.shape[1:]
    at = torch.randint(len(regions), (NUM_NORMAL,), generator=generator)
    share = torch.rand(NUM_NORMAL, *shape, generator=generator, dtype=torch.float64)
    drawn = regions.low[at] + share * (regions.high - regions.low)[at]
    return {UNIFORM: regions.project(drawn, at).to(device)}


LEAST = 1e-3  # seconds that a bound is told where nothing is left: it is begun in any case


def options(name: str, entry: Mapping[str, Any], domain: Domain, budget: float) -> dict[str, Any]:
    """What a bound is told: the domain if it takes one and has none of its own, and the budget."""
    file = bound_entries.bound_of(name, entry)
    known = inspect.signature(lookup.resolve("bounds", file).measure).parameters
    told: dict[str, Any] = {}
    if "domain" in known and not isinstance(domain, Everywhere):
        told["domain"] = domain
    if "domain" in known and "budget" in known:
        told["budget"] = max(budget, LEAST)
    return told


def of_domain(row: dict, entry: Mapping[str, Any], domain: Domain) -> dict:
    """A row of the table as one of the domain: what holds there, and what does not.

    An upper bound of the whole space holds on any domain; a lower one only if its points are
    known to lie there.
    """
    if isinstance(domain, Everywhere):
        return row
    own = entry.get("domain") is domain
    if own and row["quantity"].startswith("upper_") and row["direction"] == "metric":
        return row | {"direction": "upper"}
    if not own and row["direction"] == "lower" and row["status"] == "ok":
        reason = "its points may lie outside the domain"
        return row | {"status": "not_applicable", "value": float("nan"), "reason": reason}
    return row

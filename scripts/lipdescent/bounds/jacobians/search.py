"""Search for points of large Jacobian norm in deep chains: many small populations, each on its own.

||J(x)|| is constant on every linear piece, so there is nothing to climb: what leads on are points
in other pieces. Each island keeps its best points, of different norms (equal ones lie in the same
piece), and each of these has children:

- a Gaussian step of 1e-4 to 1 of its length;
- a crossing: one unit is chosen whose switch would gain, to first order
  (u^T W_L D ... W_{l+1})_k (W_l D ... W_1 v)_k with u, v the dual vectors of J(x), the more often
  the more it gains and the closer it is, and the point moves along the gradient of its
  pre-activation to just beyond its kink;
- slopes: steps along the gradient of all units' gains with sigmoids in place of the kinks, of
  random widths;
- differences: steps along what lies between two other points of the island.

Children are ranked by |J(x') v| with their parent's v, two vectors through the network instead of
a Jacobian, and the best of them by their norms. Islands do not mix: a population in one place
soon has nothing but neighbours, and most of the places are poor (on the ACAS-Xu networks one
population of 4,000 ends between 400 and 2,000, by its seed). At the end what they found makes one
larger population.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.bounds.jacobians.ascent import dual_vectors
from lipdescent.bounds.jacobians.chains import jacobians_at
from lipdescent.deadline import over
from lipdescent.structure.relu_chain import Chain, activated

KEPT = 10  # points of an island
STARTS = 4 * KEPT  # points of an island at first
_SCALES = (-1.5, 1.0)  # powers of ten between which Gaussian points lie, in units of the data's
_SAME = 1e-9  # relative difference of norms that are taken for one
_ENDS = 4  # best points of every island that go on
_MERGED = 4 * KEPT  # points of the last population
_PROVED = 16  # of them handed on, should rounding leave the best without a proof
_NEARNESS = 0.5  # a unit's chance of being crossed falls with its distance to this power
_CHUNK = 2**22  # numbers in the Jacobians held at once
_ORDERS = {"l2": 2.0, "linf": torch.inf, "l1": 1.0}


class Brood(NamedTuple):
    """Children of each point in a round; one norm is taken for ``share`` points kept."""

    gaussian: int
    crossings: int
    slopes: int
    differences: int
    share: int


# Measured: on trained networks of 40 inputs, and on ACAS-Xu's of 5 with six hidden layers.
FEW_PLACES, MANY_PLACES = Brood(1, 1, 4, 2, share=2), Brood(1, 2, 2, 1, share=1)


@torch.no_grad()
def search(
    links: Chain,
    starts: Tensor,
    *,
    norm: str,
    rounds: int,
    seed: int,
    brood: Brood = MANY_PLACES,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Points of larger Jacobian norm, best first: float64 (num_models, k <= 16, n_in).

    Parameters
    ----------
    links : of one model or more, each searched on its own, all with the same draws. How products
        of several round may depend on how many they are.
    starts : float64 (num_models, islands, n, n_in).
    rounds : of the islands, and of the population of what they found.
    seed : of all draws; they do not depend on the weights.
    brood : fewer islands and more rounds want ``FEW_PLACES``.
    project : (n, n_in) to the same shape, into the domain that no point may leave.
    """
    generator = torch.Generator().manual_seed(seed)

    def inside(points: Tensor) -> Tensor:
        if project is None:
            return points
        return project(points.flatten(0, -2)).view_as(points)

    found = _taken(links, inside(starts), norm)
    for kept in (KEPT, _MERGED):
        islands = found.points.shape[:2]
        for _ in range(rounds):
            if over():
                break
            found = _best(found, kept)
            born, directions = _children(links, found, brood, generator)
            born = inside(born)
            ranks = _quotients(links, born, directions, norm).view(*islands, -1)
            _, chosen = _order(ranks, kept // brood.share)
            children = _taken(links, _rows(born.view(*islands, -1, starts.shape[-1]), chosen), norm)
            found = _Found(*(torch.cat(pair, 2) for pair in zip(found, children, strict=True)))
        found = _Found(*(one.flatten(1, 2)[:, None] for one in _best(found, _ENDS)))
    return _best(found, _PROVED).points[:, 0]


def mixed_starts(points: Tensor, islands: int, *, seed: int) -> Tensor:
    """(islands, 40, n_in): every second island is drawn from points (n, n_in), the others
    are Gaussian, on their scale and on those around it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (islands, STARTS)
    index = torch.randint(len(points), shape, generator=generator)
    low, high = _SCALES
    power = low + (high - low) * torch.rand(*shape, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(*shape, points.shape[1], generator=generator, dtype=torch.float64)
    largest = points.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    spread = largest * (points / largest).square().mean().sqrt()
    gaussian = (10**power * noise).to(points) * torch.where(spread > 0, spread, 1.0)
    even = (torch.arange(islands, device=points.device) % 2 == 0)[:, None, None]
    return torch.where(even, points[index.to(points.device)], gaussian)


def drawn_from(points: Tensor, islands: int, *, seed: int) -> Tensor:
    """(islands, 40, n_in) of points (n, n_in), again and again."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(points), (islands, STARTS), generator=generator)
    return points[index.to(points.device)]


class _Found(NamedTuple):
    """Points (num_models, islands, n, n_in), their norms (num_models, islands, n), without
    2^exponents, and dual vectors of their Jacobians (num_models, islands, n, n_out or n_in)."""

    points: Tensor
    values: Tensor
    left: Tensor
    right: Tensor


def _best(found: _Found, count: int) -> _Found:
    """The ``count`` best of each island, of different values as far as there are."""
    values, chosen = _order(found.values, count)
    rows = (_rows(one, chosen) for one in (found.points, found.left, found.right))
    points, left, right = rows
    return _Found(points, values, left, right)


def _order(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values (num_models, islands, n) and places of the ``count`` best, different ones first."""
    values, order = values.nan_to_num(-1.0, -1.0, -1.0).sort(dim=-1, descending=True, stable=True)
    again = torch.zeros_like(values, dtype=torch.bool)
    again[..., 1:] = values[..., :-1] - values[..., 1:] <= _SAME * values[..., :-1]
    # Repeated ones come last, in their order.
    _, first = again.to(torch.uint8).sort(dim=-1, stable=True)
    first = first[..., :count]
    return values.gather(-1, first), order.gather(-1, first)


def _rows(vectors: Tensor, chosen: Tensor) -> Tensor:
    """Of vectors (num_models, islands, n, m) those at places (num_models, islands, k)."""
    return vectors.gather(-2, chosen[..., None].expand(*chosen.shape, vectors.shape[-1]))


def _taken(links: Chain, points: Tensor, norm: str) -> _Found:
    """Norms and dual vectors at points (num_models, islands, n, n_in)."""
    entries = links.weights[-1].shape[1] * max(weight.shape[2] for weight in links.weights)
    parts, flat = [], points.flatten(1, 2)
    for part in flat.split(max(1, _CHUNK // (len(points) * entries)), dim=1):
        matrices = jacobians_at(links, part).flatten(0, 1)
        left, right, values = dual_vectors(matrices.nan_to_num(0.0, 0.0, 0.0), norm)
        # What has overflowed is no norm.
        values = torch.where(matrices.sum((-1, -2)).isfinite(), values, torch.nan)
        parts.append([one.unflatten(0, part.shape[:2]) for one in (values, left, right)])
    together = (
        torch.cat(one, 1).unflatten(1, points.shape[1:3]) for one in zip(*parts, strict=True)
    )
    return _Found(points, *together)


def _quotients(links: Chain, points: Tensor, directions: Tensor, norm: str) -> Tensor:
    """|J(x) v| of points and directions (num_models, k, n_in) of norm 1: at most the norm of J."""
    image = directions
    for weight, _, slope in activated(links, points):
        image = (image @ weight.mT) * slope
    return torch.linalg.vector_norm(image @ links.weights[-1].mT, ord=_ORDERS[norm], dim=-1)


def _children(
    links: Chain, found: _Found, brood: Brood, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Of each point all its children, and its v for each.

    (num_models, islands * n * children, n_in) both.
    """
    kept = found.points
    points, right = kept.flatten(1, 2), found.right.flatten(1, 2)
    units, slopes, gains = _gains(links, points, found.left.flatten(1, 2), right)
    count, size = points.shape[1], torch.linalg.vector_norm(points, dim=-1)[..., None, None]

    def draw(*shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
        return drawn.to(points.device)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        return drawn.to(points.device)

    steps = [
        10 ** (-4 * draw(brood.gaussian, 1)) * size * _unit(normal(brood.gaussian, kept.shape[-1]))
    ]
    chosen = _switches(units, slopes, gains, links.slopes, draw(brood.crossings, _width(units)))
    gradient = _pulled(links, chosen, slopes)
    square = gradient.square().sum(-1, keepdim=True)
    height = sum(
        (c * z[..., None, :]).sum(-1, keepdim=True) for c, z in zip(chosen, units, strict=True)
    )
    beyond = 1 + 10 ** (4 * draw(brood.crossings, 1) - 3.5)
    steps.append(-beyond * height / torch.where(square > 0, square, 1.0) * gradient)
    width = 10 ** (-2 * draw(brood.slopes, 1))
    pulled = _pulled(links, [_soft(z, g, width) for z, g in zip(units, gains, strict=True)], slopes)
    steps.append(10 ** (-3 * draw(brood.slopes, 1)) * size * _unit(pulled))
    steps.append(normal(brood.differences, 1) * _differences(kept, draw(brood.differences, 2)))
    born = points[:, :, None] + torch.cat(steps, 2)
    born = torch.where(born.isfinite().all(-1, keepdim=True), born, points[:, :, None])
    return born.flatten(1, 2), right.repeat_interleave(born.shape[2], 1)


def _differences(kept: Tensor, draws: Tensor) -> Tensor:
    """Between two points of each island (num_models, islands, n, n_in).

    (num_models, islands * n, children, n_in).
    """
    models, islands, count, size = kept.shape
    index = (draws * count).long().clamp_max(count - 1).view(islands, -1, 1)
    pairs = kept.gather(2, index.expand(models, -1, -1, size)).view(models, len(draws), -1, 2, size)
    return pairs[..., 0, :] - pairs[..., 1, :]


def _gains(
    links: Chain, points: Tensor, left: Tensor, right: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Pre-activations, slopes and what u^T J v gains by a larger slope, all of each point.

    (num_models, k, width) each, of points (num_models, k, n_in) with u = left, v = right.
    """
    layers = list(activated(links, points))
    units, slopes = [before for _, before, _ in layers], [slope for _, _, slope in layers]
    ahead, image = [], right
    for weight, slope in zip(links.weights[:-1], slopes, strict=True):
        ahead.append(image @ weight.mT)
        image = ahead[-1] * slope
    behind, gains = left, []
    for weight, slope, one in zip(links.weights[:0:-1], slopes[::-1], ahead[::-1], strict=True):
        behind = behind @ weight
        gains.append(behind * one)
        behind = behind * slope
    return units, slopes, gains[::-1]


def _switches(
    units: list[Tensor],
    slopes: list[Tensor],
    gains: list[Tensor],
    pairs: list[tuple[float, float]],
    draws: Tensor,
) -> list[Tensor]:
    """Units to be crossed, one for each child, one-hot.

    (num_models, k, children, width) for each layer; draws (k, children, width of all).
    """
    rates = []
    for slope, gain, (negative, positive) in zip(slopes, gains, pairs, strict=True):
        other = negative + positive - slope
        rates.append(gain * (other - slope))
    rate, distance = torch.cat(rates, -1), torch.cat(units, -1).abs()
    floor = 1e-9 * rate.abs().amax(-1, keepdim=True)
    chance = rate.clamp_min(1e-300).log() - _NEARNESS * distance.clamp_min(1e-300).log()
    chance = torch.where(rate > floor, chance, -torch.inf).nan_to_num(-torch.inf, -torch.inf)
    # Gumbel's noise: the largest is each unit with a probability proportional to its chance.
    noise = -(-draws.clamp(1e-12, 1 - 1e-12).log()).log()
    chosen = (chance[:, :, None] + noise).argmax(-1)
    one_hot = torch.nn.functional.one_hot(chosen, _width(units)).to(torch.float64)
    return list(one_hot.split([unit.shape[-1] for unit in units], -1))


def _soft(unit: Tensor, gain: Tensor, width: Tensor) -> Tensor:
    """Gains times the slopes of sigmoids of the pre-activations: (num_models, k, children, units).

    unit, gain (num_models, k, units), width (k, children, 1).
    """
    scale = unit.abs().mean(-1)[..., None, None].clamp_min(1e-300)
    soft = torch.sigmoid(unit[:, :, None] / (width * scale))
    return gain[:, :, None] * soft * (1 - soft) / scale


def _pulled(links: Chain, weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
    """Gradient of the sum of pre-activations times ``weights``: (num_models, k, children, n_in)."""
    gradient = weights[-1]
    below = zip(links.weights[-2:0:-1], slopes[-2::-1], weights[-2::-1], strict=True)
    for weight, slope, own in below:
        gradient = _times(gradient, weight) * slope[:, :, None] + own
    return _times(gradient, links.weights[0])


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """(num_models, k, children, m) times each model's own (num_models, m, n)."""
    return (rows.flatten(1, 2) @ matrices).view(*rows.shape[:3], -1)


def _width(units: list[Tensor]) -> int:
    return sum(unit.shape[-1] for unit in units)


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-300)

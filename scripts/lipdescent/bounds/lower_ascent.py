"""Ascent on the Jacobian norm, away from the data: a lower bound on the global constant.

The gradient of ||J(x)|| is exactly 0 almost everywhere for ReLU networks, so that an ascent needs
something else to follow:

- one hidden layer: exact line searches over the activation masks (``jacobians/ascent.py``);
- deeper chains: the gradient of a surrogate (``jacobians/surrogate.py``); beside it a search by
  many small populations (``jacobians/search.py``), every second of which starts from the data with
  the largest norms;
- any other module: gradient ascent on the quotient |f(a) - f(b)| / |a - b| over pairs of points,
  which is not flat.

It starts from the points with the largest norms among some of the data. Where nothing is proved at
them, as for a network whose last ReLU is off at every point, it starts again from where a unit that
is off begins to be on (``jacobians/awake.py``). Whatever it follows, the
value that is claimed is certified at the points it ends in; where no proof is known, as for
attention, the direction is "estimate" (``proofs/prover.py``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.jacobians.ascent import ascend
from lipdescent.bounds.jacobians.awake import awake
from lipdescent.bounds.jacobians.leading import leading_norms, norms_at, pays
from lipdescent.bounds.jacobians.search import FEW_PLACES, STARTS, mixed_starts, search
from lipdescent.bounds.jacobians.surrogate import ascend_surrogate
from lipdescent.bounds.lower_jacobian import LARGEST, largest_certified
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.deadline import over
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement
from lipdescent.points._parts import check_count
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import Chain, chain

DIRECTION = "lower"
STARTS_FROM = "lower_jacobian"
NORMS = jac.NORMS
_EQUAL = 1e-9  # relative difference of norms that rounding may put in any order
_FEW_UNITS = 24  # in one hidden layer
_GROUP, _POPULATIONS = 24, 24  # models taken together; populations of those searched together
_TOGETHER = 560_000  # weights of models taken together: 12 networks of two layers of 192


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    restarts: int = 4,
    steps: int = 16,
    num_candidates: int | None = 256,
    populations: int = 16,
    rounds: int = 60,
    domain: Mapping[str, Any] | Domain | None = None,
    largest: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_ascent`` once per norm, with no split: it bounds the global constant.

    Parameters
    ----------
    inputs : split -> (n, *input_shape); all splits together give the starting points.
    restarts : ascents per model, from the data points with the largest norms.
    steps : of each ascent, at most.
    num_candidates : data points, drawn by ``seed``, among which the starts are chosen; None: all.
        In chains with two hidden layers and more, and with one of at most 24 units, the bound is
        never below the largest norm at all of the data.
    populations, rounds : of the search in chains with two hidden layers and more.
    domain : where the constant is taken, everywhere unless given; points are moved into it.
    largest : norm -> split -> int64 (num_models, k), where ``lower_jacobian`` has its largest
        norms; what is proved does not rest on it.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        As for ``lower_jacobian``; also if an option is not a positive integer.
    """
    _check(restarts=restarts, steps=steps, populations=populations, rounds=rounds)
    _check(num_candidates=1 if num_candidates is None else num_candidates)
    jac.check_inputs(stack, inputs, norms)
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    everything = torch.cat([p.to(stack.device, torch.float64) for p in inputs.values()])
    index = _candidates(everything, num_candidates, seed)
    points = everything[index]
    # Norms at all points cost little beside what follows but in one wide hidden layer.
    links = prover.links
    narrow = links is not None and links.weights[0].shape[1] <= _FEW_UNITS
    on_all = links is not None and (len(links.weights) != 2 or narrow)
    reached = everything if on_all else points
    count, always = _every_second(populations) * STARTS, index if on_all else None
    known = _known_places(largest, inputs, count) if largest and on_all else {}
    take = partial(_norms, prover, reached, count=count, always=always, restarts=restarts)
    for norm, values, data in _at_data(prover, reached, norms, known, take):
        own = values[:, index] if on_all else values
        best = own.topk(min(restarts, len(points)), dim=1).indices
        ends = ascent(stack, points[best], norm=norm, steps=steps, seed=seed)
        bound = torch.maximum(prover.certify(ends, norm=norm).amax(1), data)
        if prover.links is not None and len(prover.links.weights) > 2:
            found = _searched(prover, reached, values, populations, norm, rounds=rounds, seed=seed)
            bound = torch.maximum(bound, found)
        for model in (bound == 0).nonzero().flatten().tolist():
            bound[model] = _awakened(prover, model, points, norm, len(best[0]), seed, steps)
        yield Measurement("lower_ascent", prover.direction, norm, bound)


@torch.no_grad()
def ascent(
    stack: ModelStack, points: Tensor, *, norm: str = "l2", steps: int = 20, seed: int = 0
) -> Tensor:
    """Points of larger Jacobian norm: (num_models, k, *input_shape) to the same shape, float64.

    All models draw the same random numbers, so that none depends on the others.
    """
    points = points.to(stack.device, torch.float64)
    links = chain(stack)
    if links is None:
        ones = (_pair_ascent(stack[i : i + 1], own, norm, steps) for i, own in enumerate(points))
        return torch.stack(list(ones))
    flat, found = points.flatten(2), []
    for models, group in _groups(links, _GROUP):
        starts = flat[models]
        if len(links.weights) == 2:
            layers = (group.weights[0], group.biases[0], group.weights[1], group.slopes[0])
            found.append(ascend(*layers, starts, norm=norm, steps=steps, seed=seed))
        else:
            found.append(ascend_surrogate(group, starts, norm=norm, steps=steps))
    return torch.cat(found)[: len(points)].view_as(points)


def _groups(links: Chain, size: int) -> Iterator[tuple[Tensor, Chain]]:
    """Indices of models and their chain, so many of small ones at once.

    Always groups of the same size, the last one filled up with copies: how a batched product
    rounds may depend on the size of the batch.
    """
    entries = sum(weight[0].numel() for weight in links.weights)
    size = min(size, max(1, _TOGETHER // entries))
    models = torch.arange(len(links.exponents), device=links.exponents.device)
    filled = torch.cat([models, models[-1:].expand(-len(models) % size)])
    for index in filled.split(size):
        yield index, links[index]


def _awakened(
    prover: Prover, model: int, points: Tensor, norm: str, count: int, seed: int, steps: int
) -> Tensor:
    """Proved by an ascent from where a unit of one model begins to be on."""
    one = prover.stack[model : model + 1]
    starts = awake(one, points, norm=norm, seed=seed, count=count)[None]
    both = torch.cat([starts, ascent(one, starts, norm=norm, steps=steps, seed=seed)], 1)
    place = torch.tensor([model], device=both.device)
    return prover.certify(both, norm=norm, models=place).amax()


def _check(**counts: int) -> None:
    for name, value in counts.items():
        check_count(name, value)


def _at_data(
    prover: Prover,
    points: Tensor,
    norms: Sequence[str],
    known: Mapping[str, Tensor],
    take: Callable[[Sequence[str], Mapping[str, Tensor]], dict[str, Tensor]],
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each norm, its values (num_models, n) as ``take`` gives them, and what the largest prove."""
    for norm, values in take(norms, known).items():
        proved = largest_certified(prover, points, values, norm=norm)
        if norm in known and bool((proved == 0).any()):  # nor are others proved by what is known
            values = take([norm], {})[norm]
            proved = largest_certified(prover, points, values, norm=norm)
        yield norm, values, proved


def _norms(
    prover: Prover,
    points: Tensor,
    norms: Sequence[str],
    known: Mapping[str, Tensor],
    *,
    count: int,
    always: Tensor | None,
    restarts: int,
) -> dict[str, Tensor]:
    """Norm -> (num_models, n): the ``count`` largest and those at ``always``; others are below.

    Where it is ``known`` in which points (num_models, k) the largest are, norms are taken there. Of
    models with equal ones among them all are taken, so that which come first is not another matter.
    """
    links, flat = prover.links, points.flatten(1)
    if links is None or not pays(links, len(points)):
        return jac.jacobian_norms(prover.stack, points, norms=norms)
    take, found = partial(leading_norms, count=min(count, len(points)), always=always), {}
    for norm in norms:
        if norm not in known or always is None:
            found[norm] = take(links, flat, norm=norm)
            continue
        where = torch.cat([known[norm], always.expand(len(known[norm]), -1)], 1)
        found[norm] = norms_at(links, flat, where, norm=norm)
        equal = _has_equal(found[norm], count) | _has_equal(found[norm][:, always], restarts)
        if bool(equal.any()):
            found[norm][equal] = take(links[equal], flat, norm=norm)
    return found


def _has_equal(values: Tensor, count: int) -> Tensor:
    """Whether two of the ``count`` largest and the next one are equal, but for rounding."""
    largest = values.topk(min(count + 1, values.shape[1]), dim=1).values
    return (largest[:, :-1] - largest[:, 1:] <= _EQUAL * largest[:, :-1]).any(1)


def _known_places(
    largest: Mapping[str, Mapping[str, Tensor]], inputs: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Where among all points the ``count`` largest norms are: norm -> (num_models, k)."""
    sizes = [len(points) for points in inputs.values()]
    starts = dict(zip(inputs, accumulate([0, *sizes]), strict=False))
    return {
        norm: torch.cat([by_split[split] + start for split, start in starts.items()], 1)
        for norm, by_split in largest.items()
        if count < LARGEST and set(by_split) == set(inputs)
    }


def _every_second(populations: int) -> int:
    """Populations that start from the best of the data."""
    return -(-populations // 2)


def _searched(
    prover: Prover,
    points: Tensor,
    values: Tensor,
    populations: int,
    norm: str,
    *,
    rounds: int,
    seed: int,
) -> Tensor:
    """Proved by what the search finds from points (n, *shape) with norms (num_models, n)."""
    assert prover.links is not None
    points, ends = points.flatten(1), []
    drawn = mixed_starts(points, populations, seed=seed)
    every_second = _every_second(populations)
    wanted = every_second * drawn.shape[1]
    # The best points one to each population, the next best one to each, and so on.
    best = values.topk(min(len(points), wanted), dim=1).indices
    best = best.repeat(1, -(-wanted // best.shape[1]))[:, :wanted]
    best = best.view(len(values), -1, every_second).mT
    for models, group in _groups(prover.links, max(1, _POPULATIONS // populations)):
        starts = drawn.expand(len(models), -1, -1, -1).clone()
        starts[:, ::2] = points[best[models]]
        found = search(
            group,
            starts,
            norm=norm,
            rounds=rounds,
            seed=seed,
            brood=FEW_PLACES,
            project=prover.inside,
        )
        ends.append(found.view(*found.shape[:2], *prover.stack.input_shape))
    return prover.certify(torch.cat(ends)[: len(values)], norm=norm).amax(1)


def _candidates(points: Tensor, count: int | None, seed: int) -> Tensor:
    """Indices of the points among which the starts of the ascent are chosen."""
    generator = torch.Generator().manual_seed(seed)
    if count is None or count >= len(points):
        return torch.arange(len(points), device=points.device)
    return torch.randperm(len(points), generator=generator)[:count].to(points.device)


def _pair_ascent(stack: ModelStack, points: Tensor, norm: str, steps: int) -> Tensor:
    """Any module, one model: the middles (k, *input_shape) of pairs with larger quotients."""
    function = jac.one_model(stack)
    order = {"l2": 2, "linf": torch.inf, "l1": 1}[norm]
    right = jac.steepest(stack, points, norm)
    size = torch.linalg.vector_norm(points.flatten(1), dim=-1).clamp_min(1e-300)
    pair = torch.stack([points.flatten(1), right * (0.03 * size[:, None])])
    best, kept = points.new_zeros(len(points)), points
    for _ in range(steps):
        if over():
            break
        with torch.enable_grad():
            middle, half = variable = pair.clone().requires_grad_()
            a, b = (middle + half).view_as(points), (middle - half).view_as(points)
            top = torch.linalg.vector_norm(function(a) - function(b), ord=order, dim=-1)
            value = top / (2 * torch.linalg.vector_norm(half, ord=order, dim=-1))
            (gradient,) = torch.autograd.grad(value.sum(), variable)
        better = value > best
        best = torch.where(better, value.detach(), best)
        kept = torch.where(better.view(-1, *[1] * (points.ndim - 1)), middle.view_as(points), kept)
        unit = torch.nn.functional.normalize(gradient, dim=-1, eps=1e-300)
        lengths = torch.linalg.vector_norm(pair, dim=-1, keepdim=True)
        pair = pair + unit * lengths * lengths.new_tensor([0.01, 0.1])[:, None, None]
        pair[1] *= 0.03 * size[:, None] / torch.linalg.vector_norm(pair[1], dim=-1, keepdim=True)
    return kept.detach()

"""Norms of a chain's Jacobians at many points, for whoever wants the largest of them.

|J|_2 lies between |J|_F / sqrt(rank) and |J|_F, and closer between two numbers that the entries of
J J^T give (Schatten norms). Points that cannot be among the largest are known by that, and no
eigenvalue of theirs is taken.

Of wide chains signs of pre-activations are taken in float64, the products of the layers in float32,
which takes half the time. How far such a norm is off is bounded (Higham 2002, eq. 3.13), so that a
point which may have one of the largest norms is known, and there the norm is taken in float64.
Where averages are wanted, too, all norms are taken so (:func:`all_norms`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lipdescent.arithmetic.eigenvalues import largest_eigenvalue
from lipdescent.arithmetic.ulps import times_power
from lipdescent.bounds.jacobians.chains import (
    chunk_size,
    few_units,
    gram,
    has_table,
    jacobians_at,
    largest_roots,
    masks_at,
    most_matrices,
    squared,
    sum_norm,
    table_of,
)
from lipdescent.shapes import Float64, Shaped
from lipdescent.structure.relu_chain import Chain, activated

_ROUNDOFF, _UNDERFLOW = 2.0**-24, 2.0**-140  # of float32, the latter with room to spare
_EXACT = 8  # largest norms, at least, that are taken in float64
_MANY = 1000  # points, from which on half of the time is worth the last digits
_NARROW = 32  # below this width products are not what takes the time
_CHUNK = 2**18  # numbers in the largest array
_MODELS = 16  # whose eigenvalues are taken together
# What rounding may do to |J|_F, relative and absolute, and to the numbers that J J^T gives.
_SUM, _SMALL, _SLIGHTLY = 1e-4, 1e-16, 1e-12


def all_pay(links: Chain, count: int) -> bool:
    """Whether to take :func:`all_norms` of ``count`` points in place of all norms in float64.

    Not of few units, as :func:`pays`, but with one hidden layer, whose norms begin no search, where
    there are fewer points than masks.
    """
    hidden = most_matrices(links, count) == count if len(links.weights) == 2 else pays(links, count)
    on_cpu = links.exponents.device.type == "cpu"
    return on_cpu and hidden and count >= _MANY and _single_is_single()


def pays(links: Chain, count: int) -> bool:
    """Whether to take :func:`leading_norms` of ``count`` points in place of all norms in float64.

    Not of few units: many points share their masks there, and which of those with equal norms a
    search begins with would depend on what has been passed over.
    """
    on_cpu = links.exponents.device.type == "cpu"
    return on_cpu and len(links.weights) > 2 and not few_units(links) and count > _EXACT


def in_single(links: Chain) -> bool:
    """Whether products are taken in float32.

    Not where they may be rounded to TF32 or bfloat16, which the bound on their errors knows nothing
    of.
    """
    wide = max(weight.shape[1] for weight in links.weights) >= _NARROW
    return wide and _single_is_single()


def _single_is_single() -> bool:
    return torch.get_float32_matmul_precision() == "highest"


def leading_norms(
    links: Chain,
    points: Float64[Tensor, "points inputs"],
    *,
    norm: str,
    count: int = _EXACT,
    always: Tensor | None = None,
) -> Float64[Tensor, "models points"]:
    """Norms of each model where they are largest, and something below them elsewhere.

    Parameters
    ----------
    count : largest norms that are taken, the 8 largest of them in float64 whatever the products.
    always : indices of points whose norms are taken as well.
    """
    taken = torch.zeros(len(points), dtype=torch.bool)
    if always is not None:
        taken[always] = True
    rough = _rough_values(links, points, norm, max(count, _EXACT), taken)
    if in_single(links):
        _refine(links, points, rough, norm)
    return times_power(rough, links.exponents[:, None].clamp(-2100, 2100))


def all_norms(
    links: Chain,
    points: Float64[Tensor, "points inputs"],
    *,
    norms: Sequence[str],
    count: int = _EXACT,
) -> dict[str, Tensor]:
    """Norm -> (num_models, n) at all points, in float32, and in float64 where they are largest.

    About 1e-6 of the product of the layers' norms off; the ``count`` largest as the largest of
    :func:`leading_norms`, none of the others above them.
    """
    models, parts = len(links.exponents), []
    for start in range(0, models, _MODELS):
        some = [links[m : m + 1] for m in range(start, min(start + _MODELS, models))]
        measured: dict[str, list[Tensor]] = {norm: [] for norm in norms}
        for matrices in (j for one in some for j in _products(one, points, single=True)):
            for norm, found in measured.items():
                found.append(_measured(matrices, norm))
        parts.append({norm: _norms_of(found, norm) for norm, found in measured.items()})
    exponents, result = links.exponents[:, None].clamp(-2100, 2100), {}
    for norm in norms:
        rough = torch.cat([part[norm] for part in parts]).to(torch.float64).view(models, -1)
        _refine(links, points, rough, norm, count)
        result[norm] = times_power(rough, exponents)
    return result


def norms_at(
    links: Chain,
    points: Float64[Tensor, "points inputs"],
    places: Shaped[Tensor, "models k"],
    *,
    norm: str,
) -> Float64[Tensor, "models points"]:
    """Norms of each model at its own places among the points, below 0 elsewhere."""
    values = points.new_full((len(places), len(points)), -torch.inf)
    _take(values, links, points, [own.unique() for own in places], norm)
    return times_power(values, links.exponents[:, None].clamp(-2100, 2100))


def _rough_values(
    links: Chain, points: Tensor, norm: str, count: int, always: Tensor
) -> Float64[Tensor, "models points"]:
    """:func:`leading_norms` without 2^exponents, of products in float32 where they are taken so."""
    ones = [links[m : m + 1] for m in range(len(links.exponents))]
    if norm != "l2":
        return torch.stack([rough_norms(one, points, norm) for one in ones])
    values = []
    for start in range(0, len(ones), _MODELS):
        found = [_candidates(one, points, count, always) for one in ones[start : start + _MODELS]]
        grams = [candidates[2] for candidates in found]
        roots = largest_eigenvalue(torch.cat(grams)).sqrt().split([len(g) for g in grams])
        for (below, where, _), root in zip(found, roots, strict=True):
            below[where] = root
            values.append(below)
    return torch.stack(values)


def _candidates(
    links: Chain, points: Tensor, count: int, always: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one model: numbers below all norms (n,), indices of points that may have one of the
    ``count`` largest rough norms or one that rounding hides, and J J^T of these (k, p, p)."""
    slack = 2 * rough_error(links, "l2") if in_single(links) else 0.0
    below, largest = points.new_zeros(len(points)), points.new_zeros(count)
    places, grams, above, start = [], [], [], 0
    for matrices in _products(links, points, single=in_single(links)):
        size = torch.linalg.vector_norm(matrices.flatten(1), dim=1).to(torch.float64)
        stop = start + len(size)
        below[start:stop] = size * ((1 - _SUM) / math.sqrt(min(matrices.shape[1:])))
        least = largest[-1] * (1 - _SLIGHTLY) - slack
        # Not ">=": what has overflowed is looked at, too.
        doubtful = ~(size * (1 + _SUM) + _SMALL < least)
        chosen = (doubtful | always[start:stop]).nonzero().flatten()
        if len(chosen):
            found = gram(matrices[chosen].to(torch.float64))
            low, high = _between(found)
            largest = torch.cat([largest, low.nan_to_num(0.0, 0.0, 0.0)]).topk(count).values
            places.append(chosen + start)
            grams.append(found)
            above.append(high)
        start = stop
    where, least = torch.cat(places), largest[-1] * (1 - _SLIGHTLY) - slack
    still = ~(torch.cat(above) < least) | always[where]
    return below.nan_to_num(0.0, 0.0, 0.0), where[still], torch.cat(grams)[still]


def _between(grams: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers below and above the square roots of the largest eigenvalues of (n, p, p).

    tr(G^2) / tr(G) <= lambda <= sqrt(tr(G^2)).
    """
    trace = grams.diagonal(dim1=-2, dim2=-1).sum(-1)
    share = (grams / trace[:, None, None]).flatten(1).square().sum(1)
    low, high = (trace * share).sqrt(), (trace * share.sqrt()).sqrt()
    return low * (1 - _SLIGHTLY), high * (1 + _SLIGHTLY)


def _refine(links: Chain, points: Tensor, rough: Tensor, norm: str, count: int = _EXACT) -> None:
    """The ``count`` largest of each model's rough norms (num_models, n) taken in float64, in place.

    Others are below them.
    """
    places = []
    for model, values in enumerate(rough):
        error = rough_error(links[model : model + 1], norm) + _relative(links) * values
        threshold = (values - error).topk(min(count, len(values))).values[-1]
        # Not ">=": what has overflowed in float32 is looked at, too.
        places.append((~(values + error < threshold)).nonzero().flatten())
    _take(rough, links, points, places, norm)


def _take(
    values: Tensor, links: Chain, points: Tensor, places: Sequence[Tensor], norm: str
) -> None:
    """Each model's norms at its own places, in float64 and without 2^exponents, put in place."""
    for start in range(0, len(places), _MODELS):
        some = range(start, min(start + _MODELS, len(places)))
        found = []
        for model in some:
            for part in points[places[model]].split(chunk_size(links)):
                matrices = jacobians_at(links[model : model + 1], part[None])[0]
                found.append(_measured(matrices, norm))
        exact = _norms_of(found, norm).split([len(places[model]) for model in some])
        for model, one in zip(some, exact, strict=True):
            values[model, places[model]] = one


def _products(links: Chain, points: Tensor, *, single: bool) -> Iterator[Tensor]:
    """Jacobians (k, n_out, n_in) of one model at the points, part by part, rough or not."""
    if not single:
        for part in points.split(chunk_size(links)):
            yield jacobians_at(links, part[None])[0]
        return
    if has_table(links):
        table, base = table_of(links)
        table, outputs = table.float(), links.weights[1].shape[1]
        for part in points.split(chunk_size(links)):
            product = masks_at(links, part).float() @ table
            if base is not None:
                product += base.float()
            yield product.view(len(part), outputs, -1)
        return
    first, *rest = [weight[0].float() for weight in links.weights[::-1]]
    size = first.shape[0] * max(weight.shape[2] for weight in links.weights)
    for part in points.split(max(1, _CHUNK // size)):
        slopes = [slope[0].float() for _, _, slope in activated(links, part[None])]
        product = first * slopes.pop()[:, None, :]
        for weight, slope in zip(rest, [*slopes[::-1], None], strict=True):
            product = (product.flatten(0, 1) @ weight).view(len(part), len(first), -1)
            if slope is not None:
                product *= slope[:, None, :]
        yield product


def rough_norms(links: Chain, points: Tensor, norm: str) -> Tensor:
    """(n,) of one model at all points, without 2^exponents, from products as they are taken."""
    products = _products(links, points, single=in_single(links))
    return _norms_of([_measured(one.double(), norm) for one in products], norm)


def _measured(matrices: Tensor, norm: str) -> Tensor:
    """Of Jacobians (n, n_out, n_in) what their norms are made of, all of them at once."""
    return squared(matrices) if norm == "l2" else sum_norm(matrices.abs(), norm)


def _norms_of(measured: Sequence[Tensor], norm: str) -> Tensor:
    return largest_roots(measured) if norm == "l2" else torch.cat(list(measured))


def rough_error(links: Chain, norm: str) -> float:
    """How far a rough norm is off at most: gamma(k) |W_L|_F ... |W_1|_F, in the units of the norm.

    Each weight and slope is rounded once, each product of a layer rounds as often as it has terms.
    """
    widths = [weight.shape[2] for weight in links.weights]
    roundings = (sum(widths[1:]) + 4 * len(widths)) * _ROUNDOFF
    # A mask's slopes are those of units that are off, and more where they are on.
    steep = math.prod(max(1.0, abs(off) + abs(on - off), abs(on)) for off, on in links.slopes)
    frobenius = steep * math.prod(float(torch.linalg.vector_norm(w[0])) for w in links.weights)
    underflow = _UNDERFLOW * steep * math.prod(widths) * links.weights[-1].shape[1]
    rows = {"l2": 1, "linf": widths[0], "l1": links.weights[-1].shape[1]}[norm]
    return math.sqrt(rows) * (roundings / (1 - roundings) * frobenius + underflow)


def _relative(links: Chain) -> float:
    """How far norms of Jacobians in float32 are off more than these, relative, at most."""
    short, long = sorted((links.weights[-1].shape[1], links.weights[0].shape[2]))
    return short * (long + 20 * short) * _ROUNDOFF

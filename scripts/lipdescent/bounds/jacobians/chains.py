"""Jacobians of chains of Linear and piecewise-linear activations, and their norms.

One hidden layer: J(x) = W2 D(x) W1 is linear in the mask D(x), so all points of a model take one
product ``mask @ T`` with the table T[h, (o, i)] = W2[o, h] W1[h, i]. Deeper: masks forward,
products backward. One model at a time, in float64, so that a model's numbers are the same bit by
bit whatever else is in its stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lipdescent.arithmetic.eigenvalues import LARGEST, largest_eigenvalue
from lipdescent.shapes import Bool, Float, Float64
from lipdescent.structure.relu_chain import Chain, activated

_CHUNK = {"cpu": 2**18, "cuda": 2**24}  # numbers in the largest array; measured at n_out n_in = 400
_TABLE = 2**24  # numbers in the largest table
_FEW_UNITS = 24  # of all hidden layers, up to which equal masks are common enough to look for
_MANY_POINTS = 8  # chunks of them at a time, of which the masks are compared


def chain_norms(
    links: Chain, models: Sequence[int], points: Tensor, norms: Sequence[str]
) -> list[dict[str, Tensor]]:
    """For each of ``models``: norm -> (n,), without 2^exponents."""
    few = few_units(links) and not has_table(links)
    chunks = points.split(chunk_size(links) * (_MANY_POINTS if few else 1))
    jacobians = _table_jacobians if has_table(links) else deep_jacobians
    grams, inverses, found = [], [], []
    for model in models:
        sums: dict[str, list[Tensor]] = {norm: [] for norm in norms if norm != "l2"}
        for matrices, inverse in jacobians(links[model : model + 1], chunks):
            if "l2" in norms:
                grams.append(squared(matrices))
                inverses.append(inverse)
            matrices = matrices.abs_() if sums else matrices
            for norm in sums:
                sums[norm].append(_restored(sum_norm(matrices, norm), inverse))
        found.append({norm: torch.cat(parts) for norm, parts in sums.items()})
    if "l2" in norms:
        values = largest_roots(grams).split([len(g) for g in grams])
        values = [_restored(v, inverse) for v, inverse in zip(values, inverses, strict=True)]
        for one, value in zip(found, torch.cat(values).split(len(points)), strict=True):
            one["l2"] = value
    return found


def most_matrices(links: Chain, count: int) -> int:
    """Jacobians that are taken at ``count`` points, at most."""
    units = sum(weight.shape[1] for weight in links.weights[:-1])
    return min(count, 2**units) if units <= _FEW_UNITS else count


def few_units(links: Chain) -> bool:
    return sum(weight.shape[1] for weight in links.weights[:-1]) <= _FEW_UNITS


def has_table(links: Chain) -> bool:
    outputs, hidden, features = (*links.weights[-1].shape[1:], links.weights[0].shape[2])
    return len(links.weights) == 2 and hidden * outputs * features <= _TABLE


def chunk_size(links: Chain) -> int:
    """Points whose Jacobians are taken at a time."""
    outputs, features = links.weights[-1].shape[1], links.weights[0].shape[2]
    widest = max(weight.shape[1] for weight in links.weights)
    largest = max(outputs * features, widest if has_table(links) else outputs * widest)
    return max(1, _CHUNK.get(links.exponents.device.type, 2**18) // largest)


def _restored(values: Tensor, inverse: Tensor | None) -> Tensor:
    return values if inverse is None else values[inverse]


def _table_jacobians(
    links: Chain, chunks: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One hidden layer, one model, for every chunk (n, n_in) of points.

    Yields the Jacobians (k, n_out, n_in) of the k different masks and the mask (n,) that each
    point has, or those of the n points and None.
    """
    outputs, table, base = len(links.weights[1][0]), *table_of(links)
    for points in chunks:
        masks, inverse = masks_at(links, points).to(torch.float64), None
        if few_units(links):
            where, inverse = _distinct(masks)
            masks = masks[where]
        flat = masks @ table
        if base is not None:
            flat += base
        yield flat.view(len(flat), outputs, -1), inverse


def table_of(links: Chain) -> tuple[Tensor, Tensor | None]:
    """Of one model with one hidden layer (width, n_out n_in) and (n_out n_in,) or None.

    The Jacobians are masks @ the first + the second, None for 0.
    """
    first, last = links.weights[0][0], links.weights[1][0]
    negative, positive = links.slopes[0]
    table = (last.T[:, :, None] * first[:, None, :]).flatten(1)
    if positive - negative != 1:
        table *= positive - negative
    return table, negative * (last @ first).flatten() if negative else None


def masks_at(links: Chain, points: Float64[Tensor, "n inputs"]) -> Bool[Tensor, "n width"]:
    """Which units of one hidden layer of one model are on."""
    before = points @ links.weights[0][0].T
    if links.biases[0] is not None:
        before += links.biases[0]
    return before > 0


def _distinct(masks: Tensor) -> tuple[Tensor, Tensor]:
    """One place of each different row among (n, width), and which of them each row is."""
    powers = 2.0 ** torch.arange(masks.shape[1], dtype=torch.float64, device=masks.device)
    codes, inverse = torch.unique(masks @ powers, return_inverse=True)
    where = torch.empty_like(inverse[: len(codes)])
    where[inverse] = torch.arange(len(inverse), device=inverse.device)
    return where, inverse


def deep_jacobians(
    links: Chain, chunks: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Any depth, one model, as :func:`_table_jacobians`."""
    for points in chunks:
        slopes = [slope for _, _, slope in activated(links, points[None])]
        inverse, count = None, len(points)
        if slopes and few_units(links):
            ups = (positive for _, positive in links.slopes)
            masks = [slope[0] == up for slope, up in zip(slopes, ups, strict=True)]
            where, inverse = _distinct(torch.cat(masks, 1).to(torch.float64))
            slopes, count = [slope[:, where] for slope in slopes], len(where)
        yield jacobians_of(links, slopes, count)[0], inverse


def jacobians_at(
    links: Chain, points: Float64[Tensor, "models k inputs"]
) -> Float64[Tensor, "models k outputs inputs"]:
    """Any depth, own points (num_models, k, n_in) of each model: (num_models, k, n_out, n_in).

    How a batched product rounds may depend on the number of models.
    """
    slopes = [slope for _, _, slope in activated(links, points)]
    return jacobians_of(links, slopes, points.shape[1])


def jacobians_of(
    links: Chain, slopes: Sequence[Tensor], count: int
) -> Float64[Tensor, "models k outputs inputs"]:
    """:func:`jacobians_at` ``count`` points of each model with these slopes of every layer."""
    product = links.weights[-1][:, None].expand(-1, count, -1, -1)
    if not slopes:
        return product.clone()  # of a linear map: callers may write in it
    last = slopes[-1]
    for weight, slope in zip(links.weights[-2::-1], slopes[::-1], strict=True):
        wide = slope[:, :, None, :]
        scaled = product * wide if slope is last else product.mul_(wide)
        product = (scaled.flatten(1, 2) @ weight).view(*product.shape[:3], -1)
    return product


def soft_product(
    links: Chain,
    points: Float64[Tensor, "models k inputs"],
    left: Float64[Tensor, "models k outputs"],
    right: Float64[Tensor, "models k inputs"],
    *,
    sharpness: float,
) -> Float64[Tensor, "models k"]:
    """u^T J(x) v (num_models, k) with sigmoids in place of the steps of the slopes.

    The sigmoids' argument is ``sharpness`` pre-activation / its mean absolute value at a point;
    ``left`` (num_models, k, n_out), ``right`` (num_models, k, n_in).
    """
    tangent = right
    layers = zip(activated(links, points), links.slopes, strict=True)
    for (weight, hidden, _), (negative, positive) in layers:
        scale = hidden.detach().abs().mean(-1, keepdim=True).clamp_min(1e-300)
        soft = negative + (positive - negative) * torch.sigmoid(sharpness * hidden / scale)
        tangent = (tangent @ weight.mT) * soft
    return ((tangent @ links.weights[-1].mT) * left).sum(-1)


def gram(matrices: Float[Tensor, "n outputs inputs"]) -> Float[Tensor, "n p p"]:
    """J J^T or J^T J of every matrix (n, n_out, n_in), whichever is smaller."""
    short = matrices if matrices.shape[-1] >= matrices.shape[-2] else matrices.mT
    return short @ short.mT


def squared(matrices: Float[Tensor, "n outputs inputs"]) -> Float[Tensor, "n ..."]:
    """What :func:`largest_roots` takes: J J^T, small ones, which want to be many at a time.

    Large ones are no more held than a part needs: of these the largest eigenvalues (n,).
    """
    found = gram(matrices)
    return found if found.shape[-1] <= LARGEST else largest_eigenvalue(found)


def largest_roots(parts: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """l2 norms of all matrices whose parts :func:`squared` took."""
    together = torch.cat(list(parts))
    return (largest_eigenvalue(together) if together.ndim == 3 else together).sqrt()


def sum_norm(absolute: Float[Tensor, "n outputs inputs"], norm: str) -> Float[Tensor, " n"]:
    """The "linf" or "l1" operator norm (n,) from the absolute values (n, n_out, n_in)."""
    return absolute.sum(-1 if norm == "linf" else -2).amax(-1)

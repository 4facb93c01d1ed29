"""Norms of a deep chain's Jacobians at many points, for whoever wants the largest of them.

Signs of pre-activations are taken in float64, the products of the layers in float32, which takes
half the time. How far such a norm is off is bounded (Higham 2002, eq. 3.13), so that a point which
may have one of the largest norms is known, and there the norm is taken in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipdescent.arithmetic.eigenvalues import largest_eigenvalue
from lipdescent.arithmetic.ulps import times_power
from lipdescent.bounds.jacobians.chains import chain_norms, gram, sum_norm
from lipdescent.shapes import Float64
from lipdescent.structure.relu_chain import Chain, activated

_ROUNDOFF, _UNDERFLOW = 2.0**-24, 2.0**-140  # of float32, the latter with room to spare
_EXACT = 8  # largest norms, at least, that are taken in float64
_NARROW = 32  # below this width products are not what takes the time
_CHUNK = 2**18  # numbers in the largest array


def pays(links: Chain, count: int) -> bool:
    """Whether :func:`leading_norms` of ``count`` points is faster than all norms in float64.

    Not where float32 products may be rounded to TF32 or bfloat16, which its bound knows nothing of.
    """
    wide = len(links.weights) > 2 and max(weight.shape[1] for weight in links.weights) >= _NARROW
    plain = (
        links.exponents.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    )
    return wide and plain and count > _EXACT


def leading_norms(
    links: Chain, points: Float64[Tensor, "points inputs"], *, norm: str
) -> Float64[Tensor, "models points"]:
    """The 8 largest norms of each model in float64, and which they are; the others in float32."""
    found = [_of_one(links[m : m + 1], points, norm) for m in range(len(links.exponents))]
    return times_power(torch.stack(found), links.exponents[:, None].clamp(-2100, 2100))


def _of_one(links: Chain, points: Tensor, norm: str) -> Tensor:
    values = rough_norms(links, points, norm)
    error = rough_error(links, norm) + 1e-9 * values
    threshold = (values - error).topk(_EXACT).values[-1]
    # Not ">=": what has overflowed in float32 is looked at, too.
    open_ones = (~(values + error < threshold)).nonzero().flatten()
    values[open_ones] = chain_norms(links, [0], points[open_ones], [norm])[0][norm]
    return values


def rough_norms(links: Chain, points: Tensor, norm: str) -> Tensor:
    """(n,) of one model, from products in float32, without 2^exponents."""
    weights = [weight.float() for weight in links.weights]
    size = weights[-1].shape[1] * max(weight.shape[2] for weight in weights)
    found = []
    for part in points.split(max(1, _CHUNK // size)):
        slopes = [slope[0].float() for _, _, slope in activated(links, part[None])]
        product = weights[-1].expand(len(part), -1, -1)
        for weight, slope in zip(weights[-2::-1], slopes[::-1], strict=True):
            product = (product * slope[:, None, :]) @ weight[0]
        matrices = product.double()
        if norm == "l2":
            found.append(gram(matrices))
        else:
            found.append(sum_norm(matrices.abs(), norm))
    together = torch.cat(found)
    return largest_eigenvalue(together).sqrt() if norm == "l2" else together


def rough_error(links: Chain, norm: str) -> float:
    """How far a rough norm is off at most: gamma(k) |W_L|_F ... |W_1|_F, in the units of the norm.

    Each weight and slope is rounded once, each product of a layer rounds as often as it has terms.
    """
    widths = [weight.shape[2] for weight in links.weights]
    roundings = (sum(widths[1:]) + 4 * len(widths)) * _ROUNDOFF
    steep = math.prod(max(1.0, *map(abs, pair)) for pair in links.slopes)
    frobenius = steep * math.prod(float(torch.linalg.vector_norm(w[0])) for w in links.weights)
    underflow = _UNDERFLOW * steep * math.prod(widths) * links.weights[-1].shape[1]
    rows = {"l2": 1, "linf": widths[0], "l1": links.weights[-1].shape[1]}[norm]
    return math.sqrt(rows) * (roundings / (1 - roundings) * frobenius + underflow)

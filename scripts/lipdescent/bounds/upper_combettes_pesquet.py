"""Combettes and Pesquet's bound for averaged activations, in l2.

Combettes & Pesquet, SIAM J. Math. Data Sci. 2 (2020), arXiv 1903.01014, theorem 4.2. An activation
with slopes in [a, b] is m Id + r Q with m = (a + b) / 2, r = (b - a) / 2 and Q non-expansive.
Multiplying out the network over both terms of every layer gives a sum over the 2^depth ways of
cutting it into pieces; grouped by the last cut it is the recursion

    theta_0 = 1,  theta_k = sum_{j < k} r_j theta_j |m_{k-1} ... m_{j+1} W_k ... W_{j+1}|_2

(r_0 = 1) with depth (depth + 1) / 2 norms, and theta_{depth + 1} bounds the Lipschitz constant. It
is at most the layer product, as |W_k ... W_{j+1}| is at most the product of the norms.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, norm_frobenius
from lipdescent.arithmetic.ulps import TINY, gamma, product_up, round_up, unscaled_up
from lipdescent.measurement import Measurement, refuse_other_norms
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import AffineChain, affine_chain
from lipdescent.structure.scaling import scaled_chain, with_lost
from lipdescent.structure.slope_intervals import recentred

DIRECTION = "upper"
NORMS = ("l2",)


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = NORMS,
    seed: int = 0,
) -> Iterator[Measurement]:
    """Yield ``upper_combettes_pesquet``, certified. ``inputs`` and ``seed`` are not used.

    Raises
    ------
    NotApplicable
        For a norm other than l2, or a network that is not a fully connected chain.
    ValueError
        If a weight is NaN or infinite.
    """
    refuse_other_norms(norms, NORMS)
    values = combettes_pesquet(affine_chain(stack))
    yield Measurement("upper_combettes_pesquet", DIRECTION, "l2", values)


def combettes_pesquet(chain: AffineChain) -> Float64[Tensor, " models"]:
    """Certified Combettes-Pesquet bound of every model: float64 (S,)."""
    # Layers scaled to entries of order one, so that products of many do not overflow.
    weights, slopes, exponent, lost = scaled_chain(chain.weights, chain.slopes)
    centres = [recentred(interval) for interval in slopes]
    theta = [torch.ones_like(chain.errors[0])]
    for k in range(len(weights)):
        terms = torch.zeros_like(theta[0])
        piece, error, middle = weights[k], torch.zeros_like(theta[0]), 1.0
        for j in range(k, -1, -1):  # the piece W_k ... W_j
            if j < k:
                product = norm_frobenius(piece), norm_frobenius(weights[j])
                rounding = gamma(piece.shape[-1] + 1) * product[0] * product[1]
                rounding = round_up(rounding, 2) + piece[0].numel() * weights[j].shape[-1] * TINY
                error = round_up(round_up(error * product[1], 1) + rounding, 2)
                piece = piece @ weights[j]
                middle = math.nextafter(middle * abs(centres[j][0]), math.inf)
            norm = certified_spectral_norm(piece, error=error)
            cut = theta[j] * (centres[j - 1][1] if j else 1.0)
            terms = terms + product_up([norm, cut.abs(), torch.full_like(norm, middle)])
        theta.append(torch.where(terms > 0, round_up(terms, len(weights) + 4), terms))
    bound = unscaled_up(with_lost(theta[-1], lost), exponent)
    return torch.minimum(with_lost(bound, chain.excess()), chain.product())

"""ECLipsE-Fast: LipSDP with one multiplier per layer, in closed form, in l2.

Xu & Sivaranjani, NeurIPS 2024, arXiv 2404.04375, algorithm 1 with proposition 4, for slopes in
[m - r, m + r]. With G_i = W_i Y_{i-1}^-1 W_i^T, Y_0 = I, eliminating the layers of LipSDP's matrix
one after the other leaves

    Y_i^-1 = I / l_i + m^2 G_i (I - r^2 l_i G_i)^-1,

and the bound is |G_L|^(1/2). l_i = 1 / (r (|m| + r) |G_i|), which is 2 / |G_i| for ReLU, minimises
|Y_i^-1|; then |Y_i^-1| = (|m| + r)^2 |G_i|, so that the bound never exceeds the layer product.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import scaled_to_one, times_power, unscaled_up
from lipdescent.bounds.lipsdp.certificate import certify_chain, normalised
from lipdescent.bounds.lipsdp.multipliers import layer_multipliers
from lipdescent.bounds.lipsdp.shallow import certify
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import AffineChain, affine_chain
from lipdescent.structure.scaling import (
    balanced,
    scaled_chain,
    scaled_slopes,
    with_lost,
    without_dead,
)
from lipdescent.structure.slope_intervals import Interval, recentred

DIRECTION = "upper"
NORMS = ("l2",)
MAX_SIZE = 4096  # inputs + hidden units of a deep chain: the matrix that is certified
_ENTRIES = 2**22


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = NORMS,
    seed: int = 0,
) -> Iterator[Measurement]:
    """Yield ``upper_eclipse_fast``, certified. ``inputs`` and ``seed`` are not used.

    Raises
    ------
    NotApplicable
        For a norm other than l2, a network that is not a fully connected chain, or two and more
        hidden layers with more than ``MAX_SIZE`` inputs and units together.
    ValueError
        If a weight is NaN or infinite.
    """
    refuse_other_norms(norms, NORMS)
    yield Measurement("upper_eclipse_fast", DIRECTION, "l2", eclipse_fast(affine_chain(stack)))


def eclipse_fast(chain: AffineChain) -> Float64[Tensor, " models"]:
    """Certified ECLipsE-Fast bound of every model: float64 (S,), at most the layer product."""
    product = chain.product()
    if chain.depth == 0:
        return product
    refuse_large(chain)
    bounds = []
    for part in chunks(chain.weights):
        bounds.append(
            _shallow(part, chain.slopes) if chain.depth == 1 else _deep(part, chain.slopes)
        )
    bound = torch.cat(bounds) if bounds else product
    return torch.minimum(with_lost(bound, chain.excess()), product)


def roughly(chain: AffineChain) -> Tensor:
    """The formula's value in plain float64, nothing certified or added for merged layers: (S,)."""
    weights, slopes, exponent, _ = scaled_chain(chain.weights, chain.slopes)
    squares = [layer_multipliers(part, slopes)[1] for part in chunks(weights)]
    square = torch.cat(squares) if squares else chain.errors[0]
    return times_power(square.sqrt(), exponent)


def refuse_large(chain: AffineChain) -> None:
    size = sum(weight.shape[2] for weight in chain.weights)
    if chain.depth > 1 and size > MAX_SIZE:
        raise NotApplicable(f"{size} inputs and hidden units; a deep chain may have {MAX_SIZE}")


def chunks(weights: list[Tensor]) -> Iterator[list[Tensor]]:
    """Split the models so that a chunk's matrices stay small."""
    size = sum(weight.shape[2] for weight in weights)
    largest = size * size if len(weights) > 2 else max(w[0].numel() for w in weights)
    count = max(1, _ENTRIES // (4 * largest))
    return (list(part) for part in zip(*(w.split(count) for w in weights), strict=True))


def _shallow(weights: list[Tensor], slopes: list[Interval]) -> Tensor:
    units = balanced(*weights)
    slopes, power = scaled_slopes(slopes)
    plain = [scaled_to_one(weight)[0] for weight in without_dead(weights)]
    (multiplier,), square = layer_multipliers(plain, slopes)
    # The multipliers T of LipSDP and the d of its eigenvalue form: d = r |J| T.
    scale = recentred(slopes[0])[1] * square.sqrt().clamp_min(1e-150) * multiplier
    theta = scale.log()[:, None] - 2 * math.log(2) * units.shift.to(torch.float64)
    return certify(units, theta, slopes=slopes[0], power=power)


def _deep(weights: list[Tensor], slopes: list[Interval]) -> Tensor:
    small, slopes, exponent, lost = normalised(weights, slopes)
    scalars, _ = layer_multipliers(small, slopes)
    multipliers = [
        s[:, None].expand(-1, w.shape[1]) for s, w in zip(scalars, small[:-1], strict=True)
    ]
    return unscaled_up(with_lost(certify_chain(small, multipliers, slopes), lost), exponent)

"""ECLipsE-Fast's multipliers of a chain's layers, in closed form.

Xu & Sivaranjani, NeurIPS 2024, arXiv 2404.04375, algorithm 1 with proposition 4; the formulas are
in :mod:`lipdescent.bounds.upper_eclipse_fast`.
"""

import torch
from torch import Tensor

from lipdescent.structure.slope_intervals import Interval, recentred


def layer_multipliers(weights: list[Tensor], slopes: list[Interval]) -> tuple[list[Tensor], Tensor]:
    """l_i (S,) of every hidden layer and the squared bound (S,), in plain float64."""
    multipliers: list[Tensor] = []
    first = weights[0]
    tall = first.shape[1] > first.shape[2]
    gram = first.mT @ first if tall else first @ first.mT
    for weight, interval in zip(weights[1:], slopes, strict=True):
        middle, radius = recentred(interval)
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp_min(0.0)
        inverse = (radius * (abs(middle) + radius) * values[:, -1]).clamp_min(1e-250)
        remain = (1 - radius**2 * values / inverse[:, None]).clamp_min(1e-9)
        if tall and not multipliers:  # G = V V^T with V = W_1, of which V^T V is at hand
            basis, spread = first @ vectors, 1 / remain
        else:
            basis, spread = vectors, values / remain
        image = abs(middle) * (weight @ basis) * spread.sqrt()[:, None]
        gram = inverse[:, None, None] * (weight @ weight.mT) + image @ image.mT
        multipliers.append(1 / inverse)
    return multipliers, torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0.0)


def check_multipliers(given: str) -> str:
    """Whether an SDP bound has a multiplier for every unit, or a single one for every layer."""
    if given not in ("unit", "layer"):
        raise ValueError(f"multipliers: {given!r}; allowed are 'unit', 'layer'")
    return given

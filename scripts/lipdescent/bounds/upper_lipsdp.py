"""LipSDP-Neuron in l2, without an SDP solver: certified at whatever iterate it stops.

Fazlyab, Robey, Hassani, Morari & Pappas, NeurIPS 2019, arXiv 1906.04893, sec. 2.2, one multiplier
per hidden unit. One hidden layer is an eigenvalue problem of size n_in + n_out whatever the width
(``lipsdp/shallow.py``); deeper chains are solved by a log-barrier (``lipsdp/deep.py``). The third
variant of the paper, LipSDP-Network, is not valid and not offered.

The value is the smallest of four valid bounds: LipSDP at the last iterate, Combettes-Pesquet,
ECLipsE-Fast and the layer product. In exact arithmetic LipSDP is below the other two SDP-like
bounds for one hidden layer; stopped early, or for deep chains, Combettes-Pesquet can be smaller.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds.geolip.deep import deep_sdp
from lipdescent.bounds.lipsdp.deep import deep_lipsdp
from lipdescent.bounds.lipsdp.multipliers import check_multipliers
from lipdescent.bounds.lipsdp.shallow import shallow_lipsdp
from lipdescent.bounds.upper_combettes_pesquet import combettes_pesquet
from lipdescent.bounds.upper_eclipse_fast import chunks, eclipse_fast, refuse_large, roughly
from lipdescent.measurement import Measurement, refuse_other_norms
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import AffineChain, affine_chain
from lipdescent.structure.scaling import with_lost
from lipdescent.structure.slope_intervals import Interval

DIRECTION = "upper"
NORMS = ("l2",)


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = NORMS,
    seed: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 60,
    multipliers: str = "unit",
) -> Iterator[Measurement]:
    """Yield ``upper_lipsdp``, certified. ``inputs`` and ``seed`` are not used, nothing is drawn.

    Parameters
    ----------
    tolerance : relative distance to the SDP's optimum to aim at, 1e-8 to 1e-1. Measured on trained
        40-w-10 networks the value ends at most .4 tolerances above the optimum.
    max_steps : Newton steps at most; the bound is valid at any number, 0 included.
    multipliers : "unit", or "layer": a single one for all units of a hidden layer (the paper's
        LipSDP-Layer), looser. Then the value is the smaller one of it and the layer product.

    Raises
    ------
    NotApplicable
        For a norm other than l2, a network that is not a fully connected chain, or two and more
        hidden layers with more than ``upper_eclipse_fast.MAX_SIZE`` inputs and units together.
    ValueError
        If a weight is NaN or infinite, or an option is outside its range.
    """
    refuse_other_norms(norms, NORMS)
    chain = affine_chain(stack)
    if check_multipliers(multipliers) == "layer":
        values = lipsdp_layer(chain, tolerance=tolerance)
    else:
        values = lipsdp_chain(chain, tolerance=tolerance, max_steps=max_steps)
    yield Measurement("upper_lipsdp", DIRECTION, "l2", values)


def lipsdp(
    weights: Sequence[Tensor],
    *,
    slopes: Interval | Sequence[Interval] = (0.0, 1.0),
    tolerance: float = 1e-3,
    max_steps: int = 60,
) -> Tensor:
    """Certified l2 Lipschitz bound of x -> W_L phi(... phi(W_1 x)).

    Parameters
    ----------
    weights : (..., width_i, width_{i-1}) each, with equal leading axes; lifted to float64.
    slopes : (a, b) of the activation, a < b, or one pair per hidden layer.

    Returns
    -------
    float64 (...).

    Raises
    ------
    NotApplicable, TypeError, ValueError
        As :func:`measure`, and for weights that do not fit together.
    """
    pairs = _pairs(slopes, len(weights) - 1)
    if not weights or len(pairs) != len(weights) - 1:
        raise ValueError(f"{len(weights)} weights and {len(pairs)} slopes: one less is allowed")
    shape = weights[0].shape[:-2]
    for before, after in pairwise(weights):
        if after.shape[:-2] != shape or after.shape[-1] != before.shape[-2]:
            raise ValueError(f"weights {tuple(before.shape)} and {tuple(after.shape)} do not fit")
    flat = [w.reshape(-1, *w.shape[-2:]).to(torch.float64) for w in weights]
    none = flat[0].new_zeros(len(flat[0]))
    chain = AffineChain(flat, [], pairs, [none] * len(flat))
    return lipsdp_chain(chain, tolerance=tolerance, max_steps=max_steps).reshape(shape)


def lipsdp_chain(chain: AffineChain, *, tolerance: float, max_steps: int) -> Tensor:
    """Certified bound (S,) of every model of a chain."""
    if not 1e-8 <= tolerance <= 0.1:
        raise ValueError(f"tolerance = {tolerance}: allowed are 1e-8 to 0.1")
    if max_steps < 0:
        raise ValueError(f"max_steps = {max_steps}: allowed are 0 and more")
    for low, high in chain.slopes:
        if not low < high:
            raise ValueError(f"slopes ({low}, {high}): allowed are a < b")
    if chain.depth == 0:
        return chain.product()
    refuse_large(chain)
    best = combettes_pesquet(chain)
    options: dict[str, Any] = {"tolerance": tolerance, "max_steps": max_steps}
    if chain.depth == 1:
        first, second = chain.weights
        bound = shallow_lipsdp(first, second, slopes=chain.slopes[0], **options)
    else:
        parts = [deep_lipsdp(part, chain.slopes, **options) for part in chunks(chain.weights)]
        bound = torch.cat(parts) if parts else chain.errors[0]
    # Certifying ECLipsE-Fast costs as much as certifying LipSDP: only where it could be smaller.
    close = ~(bound <= roughly(chain) * (1 - 1e-6))
    if bool(close.any()):
        best[close] = torch.minimum(best[close], eclipse_fast(chain.select(close)))
    return torch.minimum(with_lost(bound, chain.excess()), best)


@torch.no_grad()
def lipsdp_layer(chain: AffineChain, *, tolerance: float) -> Tensor:
    """Certified bound (S,) with one multiplier for each hidden layer, at most the layer product."""
    product = chain.product()
    if chain.depth == 0:
        return product
    refuse_large(chain)
    solve = partial(deep_sdp, norm="l2", tolerance=tolerance, per_layer=True)
    parts = [solve(part, chain.slopes)[0] for part in chunks(chain.weights)]
    bound = torch.cat(parts) if parts else product
    return torch.minimum(with_lost(bound, chain.excess()), product)


def _pairs(slopes: Any, count: int) -> list[Interval]:
    """A pair per hidden layer."""
    one = len(slopes) == 2 and not isinstance(slopes[0], Sequence)
    return [(float(a), float(b)) for a, b in ([slopes] * count if one else slopes)]

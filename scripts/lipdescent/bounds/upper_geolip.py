"""GeoLIP: the SDP upper bound on the l_inf Lipschitz constant, certified, without an SDP solver.

Wang, Prakriya & Jha, "A Quantitative Geometric Approach to Neural Network Smoothness", arXiv
2203.01212. A logit is Lipschitz from l_inf to the reals with at most the SDP's value; as
|f(x) - f(y)|_inf is the largest difference of a logit, the whole map is with at most the largest
value. With slopes in [a, b], m = (a + b) / 2 and r = (b - a) / 2, the Jacobian of a logit u of
one hidden layer is A s, A = W1^T diag(u), s in [a, b]^h, so that

    max_s |A s|_1 = max over signs x, z of x^T B z <= sdp(B),  B = [r A, m A 1]

(``geolip/natural.py``); sdp(B) is at most K_G < 1.783 times the left side (Grothendieck), and at
most sum_j |u_j| max(|a|, |b|) |w_j|_1, hence at most the layer product. In l2 likewise, |A s|_2, at
most sqrt(pi / 2) times. Deeper networks: ``geolip/deep.py``. Whatever the iterations reach is a
valid bound, rounding included; the smaller one of it and the path norm |u|^T |W_L| ... |W_1| 1
(with the slopes) is returned, so that it is never above the layer product.

Cost: all logits of a 40-w-10 network, w = 64 / 512 / 1024: about 20 / 70 / 190 ms on one CPU
thread to a gap of 1e-4 (benchmarks/bounds_geolip.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import length_up, norm_linf
from lipdescent.arithmetic.ulps import TINY, gamma, product_up, round_up, unscaled_up
from lipdescent.bounds.geolip.deep import deep_sdp
from lipdescent.bounds.geolip.natural import natural_sdp
from lipdescent.bounds.lipsdp.multipliers import check_multipliers
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import AffineChain, affine_chain
from lipdescent.structure.scaling import balanced, scaled_chain, scaled_slopes, with_lost
from lipdescent.structure.slope_intervals import Interval

DIRECTION = "upper"
NORMS = ("linf",)
_CHUNK = 2**18  # entries of the matrices B worked on at once: what fits a CPU's cache
_CHUNK_CUDA = 2**25
_LARGEST = 2**24  # of one model's matrices: 128 MiB


@torch.no_grad()
def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = NORMS,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_iterations: int = 1024,
    max_units: int = 2048,
    multipliers: str = "unit",
) -> Iterator[Measurement]:
    """Yield ``upper_geolip`` of the whole map, l_inf to l_inf.

    Parameters
    ----------
    inputs, seed : not used.
    tolerance : relative gap to the SDP's value at which the search stops.
    max_iterations : of the low-rank ascent.
    max_units : largest number of hidden units of a deeper network and, if there are fewer inputs
        than units in its first layer, of inputs.
    multipliers : "unit", or "layer": a single one for all units of a hidden layer, looser.

    Raises
    ------
    NotApplicable
        For another norm, a network that is no chain of linear layers and activations, or a deeper
        one that is too large.
    ValueError
        For weights that are not finite, a tolerance that is not positive, or other multipliers.
    """
    refuse_other_norms(norms, NORMS)
    options: dict[str, Any] = {"tolerance": tolerance, "max_iterations": max_iterations}
    options |= {"max_units": max_units, "multipliers": multipliers}
    value = _bounds(stack, norm="linf", only_largest=True, **options).amax(1)
    yield Measurement("upper_geolip", DIRECTION, "linf", value)


@torch.no_grad()
def per_logit(
    stack: ModelStack, *, norm: str = "linf", tolerance: float = 1e-4, max_units: int = 2048
) -> Tensor:
    """Certified Lipschitz bound of every logit, from ``norm`` to the reals.

    Returns
    -------
    float64 (num_models, num_logits).

    Raises
    ------
    As :func:`measure`.
    """
    refuse_other_norms((norm,), ("linf", "l2"))
    options: dict[str, Any] = {"max_iterations": 1024, "max_units": max_units}
    options |= {"tolerance": tolerance, "multipliers": "unit"}
    return _bounds(stack, norm=norm, only_largest=False, **options)


def natural_matrix(
    first: Float64[Tensor, "S h n"], last: Float64[Tensor, "S K h"], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """B = [r A, m A 1] of every logit, and what its rounding adds to the bound.

    Parameters
    ----------
    first, last : float64 (S, h, n) and (S, K, h).
    low, high : float64, slopes a and b, broadcastable to (S, h).

    Returns
    -------
    (S, K, n, h + 1), and (S, K): the sum of |B - fl(B)| is at most that.
    """
    mean, radius = (low + high) / 2, (high - low) / 2
    entries = last[:, :, None, :] * first.mT[:, None]
    sides = entries * radius[..., None, None, :]
    middle = (entries * mean[..., None, None, :]).sum(-1, keepdim=True)
    steep = low.abs() + high.abs()
    size = (entries.abs() * steep[..., None, None, :]).sum((-1, -2))
    error = round_up(gamma(first.shape[1] + 8) * size, entries[0, 0].numel() + 8)
    nonzero = ((first != 0).any((-1, -2)) & (last != 0).any(-1).any(-1))[..., None]
    # What underflows: in two products per entry, the first of which a slope multiplies.
    small = entries[0, 0].numel() * 2.0**-1072
    error = torch.where(
        nonzero, round_up(error + small * (1 + steep.amax(-1, keepdim=True)), 4), error
    )
    return torch.cat([sides, middle], -1), error


def one_hidden_layer(
    first: Float64[Tensor, "S h n"],
    last: Float64[Tensor, "S K h"],
    low: Tensor,
    high: Tensor,
    *,
    norm: str = "linf",
    power: int = 0,
    **options: Any,
) -> Float64[Tensor, "S K"]:
    """Certified bound of every logit of W2 phi(W1 x), slopes per unit allowed: (S, K).

    Arguments as in :func:`natural_matrix`; the result is multiplied by 2^power; ``options`` of
    :func:`natural_sdp`, of which ``only_largest`` gives up the logits of a model that cannot be
    its largest.
    """
    low, high = (s.expand(first.shape[:2]) for s in (low, high))
    entries = first.shape[2] * (first.shape[1] + 1)
    limit = _CHUNK_CUDA if first.is_cuda else _CHUNK
    models = torch.arange(len(first), device=first.device)
    rows = []
    for part in models.split(max(1, limit // (entries * last.shape[1]))):
        bounds = []
        for logits in last[part].split(max(1, _LARGEST // entries), dim=1):
            units = balanced(first[part], logits)
            layers = units.rows, units.columns.mT
            matrix, error = natural_matrix(*layers, low[part], high[part])
            steep = torch.maximum(low[part].abs(), high[part].abs()).amax(1, keepdim=True)
            lost = units.lost[:, None]
            error = torch.where(lost > 0, round_up(error + round_up(steep * lost)), error)
            upper, _ = natural_sdp(matrix, norm=norm, **options)
            bounds.append(unscaled_up(with_lost(upper, error), units.exponent[:, None] + power))
        rows.append(torch.cat(bounds, 1))
    return torch.cat(rows) if rows else last.new_zeros(last.shape[:2])


def path_norm(weights: Sequence[Tensor], steepest: Sequence[Tensor]) -> Tensor:
    """|W_L| diag(steepest) |W_{L-1}| ... |W_1| 1, rounded up: (S, K)."""
    size = torch.ones_like(weights[0][:, 0])
    for weight, steep in zip(
        weights, [*steepest, torch.ones_like(weights[0][:, 0, :1])], strict=True
    ):
        nonzero = ((weight != 0) & (size > 0)[:, None]).any(-1) & (steep > 0)
        size = steep * (weight.abs() @ size[..., None])[..., 0]
        # Slopes are at most 4 here, so that this covers what underflows.
        size = round_up(size + 4 * weight.shape[2] * TINY, weight.shape[2] + 4)
        size = torch.where(nonzero, size, 0.0)
    return size


def path_bound(chain: AffineChain) -> Tensor:
    """The largest path norm of a logit: certified l_inf bound (S,) of the whole map."""
    scaled, slopes, exponent, lost = scaled_chain(chain.weights, chain.slopes)
    steepest = [scaled[0].new_tensor([max(abs(a), abs(b))]) for a, b in slopes]
    value = unscaled_up(with_lost(path_norm(scaled, steepest).amax(1), lost), exponent)
    return with_lost(value, chain_excess(chain, "linf"))


def _bounds(stack: ModelStack, *, norm: str, only_largest: bool, **options: Any) -> Tensor:
    """(S, K), the chain's own rounding and scale included."""
    if not options["tolerance"] > 0:
        raise ValueError(f"tolerance: {options['tolerance']}; allowed are numbers > 0")
    per_layer = check_multipliers(options.pop("multipliers")) == "layer"
    chain = affine_chain(stack)
    scaled, slopes, exponent, lost = scaled_chain(chain.weights, chain.slopes)
    lows, highs = ([scaled[0].new_tensor([s[i]]) for s in slopes] for i in (0, 1))
    steepest = [torch.maximum(a.abs(), b.abs()) for a, b in zip(lows, highs, strict=True)]
    shallow = chain.depth == 1 and not per_layer
    if shallow:
        power, options = scaled_slopes(chain.slopes)[1], {**options, "only_largest": only_largest}
        options.pop("max_units")
        first, last = chain.weights
        value = one_hidden_layer(first, last, lows[0], highs[0], norm=norm, power=power, **options)
    elif chain.depth == 0 and norm == "linf":
        value = path_norm(scaled, [])
    elif chain.depth == 0:
        value = length_up(scaled[0])
    else:
        value = _deep(scaled, slopes, norm=norm, per_layer=per_layer, **options)
    if not shallow:
        value = unscaled_up(with_lost(value, lost[:, None]), exponent[:, None])
    if norm == "linf":
        paths = with_lost(path_norm(scaled, steepest), lost[:, None])
        value = torch.minimum(value, unscaled_up(paths, exponent[:, None]))
    return with_lost(value, chain_excess(chain, norm)[:, None])


def chain_excess(chain: AffineChain, norm: str) -> Tensor:
    """What merged layers' rounding adds, (S,): ``AffineChain.excess``, |E|_inf <= sqrt(n) e."""
    if norm == "l2" or not any(bool(error.any()) for error in chain.errors):
        return chain.excess()
    sizes = [w.shape[2] ** 0.5 for w in chain.weights]
    errors = [round_up(e * n, 2) for e, n in zip(chain.errors, sizes, strict=True)]
    norms = [norm_linf(w) + e for w, e in zip(chain.weights, errors, strict=True)]
    steep = [torch.full_like(norms[0], max(abs(low), abs(high))) for low, high in chain.slopes]
    total = torch.zeros_like(norms[0])
    for i, error in enumerate(errors):
        total = total + product_up([error, *norms[:i], *norms[i + 1 :], *steep])
    return round_up(total, 8 * len(norms) + 8)


def _deep(
    weights: Sequence[Tensor], slopes: Sequence[Interval], *, max_units: int, **options: Any
) -> Tensor:
    """(S, K) of a chain of several hidden layers; ``options`` of :func:`deep_sdp`."""
    widths = [w.shape[1] for w in weights[:-1]]
    units = min(weights[0].shape[2], widths[0]) + sum(widths)
    if units > max_units:
        raise NotApplicable(f"{units} inputs and hidden units in a deep network, > {max_units}")
    at_once = max(1, _LARGEST // (8 * units**2))
    values = []
    for model in range(len(weights[0])):
        own, bounds = [w[model] for w in weights], []
        for part in own[-1].split(at_once):
            hidden = [w.expand(len(part), -1, -1) for w in own[:-1]]
            bounds.append(deep_sdp([*hidden, part[:, None]], slopes, **options)[0])
        values.append(torch.cat(bounds))
    return torch.stack(values) if values else weights[-1][:, :, 0]

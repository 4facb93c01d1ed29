"""Certified bound on the Lipschitz constant near a point, for ReLU and LeakyReLU networks.

On the ball of radius r around x (in l2 or l_inf, the norm the constant is taken in) every
pre-activation stays in an interval, rounded outwards. A unit whose interval does not contain 0 is
stable: its slope is known. What is left is bounded as for the whole space, with slopes per unit:
LipSDP (l2) or GeoLIP (l_inf) for one hidden layer; for deeper networks a product over single
layers and such pairs of layers, the best of all ways to group them, columns and rows of units
that are off left out. See ``lipsdp/per_unit.py`` and ``upper_geolip``. The smaller one of that and
of :mod:`lipdescent.bounds.local`'s bound, which takes all open units together.

No value is above the bound on the whole space, LipSDP (l2) or GeoLIP (l_inf): the smaller one of
both is returned.

Intervals: |w_k (y - x)| <= r |w_k|_dual in the first layer. Deeper, the smaller one of interval
arithmetic and r |w_k|_dual times the local bound of the layers before.

These are upper bounds on the ball only. Their measurements have the direction "metric": a global
lower bound may well be larger.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, norm_frobenius, norm_linf
from lipdescent.arithmetic.ulps import TINY, gamma, round_up
from lipdescent.bounds import upper_geolip, upper_lipsdp
from lipdescent.bounds.graph.conversion import graph_of
from lipdescent.bounds.lipsdp.per_unit import lipsdp_per_unit
from lipdescent.bounds.local.network import network_of
from lipdescent.bounds.local.regions import local_bounds as system_bounds
from lipdescent.bounds.upper_combettes_pesquet import combettes_pesquet
from lipdescent.bounds.upper_geolip import one_hidden_layer
from lipdescent.domains.domain import Ball, Regions
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.points._parts import check_count, some
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import AffineChain, affine_chain
from lipdescent.structure.relu_chain import chain as linear_pieces
from lipdescent.structure.relu_chain import slopes_at

DIRECTION = "metric"
NORMS = ("l2", "linf")
_GEOLIP_UNITS = 512  # inputs and hidden units of a deep network: a second or so per logit


@torch.no_grad()
def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    radius: float = 0.1,
    num_points: int = 16,
    tolerance: float = 1e-3,
) -> Iterator[Measurement]:
    """Yield ``upper_local`` (the largest over the points) and ``upper_local_mean`` per split.

    Parameters
    ----------
    inputs : split -> (n, *input_shape), at least one split.
    seed : of the choice of points where there are more than ``num_points``.
    radius : of the balls, in units of the inputs and in the norm that is measured; >= 0.
    num_points : how many points of each split.
    tolerance : relative gap at which the search for a bound stops.

    Raises
    ------
    NotApplicable
        Without data, for another norm, or a network that is no chain of Linear and ReLU or
        LeakyReLU.
    ValueError
        For weights or points that are not finite or do not fit, or a negative radius.
    """
    refuse_other_norms(norms, NORMS)
    if not inputs:
        raise NotApplicable("a local bound needs points, and no data were given")
    check_count("num_points", num_points)
    for split, points in inputs.items():
        picked = some(points, num_points, seed)
        for norm in norms:
            value = local_bounds(stack, picked, radius=radius, norm=norm, tolerance=tolerance)
            yield Measurement("upper_local", DIRECTION, norm, value.amax(1), split)
            yield Measurement("upper_local_mean", DIRECTION, norm, value.mean(1), split)


@torch.no_grad()
def local_bounds(
    stack: ModelStack, points: Tensor, *, radius: float, norm: str = "l2", tolerance: float = 1e-3
) -> Float64[Tensor, "models points"]:
    """Certified bound on the ball of ``radius`` around every point: float64 (num_models, n).

    ``points`` (n, *input_shape). The ball is one of ``norm``. Errors as in :func:`measure`.
    """
    refuse_other_norms((norm,), NORMS)
    chain = affine_chain(stack)
    if linear_pieces(stack) is None or any(high != 1.0 for _, high in chain.slopes):
        raise NotApplicable("stable units are known for Linear with ReLU or LeakyReLU (slope <= 1)")
    if any(bool(error.any()) for error in chain.errors):
        raise NotApplicable("linear layers follow each other: merge them first")
    if not radius >= 0 or radius == float("inf"):
        raise ValueError(f"radius: {radius}; allowed are finite numbers >= 0")
    if not points.is_floating_point():
        raise TypeError(f"points: dtype {points.dtype}, allowed are floating-point types")
    if points.shape[1:] != tuple(stack.input_shape) or not len(points):
        shape = ", ".join(map(str, stack.input_shape))
        raise ValueError(f"points: shape {tuple(points.shape)}, expected (n, {shape}), n >= 1")
    if not points.isfinite().all():
        raise ValueError("points: contains NaN or infinity; allowed are finite numbers")
    flat = points.flatten(1).to(stack.device, torch.float64)
    bounds = [
        _one_model(chain, model, flat, radius, norm, tolerance) for model in range(stack.num_models)
    ]
    regions = Ball(float(radius), norm, flat.cpu()).regions((flat.shape[1],))
    tighter = [
        _of_system(stack, model, regions, norm).to(flat.device) for model in range(len(bounds))
    ]
    bounds = [torch.fmin(*pair) for pair in zip(bounds, tighter, strict=True)]
    # fmin: a ball on which float64 overflows says nothing, the whole space still does.
    return torch.fmin(torch.stack(bounds), _everywhere(stack, chain, norm)[:, None])


def _of_system(stack: ModelStack, model: int, regions: Regions, norm: str) -> Tensor:
    """Bounds (n,) by what the open units leave; infinite where there is none."""
    network = network_of(graph_of(stack.to(device="cpu"), model))
    if network is None:
        return torch.full_like(regions.center[:, 0], torch.inf)
    return system_bounds(network, regions, norm=norm)


def _everywhere(stack: ModelStack, chain: AffineChain, norm: str) -> Tensor:
    """The best bound on the whole space (num_models,) that does not cost more than the local one.

    The very numbers of ``upper_lipsdp`` and ``upper_geolip`` with their default options, but for
    deep networks where LipSDP does not apply, and GeoLIP on more than ``_GEOLIP_UNITS`` units.
    """
    try:
        if norm == "linf":
            return next(upper_geolip.measure(stack, max_units=_GEOLIP_UNITS)).values
        return next(upper_lipsdp.measure(stack)).values
    except NotApplicable:
        return combettes_pesquet(chain) if norm == "l2" else upper_geolip.path_bound(chain)


def _one_model(
    chain: AffineChain, model: int, points: Tensor, radius: float, norm: str, tolerance: float
) -> Tensor:
    """Bounds (n,); the slopes of a layer rest on the bound of the layers before it."""
    weights = [w[model] for w in chain.weights]
    lower = upper = points
    spread = points.new_full((len(points),), float(radius))  # |z_i - z_i(x)| in ``norm``
    center, doubt = points, torch.zeros_like(points)  # z_i(x) up to ``doubt``
    lows: list[Tensor] = []
    highs: list[Tensor] = []
    grown = _Grouping(weights, norm, tolerance)
    for i, weight in enumerate(weights[:-1]):
        bias = chain.biases[i][model]
        n = weight.shape[1]
        before = center @ weight.mT + bias
        size = center.abs() @ weight.abs().mT + bias.abs()
        error = round_up(doubt @ weight.abs().mT + gamma(n + 2) * size, n + 8) + n * 2.0**-1000
        rows = weight[:, None]
        dual = norm_frobenius(rows) if norm == "l2" else norm_linf(rows)
        reach = round_up(dual * spread[:, None]) + error
        low, high = before - round_up(reach, 2), before + round_up(reach, 2)
        if i:
            middle, half = (lower + upper) / 2, round_up((upper - lower) / 2, 2)
            value = middle @ weight.mT + bias
            size = middle.abs() @ weight.abs().mT + bias.abs() + half @ weight.abs().mT
            half = half @ weight.abs().mT + gamma(n + 4) * size
            half = round_up(half, n + 8) + n * 2.0**-1000
            low, high = torch.maximum(low, value - half), torch.minimum(high, value + half)
        low, high = -round_up(-low, 2), round_up(high, 2)
        negative = chain.slopes[i][0]
        lows.append(slopes_at(low, negative, 1.0))
        highs.append(slopes_at(-high, 1.0, negative))
        lower, upper = (
            torch.minimum(_leaky(low, negative), _leaky(high, negative)),
            torch.maximum(_leaky(low, negative), _leaky(high, negative)),
        )
        if negative < 0:  # not monotone: 0 may lie between
            lower = torch.where((low < 0) & (high > 0), lower.clamp_max(0.0), lower)
        lower, upper = -round_up(-lower), round_up(upper)
        steep = max(1.0, abs(negative))
        center, doubt = _leaky(before, negative), round_up(error * steep) + 1e-300
        doubt = round_up(doubt + gamma(1) * center.abs())
        # The first i + 1 layers, from the inputs to z_i: an identity follows.
        if i + 2 < len(weights):
            spread = round_up(radius * grown.after(i, lows, highs))
    return grown.total(lows, highs)


class _Grouping:
    """Bounds of a product of layers, each bounded by itself or together with the next one."""

    def __init__(self, weights: list[Tensor], norm: str, tolerance: float) -> None:
        self.weights, self.norm, self.tolerance = weights, norm, tolerance
        self.best: list[Tensor] = []  # of the first i layers, from the inputs to pre-activations

    def after(self, i: int, lows: list[Tensor], highs: list[Tensor]) -> Tensor:
        """Layers 0 .. i and the activation of layer i: its slopes are at most ``steep``."""
        self._extend(i, lows, highs)
        steep = torch.maximum(lows[i].abs(), highs[i].abs()).amax(1)
        return round_up(self.best[i] * steep, 2)

    def total(self, lows: list[Tensor], highs: list[Tensor]) -> Tensor:
        self._extend(len(self.weights) - 1, lows, highs)
        return self.best[-1]

    def _extend(self, i: int, lows: list[Tensor], highs: list[Tensor]) -> None:
        for k in range(len(self.best), i + 1):
            weight = self._weight(k, lows, highs)
            single = _where_finite(self._single, weight)
            value = round_up(single * self.best[k - 1], 2) if k else single
            if k:
                low, high = lows[k - 1], highs[k - 1]
                before = self._weight(k - 1, lows, highs)
                pair = _where_finite(self._pair, before, k, low, high)
                if k > 1:
                    pair = round_up(pair * self.best[k - 2], 2)
                value = torch.minimum(value, pair)
            self.best.append(value)

    def _weight(self, k: int, lows: list[Tensor], highs: list[Tensor]) -> Tensor:
        """W_k (points, n_out, n_in), columns times the steepest slope of the layer before and,
        where known, rows of units that are off set to zero."""
        count = len(lows[0]) if lows else 1
        weight = self.weights[k].expand(count, -1, -1)
        if k:
            weight = weight * torch.maximum(lows[k - 1].abs(), highs[k - 1].abs())[:, None, :]
        if k < len(lows):
            on = torch.maximum(lows[k].abs(), highs[k].abs()) > 0
            weight = torch.where(on[..., None], weight, 0.0)
        return weight

    def _single(self, weight: Tensor) -> Tensor:
        # One rounding per entry of ``weight``.
        if self.norm == "linf":
            return round_up(norm_linf(weight) + weight[0].numel() * TINY, 4)
        error = round_up(gamma(2) * norm_frobenius(weight)) + weight[0].numel() * TINY
        return certified_spectral_norm(weight, error=error)

    def _pair(self, first: Tensor, k: int, low: Tensor, high: Tensor) -> Tensor:
        """W_k diag(s) W_{k-1}, s in [low, high]."""
        last = self.weights[k].expand(len(first), -1, -1)
        if self.norm == "linf":
            value = one_hidden_layer(
                first, last, low, high, tolerance=self.tolerance, only_largest=True
            ).amax(1)
        else:
            value = lipsdp_per_unit(first, last, low, high, tolerance=self.tolerance)[0]
        # A rounding of the entries of ``first`` by u changes the value by at most this.
        steep = torch.maximum(low.abs(), high.abs()).amax(1)
        size = norm_linf if self.norm == "linf" else norm_frobenius
        slack = round_up(gamma(2) * steep * size(first) * size(last), 4)
        slack = slack + round_up(first[0].numel() * TINY * steep * size(last))
        return round_up(value + slack) if k > 1 else value


def _where_finite(bound: Callable[..., Tensor], weight: Tensor, *rest: Any) -> Tensor:
    """``bound`` of the weights (n, ...) of every point, infinite where they have overflowed."""
    sound = weight.isfinite().flatten(1).all(1)
    value = bound(torch.where(sound[:, None, None], weight, 0.0), *rest)
    return torch.where(sound, value, torch.inf)


def _leaky(x: Tensor, negative: float) -> Tensor:
    return torch.where(x > 0, x, negative * x)

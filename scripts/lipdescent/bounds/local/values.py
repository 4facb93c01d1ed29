"""Intervals of all pre-activations on boxes and balls, by linear bounds propagated backwards.

The first interval of a unit is interval arithmetic's. Then, layer by layer, a row a z_k is bounded
below by replacing the activations before it, from the last to the first, by linear functions on
the intervals known (Zhang, Weng, Chen, Hsieh, Daniel 2018, CROWN, arXiv 1811.00866): with ends
l < 0 < u and slopes s below, 1 above 0, f is convex, hence

    max(s x, x) <= f(x) <= c x + d on [l, u], where c l + d >= s l and c u + d >= u,

and a >= 0 takes the first, a < 0 the second; a unit of one sign is linear. What is left is linear
in the input, and least on the region at a corner of the box, or at distance r |a|_2 in a ball.

Rounding. Let a be the computed row before layer j, with |z_j| <= m_j and |h_j| <= g_j known, and
|fl(a W) - a W| <= |a| slack. A step replaces a by a', one rounding each, multiplies by W, adds sums
of products with b and d: all are within (|a'| + max(-a, 0)) e_j of what is exact, for e_j =
slack g_{j-1} + doubt + gamma(n + 4 L + 12) (|W| g_{j-1} + |b|), L layers, as |d| <= m_j <= |W|
g_{j-1} + |b|; the further roundings are those of adding up what steps contribute. So the sum of
these over all steps, itself rounded up, is taken off at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import length_up
from lipdescent.arithmetic.ulps import TINY, gamma, round_down, round_up
from lipdescent.bounds.local.network import Layer, Network, slopes_where
from lipdescent.domains.domain import Regions

LOST = 2.0**-500  # more than what underflows, in networks of moderate numbers


@dataclass
class Values:
    """Pre-activations of all N hidden units on B regions.

    Attributes
    ----------
    low, high : (B, N). A unit is open where low <= 0 <= high.
    influence : (B, n), how much of the open units' intervals comes from each input, in shares.
    """

    low: Tensor
    high: Tensor
    influence: Tensor

    def state(self) -> Tensor:
        """int8 (B, N): 1 always on, -1 always off, 0 open."""
        return (self.low > 0).to(torch.int8) - (self.high < 0).to(torch.int8)

    def __getitem__(self, index: Tensor) -> Values:
        return Values(self.low[index], self.high[index], self.influence[index])


def values(network: Network, regions: Regions, state: Tensor | None = None) -> Values:
    """Intervals on every region; ``state`` as of :meth:`Values.state` on a region around each."""
    low, high, errors = _intervals(network, regions, state)
    found = Values(low, high, low.new_zeros(len(low), network.inputs))
    relaxed: list[tuple[Tensor, Tensor, Tensor]] = []
    for negative, where in zip(network.negative, network.hidden, strict=True):
        _tighten(network, regions, found, errors, relaxed)
        relaxed.append(_relaxed(found.low[:, where], found.high[:, where], negative))
    return found


def chosen(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (B, k) of what is set in ``mask`` (B, n), and which of them are no padding."""
    count = int(mask.sum(1).max())
    set_, index = torch.topk(mask.to(torch.int8), count, dim=1)
    return index, set_.bool()


def _intervals(
    network: Network, regions: Regions, state: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Interval arithmetic: ends (B, N), and e_j of the docstring above."""
    lows, highs, errors = [], [], []
    middle = regions.center.flatten(1)
    half = regions.half().flatten(1)
    for own, negative, where in zip(network.layers, network.negative, network.hidden, strict=False):
        size = round_up(middle.abs() + half)
        n = own.weight.shape[1]
        error = round_up(size @ own.slack.mT + own.doubt, n + 4) + LOST
        reach = round_up(half @ own.size.mT, n + 2)
        value = middle @ own.weight.mT + own.bias
        low, high = round_down(value - reach - error, 4), round_up(value + reach + error, 4)
        if state is not None:
            low = torch.where(state[:, where] > 0, low.clamp_min(TINY), low)
            high = torch.where(state[:, where] < 0, high.clamp_max(-TINY), high)
        all_ = round_up(size @ own.size.mT + own.bias.abs(), n + 4)
        errors.append(round_up(error + gamma(n + 4 * len(network.layers) + 12) * all_, 3))
        lows.append(low)
        highs.append(high)
        bottom = torch.where(low > 0, low, round_down(negative * low))
        top = torch.where(high > 0, high, round_up(negative * high))
        middle = bottom / 2 + top / 2
        half = round_up(torch.maximum(top - middle, middle - bottom), 2)
    return torch.cat(lows, 1), torch.cat(highs, 1), errors


def _relaxed(low: Tensor, high: Tensor, negative: float) -> tuple[Tensor, Tensor, Tensor]:
    """Slope below, slope c and offset d above, of the activation on [low, high]: (B, n) each."""
    open_ = (low <= 0) & (high >= 0)
    width = torch.where(open_, high - low, 1.0).clamp_min(LOST)
    chord = torch.where(open_, ((high - negative * low) / width).clamp(negative, 1.0), negative)
    chord = torch.where(low > 0, 1.0, chord)
    left, right = negative * low - chord * low, high - chord * high
    rounding = gamma(8) * torch.maximum(low.abs(), high.abs())
    offset = round_up(torch.maximum(left, right).clamp_min(0.0) + rounding, 4)
    offset = torch.where(open_, offset, 0.0)
    below = torch.where(open_, slopes_where(high > -low, negative), chord)
    return below, chord, offset


def _tighten(
    network: Network,
    regions: Regions,
    found: Values,
    errors: list[Tensor],
    relaxed: list[tuple[Tensor, Tensor, Tensor]],
) -> None:
    """Move the ends of the next hidden layer's open units inwards; ``relaxed`` are those before."""
    i = len(relaxed)
    where, own = network.hidden[i], network.layers[i]
    low, high = found.low[:, where], found.high[:, where]
    index, real = chosen((low <= 0) & (high >= 0))
    count = index.shape[1]
    if not count:
        return
    if not i and regions.radius is None:  # interval arithmetic is exact
        width = (high - low).gather(1, index)
        _add_influence(found, own.weight[index], width, regions, real)
        return
    row, constant = own.weight[index], own.bias[index]
    row, constant = torch.cat([row, -row], 1), torch.cat([constant, -constant], 1)
    taken = errors[i].gather(1, index).repeat(1, 2)
    for j in range(i - 1, -1, -1):
        row, constant, lost = _through(network.layers[j], relaxed[j], errors[j], row, constant)
        taken = taken + lost
    center = regions.center.flatten(1)
    half = regions.half().flatten(1)
    reach = round_up((row.abs() @ half[..., None])[..., 0], half.shape[1])
    if regions.radius is not None:
        reach = torch.minimum(reach, round_up(length_up(row) * regions.radius[:, None]))
    rounding = gamma(center.shape[1] + 2) * (row.abs() @ center.abs()[..., None])[..., 0]
    least = (row @ center[..., None])[..., 0] + constant
    margin = round_up(
        reach + rounding + taken + gamma(4) * constant.abs(), center.shape[1] + 4 * i + 8
    )
    least = round_down(least - margin, 4)
    least = torch.where(least.isnan(), -torch.inf, least)
    low = torch.maximum(low.gather(1, index), least[:, :count])
    high = torch.minimum(high.gather(1, index), -least[:, count:])
    found.low[:, where] = found.low[:, where].scatter(1, index, low)
    found.high[:, where] = found.high[:, where].scatter(1, index, torch.maximum(low, high))
    _add_influence(found, row[:, :count], high - low, regions, real & (low <= 0) & (high >= 0))


def _through(
    own: Layer, relaxed: tuple[Tensor, Tensor, Tensor], error: Tensor, row: Tensor, constant: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of h_j as rows of the layer's input, the constant so far, and what rounding may add."""
    below, chord, offset = relaxed
    negative = row.clamp_max(0.0)
    constant = constant + (negative @ offset[..., None])[..., 0]
    lost = -(negative @ error[..., None])[..., 0]
    # One of both terms is 0.
    row = row.clamp_min(0.0).mul_(below[:, None]).addcmul_(negative, chord[:, None])
    constant = constant + row @ own.bias
    return row @ own.weight, constant, lost + (row.abs() @ error[..., None])[..., 0]


def _add_influence(
    found: Values, row: Tensor, width: Tensor, regions: Regions, real: Tensor
) -> None:
    share = row.abs() * regions.half().flatten(1)[:, None] * real[..., None]
    found.influence += (share / width.clamp_min(LOST)[..., None]).sum(1)

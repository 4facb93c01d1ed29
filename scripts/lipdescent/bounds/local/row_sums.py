"""Sums of absolute entries of Jacobians, by linear bounds propagated through what makes them.

A row of a Jacobian (in l_inf; a column in l1) is what a unit vector e becomes by a chain of its
own, x_0 = M_0 e, y_k = s_k x_k, x_{k+1} = M_{k+1} y_k, with unknown slopes s_k in intervals: W_L^T,
..., W_1^T for a row. Linear bounds of it are propagated backwards as those of values are (Shi,
Wang, Zhang, Kolter, Hsieh 2022, arXiv 2210.07394): for x in [a, b], s in [p, q],

    min(p x, q x) <= s x <= max(p x, q x).

The right side is convex in x, hence below the chord of its values at a < 0 < b; for 0 <= a it is q
x, for b <= 0 it is p x. The left side is minus that of -x. The sum of |x_j| at the end is bounded
likewise, as |x| = max(-x, x), so that all entries are bounded by one linear function, where what
they share cancels. An entry's sign that is known costs nothing.

Rounding as in :mod:`values`, with e_k = slack g_{k-1} + gamma(n + 4 L + 12) |M| g_{k-1} and g_k a
bound of |y_k|: a step of a row a to a c, with offsets d <= |M| g, is within (|a c| + |a|) e_k of
what is exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import gamma, round_down, round_up
from lipdescent.bounds.local.network import Network, slopes_where
from lipdescent.bounds.local.values import LOST, Values, chosen

_ENTRIES = 2**24  # of the largest array


def row_sums(network: Network, known: Values, norm: str) -> Tensor:
    """Bounds (B,) of the norm in "linf" or "l1"; infinite where arrays were too large."""
    slopes = []
    for negative, where in zip(network.negative, network.hidden, strict=True):
        low = slopes_where(known.low[:, where] > 0, negative)
        slopes.append((low, slopes_where(known.high[:, where] >= 0, negative)))
    layers = [(own.weight, own.slack, own.size) for own in network.layers]
    if norm == "linf":
        layers = [(w.mT, slack.mT, size.mT) for w, slack, size in reversed(layers)]
        slopes = slopes[::-1]
    chain = _Chain(layers, slopes, len(known.low))
    starts = layers[0][0].shape[1]
    widest = max(w.shape[0] * w.shape[1] for w, _, _ in layers)
    if 2 * len(known.low) * starts * widest > _ENTRIES:
        return torch.full_like(known.low[:, 0], torch.inf)
    found = chain.largest().amax(1)
    return torch.where(found.isnan(), torch.inf, found)


@dataclass
class _Chain:
    """``layers`` of (M, slack, |M| + slack), and intervals of slopes (B, n) between them."""

    layers: list[tuple[Tensor, Tensor, Tensor]]
    slopes: list[tuple[Tensor, Tensor]]
    count: int

    def __post_init__(self) -> None:
        self.ends: list[tuple[Tensor, Tensor]] = []  # of x_k (B, S, n_k)
        self.errors: list[Tensor] = []  # e_k (B, S, n_k)
        size = torch.eye(self.layers[0][0].shape[1], dtype=torch.float64)
        reach = size.expand(self.count, *size.shape)
        for k, (weight, slack, all_) in enumerate(self.layers):
            n = weight.shape[1]
            total = round_up(reach @ all_.mT, n + 2)
            error = reach @ slack.mT + gamma(n + 4 * len(self.layers) + 12) * total
            self.errors.append(round_up(error, n + 4) + LOST)
            reach = total
            if k < len(self.slopes):
                steep = torch.maximum(*(s.abs() for s in self.slopes[k]))
                reach = round_up(reach * steep[:, None])

    def largest(self) -> Tensor:
        """Bounds of the sums of |x_j| at the end, (B, S)."""
        for k, (p, q) in enumerate(self.slopes):
            self._bound(k, p < q)
        last = len(self.slopes)
        n = self.layers[last][0].shape[0]
        self._bound(last, torch.ones(self.count, n, dtype=torch.bool))
        one = torch.ones(self.count, n, dtype=torch.float64)
        chord, offset = _chord(*self.ends[last], -one, one)
        total = round_up(offset.sum(-1), n)
        return round_up(total - self._least(-chord[:, :, None], last)[..., 0], 2)

    def _bound(self, k: int, wanted: Tensor) -> None:
        """Ends of the ``wanted`` (B, n) entries of x_k; those of others are without limit."""
        index, _ = chosen(wanted)
        n, starts = wanted.shape[1], self.errors[0].shape[1]
        low = torch.full((self.count, starts, n), -torch.inf, dtype=torch.float64)
        high = -low
        if index.shape[1]:
            row = torch.eye(n, dtype=torch.float64)[index][:, None].expand(-1, starts, -1, -1)
            least = self._least(torch.cat([row, -row], 2), k)
            at = index[:, None].expand(-1, starts, -1)
            low = low.scatter(2, at, least[:, :, : index.shape[1]])
            high = high.scatter(2, at, -least[:, :, index.shape[1] :])
        self.ends.append((low, torch.maximum(low, high)))

    def _least(self, row: Tensor, k: int) -> Tensor:
        """Lower bounds (B, S, R) of rows (B, S, R, n_k) of x_k."""
        constant = taken = torch.zeros(row.shape[:3], dtype=torch.float64)
        for j in range(k, 0, -1):
            taken = taken + _dot(row.abs(), self.errors[j])
            row = row @ self.layers[j][0]
            p, q = self.slopes[j - 1]
            low, high = self.ends[j - 1]
            above, top = _chord(low, high, p, q)
            below, bottom = _chord(-high, -low, p, q)
            taken = taken + _dot(row.abs(), self.errors[j - 1])
            constant = constant + _dot(row.clamp_max(0.0), top) - _dot(row.clamp_min(0.0), bottom)
            row = torch.where(row < 0, row * above[:, :, None], row * below[:, :, None])
        start = self.layers[0][0].mT  # (S, n_0)
        value = (row * start[:, None]).sum(-1) + constant
        taken = taken + _dot(row.abs(), self.errors[0]) + gamma(4 * k + 4) * constant.abs()
        depth = sum(own[0].shape[1] for own in self.layers)
        least = round_down(value - round_up(taken, depth + 4 * k + 8), 4)
        return torch.where(least.isnan(), -torch.inf, least)


def _dot(row: Tensor, by: Tensor) -> Tensor:
    return (row @ by[..., None])[..., 0]


def _chord(low: Tensor, high: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """c, d (B, S, n) with max(p x, q x) <= c x + d on [low, high]; ``p`` <= ``q`` (B, n)."""
    p, q = p[:, None].expand_as(low), q[:, None].expand_as(low)
    crosses = (low < 0) & (high > 0) & (p < q)
    plain = torch.where(high <= 0, p, q)
    low, high = torch.where(crosses, low, -1.0), torch.where(crosses, high, 1.0)
    mixed = torch.minimum(torch.maximum((q * high - p * low) / (high - low), p), q)
    left, right = p * low - mixed * low, q * high - mixed * high
    steep = torch.maximum(p.abs(), q.abs())
    rounding = gamma(8) * steep * torch.maximum(low.abs(), high.abs())
    offset = round_up(torch.maximum(left, right).clamp_min(0.0) + rounding, 4)
    return torch.where(crosses, mixed, plain), torch.where(crosses, offset, 0.0)

"""Jacobians on a region as a linear system in what is open: nothing else is left of a network.

A tangent v at the input becomes p_k = W_k t_{k-1} at layer k, and t = s p behind it, with slopes
s = m + r e, |e| <= 1: a unit that is open has m = (1 + s_-) / 2, r = (1 - s_-) / 2, any other
r = 0. With the noises w_i = e_i r p_i of the K open units as further unknowns,

    r p = P^T (v, w),  y = Y^T (v, w),  w = e (r p),

P (n + K, K) and Y (n + K, outputs): row j < n says what v_j does, row n + i what w_i does; w_i only
enters later layers, so that the part of P for w is triangular. The Jacobian is multi-affine in e.

Gains. From (r p)_i = (P^T (v, w))_i follows |w_i| <= g_i |v|, g_i = |P[:n, i]|_2 + sum_j |P[n+j,
i]| g_j; likewise q_j, what y has of w_j: |Y[n+j]|_2 + sum_i |P[n+j, i]| q_i. Any x >= c + B x with
B >= 0 nilpotent is at least the solution, so x is computed for a larger c, and tested.

Rounding. Computed columns are those of W_k (m x + E) + D_k with |D_k (v, w)| <= |slack_k|_F
sum_c s_c |(v, w)_c|, s_c the length of column c before the product; the tangents' error
grows by |W_k| a layer: delta_k = |W_k| delta_{k-1} + |D_k (v, w)|. With the true w as the noise,
(r p)_i is P's up to r delta_k and y up to delta_L, hence a computed Jacobian, for the same e, is
within ``doubt`` = delta_L + sum_i q_i r delta of the network's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import length_up
from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.local.network import Network, slopes_where
from lipdescent.bounds.local.values import LOST, Values, chosen


@dataclass(frozen=True)
class Tangents:
    """The system on B regions; K is the largest number of open units, smaller ones are padded.

    Attributes
    ----------
    hidden : P, (B, n + K, K). output : Y, (B, n + K, outputs).
    real : bool (B, K), what is no padding. index : (B, K), which unit of all.
    into, out_of : (B, K), upper bounds of the gains g and q.
    doubt : (B,), l2 distance of a Jacobian of this system from the network's.
    sizes : how many of the K belong to each layer.
    is_turned : whether it is the system of the transposed Jacobians.
    """

    hidden: Tensor
    output: Tensor
    real: Tensor
    index: Tensor
    into: Tensor
    out_of: Tensor
    doubt: Tensor
    sizes: tuple[int, ...]
    is_turned: bool = False

    @property
    def inputs(self) -> int:
        return self.hidden.shape[1] - self.hidden.shape[2]

    def __getitem__(self, rows: Tensor) -> Tangents:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {k: v[rows] for k, v in own.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def turned(self) -> Tangents:
        """The system of the transposed Jacobians."""
        n, last = self.inputs, self.output.shape[2]
        hidden = torch.cat([self.output[:, n:].mT, self.hidden[:, n:].mT], 1)
        output = torch.cat([self.output[:, :n].mT, self.hidden[:, :n].mT], 1)
        assert hidden.shape[1] == last + self.hidden.shape[2]
        return Tangents(
            hidden,
            output,
            self.real,
            self.index,
            self.out_of,
            self.into,
            self.doubt,
            self.sizes,
            not self.is_turned,
        )


def tangents(network: Network, known: Values) -> Tangents:
    """The system on every region of ``known``."""
    n, count = network.inputs, len(known.low)
    columns = torch.eye(n, dtype=torch.float64).expand(count, n, n)
    rows, reals, indices, deltas = [], [], [], []
    gains = known.low.new_ones(count, 0)  # of the noises so far
    delta = known.low.new_zeros(count)
    for own, negative, where in zip(network.layers, network.negative, network.hidden, strict=False):
        delta = _error(own.norm, own.loss, columns, gains, delta, n)
        columns = columns @ own.weight.mT
        low, high = known.low[:, where], known.high[:, where]
        open_ = (low <= 0) & (high >= 0)
        slope = slopes_where(low > 0, negative)
        # r is such that m - r and m + r lie outside the slopes, rounding included.
        middle, radius = (1 + negative) / 2, (1 - negative) / 2 * (1 + 2.0**-50 * (negative > 0))
        index, real = chosen(open_)
        columns, taken, gains = _opened(columns, index, real, gains, delta, radius, n)
        rows.append(taken)
        reals.append(real)
        indices.append(index + where.start)
        own_gains = gains[:, gains.shape[1] - index.shape[1] :]
        deltas.append(radius * delta[:, None] + gamma(2) * own_gains)
        slope = torch.where(open_, middle, slope)
        old = columns[:, : columns.shape[1] - index.shape[1]] * slope[:, None]
        columns = torch.cat([old, columns[:, old.shape[1] :]], 1)
    delta = _error(network.layers[-1].norm, network.layers[-1].loss, columns, gains, delta, n)
    output = columns @ network.layers[-1].weight.mT
    padded = [
        torch.cat([r, r.new_zeros(count, output.shape[1] - r.shape[1], r.shape[2])], 1)
        for r in rows
    ]
    hidden = torch.cat(padded, 2)
    noise = hidden[:, n:].abs()
    out_of = solution(noise, length_up(output[:, n:])[..., None], upper=True)[..., 0]
    extra = (out_of * torch.cat(deltas, 1)).sum(1)
    doubt = round_up(delta + extra, out_of.shape[1] + 4)
    sizes = tuple(r.shape[2] for r in rows)
    return Tangents(
        hidden, output, torch.cat(reals, 1), torch.cat(indices, 1), gains, out_of, doubt, sizes
    )


def _error(
    norm: Tensor, loss: Tensor, columns: Tensor, gains: Tensor, delta: Tensor, n: int
) -> Tensor:
    """delta of the next layer from the last one's."""
    lengths = columns.square().sum(2).sqrt()
    size = lengths[:, :n].square().sum(1).sqrt() + (lengths[:, n:] * gains).sum(1)
    # Slopes times columns before: one rounding each, as relative to the product's size.
    rounding = loss + gamma(4) * norm
    return round_up(norm * delta + rounding * size, columns.shape[1] + columns.shape[2] + 8) + LOST


def _opened(
    columns: Tensor,
    index: Tensor,
    real: Tensor,
    gains: Tensor,
    delta: Tensor,
    radius: float,
    n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns with a unit one for each open unit, r times these units' rows, and all gains.

    The gain of a unit: |row at v| + |row at w| gains + delta, times r.
    """
    wide = index[:, None].expand(-1, columns.shape[1], -1)
    taken = radius * columns.gather(2, wide) * real[:, None]
    reach = length_up(taken[:, :n].mT) + (taken[:, n:].abs() * gains[..., None]).sum(1)
    own = round_up(reach + radius * delta[:, None], columns.shape[1] + 6) + LOST
    unit = columns.new_zeros(*index.shape, columns.shape[2])
    unit.scatter_(2, index[..., None], real[..., None].to(unit))
    return torch.cat([columns, unit], 1), taken, torch.cat([gains, own * real], 1)


def solution(noise: Tensor, start: Tensor, *, upper: bool) -> Tensor:
    """Upper bounds of the x = start + noise x, where ``noise`` >= 0 is strictly triangular."""
    count = noise.shape[-1]
    if not count:
        return start
    eye = torch.eye(count, dtype=noise.dtype)
    system = eye - noise
    first = torch.linalg.solve_triangular(system, start, upper=upper, unitriangular=True)
    more = start + 2.0**-36 * first.clamp_min(0.0) + LOST
    found = torch.linalg.solve_triangular(system, more, upper=upper, unitriangular=True)
    enough = found >= round_up(start + noise @ found, count + 2)
    return torch.where(enough.all(-2, keepdim=True), found, torch.inf)

"""Ascent on ||J(x)|| for one hidden layer, by exact line searches over the activation masks.

With unit dual vectors u, v of the norm at J(x), u^T J(x') v = sum_h c_h D_h(x') + const, where
c_h = (W2^T u)_h (W1 v)_h, is a lower bound on ||J(x')|| that is tight at x. Along a line x + t p
each unit switches once, so that sorting the switching points t_h and one cumulative sum of the
c_h give the exact maximum over the whole line. It cannot decrease; u, v are renewed after each.

Directions p, since the gradient of ||J|| itself is 0 almost everywhere:
- the gradient of sum_h c_h sigmoid(beta z_h), a surrogate mask, narrow and wide;
- towards the least-squares fit of sign(c_h) by z_h with weights |c_h|, a linear classifier that
  wants the best mask of all, sign(c) (if W1 has full row rank, it gets it);
- random.
"""

import torch
from torch import Tensor

from lipdescent.deadline import over

_PATIENCE = 3  # steps without gain before a point is moved away at random
_KICK = 0.3  # how far, relative to its size
_WIDTHS = (0.05, 0.2)  # of the sigmoid, in units of the typical |z|


def ascend(
    first: Tensor,
    bias: Tensor | None,
    last: Tensor,
    slopes: tuple[float, float],
    points: Tensor,
    *,
    norm: str,
    steps: int,
    seed: int,
) -> Tensor:
    """Points (N, k, n_in) with norms at least those at ``points`` (N, k, n_in), for N models.

    Parameters
    ----------
    first, bias, last : float64 (N, width, n_in), (N, width) or None, (N, n_out, width).
    slopes : of the activation, on the negative and the positive side.
    norm : "l2", "linf" or "l1".
    steps : line searches per point and direction.
    seed : of the random directions, the same for all models.
    """
    generator = torch.Generator().manual_seed(seed)
    homogeneous = bias is None  # then masks do not depend on the length of a point
    bias = (first.new_zeros(first.shape[:2]) if bias is None else bias)[:, None]
    rise = (slopes[1] - slopes[0]) * last[:, None]
    base = slopes[0] * (last @ first)[:, None]
    # With no more units than inputs, the fit of any mask is exact and the same for all weights.
    inverse = torch.linalg.pinv(first) if first.shape[1] <= first.shape[2] else None
    best = first.new_full(points.shape[:2], -torch.inf)
    kept, idle = points.clone(), torch.zeros_like(best)
    for _ in range(steps + 1):
        if over():
            break
        before = points @ first.mT + bias
        # No product of masks with a table of W2[o, h] W1[h, i]: reading it takes longer.
        scaled = (rise * (before > 0)[:, :, None]).flatten(1, 2)
        jacobians = (scaled @ first).view(*points.shape[:2], *base.shape[2:]) + base
        left, right, value = dual_vectors(jacobians.flatten(0, 1), norm)
        left, right, value = (t.unflatten(0, points.shape[:2]) for t in (left, right, value))
        better = value > best * (1 + 1e-9)
        kept = torch.where(better[..., None], points, kept)
        best = torch.where(better, value, best)
        idle = torch.where(better, 0, idle + 1)
        draw = torch.randn(points.shape[1:], generator=generator, dtype=torch.float64)
        draw = torch.nn.functional.normalize(draw.to(points.device), dim=-1).expand_as(points)
        gain = (left @ last) * (right @ first.mT) * (slopes[1] - slopes[0])
        directions = _directions(first, bias, points, before, gain, inverse, draw)
        points = _line_search(first, points, before, gain, directions)
        if homogeneous:
            points = torch.nn.functional.normalize(points, dim=-1)
        stuck = idle >= _PATIENCE
        size = torch.linalg.vector_norm(kept, dim=-1, keepdim=True)
        points = torch.where(stuck[..., None], kept + _KICK * size * draw, points)
        idle = torch.where(stuck, 0, idle)
    return kept


def dual_vectors(jacobians: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """u (k, n_out) and v (k, n_in) of dual norm and norm 1 with u^T J v = ||J||, and ||J|| (k,)."""
    if norm == "l2":
        wide = jacobians.shape[-1] >= jacobians.shape[-2]
        short = jacobians if wide else jacobians.mT
        near = torch.linalg.eigh(short @ short.mT)[1][..., -1:]
        far = short.mT @ near
        value = torch.linalg.vector_norm(far, dim=(-1, -2))
        far = far / torch.where(value > 0, value, 1.0)[:, None, None]
        left, right = (near, far) if wide else (far, near)
        return left[..., 0], right[..., 0], value
    if norm == "linf":
        value, row = jacobians.abs().sum(-1).max(-1)
        chosen = jacobians[torch.arange(len(row), device=row.device), row]
        return _one_hot(row, jacobians.shape[-2]), chosen.sign(), value
    value, column = jacobians.abs().sum(-2).max(-1)
    chosen = jacobians[torch.arange(len(column), device=column.device), :, column]
    return chosen.sign(), _one_hot(column, jacobians.shape[-1]), value


def _one_hot(index: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(index, size).to(torch.float64)


def _directions(
    first: Tensor,
    bias: Tensor,
    points: Tensor,
    before: Tensor,
    gain: Tensor,
    inverse: Tensor | None,
    draw: Tensor,
) -> Tensor:
    """Lines through each point: (N, k, number of directions, n_in)."""
    scale = before.abs().mean(-1, keepdim=True).clamp_min(1e-300)
    found = []
    for width in _WIDTHS:
        soft = torch.sigmoid(before / (width * scale))
        found.append((gain * soft * (1 - soft)) @ first)
    wanted = gain.sign()
    target = scale * wanted - bias
    if inverse is not None:
        found.append(target @ inverse.mT - points)
    else:
        weights = gain.abs()
        # Not (N, k, n_in, width) @ (N, 1, width, n_in), which would copy ``first`` for each point.
        scaled = (first.mT.contiguous()[:, None] * weights[:, :, None, :]).flatten(1, 2)
        normal = (scaled @ first).view(*points.shape, -1)
        ridge = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)
        normal.diagonal(dim1=-2, dim2=-1).add_(ridge[..., None])
        found.append(torch.linalg.solve(normal, (weights * target) @ first) - points)
    found.append(draw)
    return torch.stack(found, 2)


def _line_search(
    first: Tensor, points: Tensor, before: Tensor, gain: Tensor, directions: Tensor
) -> Tensor:
    """Best points (N, k, n_in) for sum_h gain_h D_h on the lines through ``points``."""
    length = torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    size = torch.linalg.vector_norm(points, dim=-1)[..., None, None].clamp_min(1e-300)
    directions = directions * (size / torch.where(length > 0, length, 1.0))
    rate = (directions.flatten(1, 2) @ first.mT).view(*directions.shape[:3], -1)
    switch = torch.where(rate != 0, -before[:, :, None] / rate, torch.inf)
    switch, order = switch.sort(-1)
    change = (gain[:, :, None] * rate.sign()).gather(-1, order)
    # Far out on the negative side the units with a falling pre-activation are on.
    start = (gain[:, :, None] * (rate < 0)).sum(-1, keepdim=True)
    value = torch.cat([start, start + change.cumsum(-1)], -1)
    # Interval i lies between switches i - 1 and i; those without room cannot be reached.
    lower = torch.cat([switch[..., :1] - 1, switch], -1)
    upper = torch.cat([switch, switch[..., -1:] + 1], -1)
    upper = torch.where(upper.isfinite(), upper, lower + 1)
    room = lower.isfinite() & (upper - lower > 1e-12 * (1 + lower.abs()))
    value = torch.where(room, value, -torch.inf)
    value, interval = value.flatten(2).max(-1, keepdim=True)
    middle = (0.5 * (lower + upper)).flatten(2).gather(2, interval)
    line = (interval // lower.shape[-1])[..., None].expand(-1, -1, 1, points.shape[-1])
    chosen = directions.gather(2, line)[:, :, 0]
    return points + torch.where(value.isfinite(), middle, 0.0) * chosen

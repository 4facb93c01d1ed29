"""The barrier of LipSDP's matrix inequality for a deep chain, and its derivatives.

With rho = 1 / L^2 and multipliers T the constraint of
:mod:`lipdescent.bounds.lipsdp.certificate` is H(T) - rho P^T P >= 0, P the last layer. For a
sharpness s

    phi(T) = min over rho of  -s log rho - log det(D^-1/2 (H - rho P^T P) D^-1/2),

D the identity on the inputs and T on the units, falls towards the optimum of LipSDP as s grows.
Divided by D^1/2 on both sides, layers become V_i = T_i^1/2 W_i T_{i-1}^-1/2 and H block tridiagonal
with I + (m^2 - r^2) V_{i+1}^T V_{i+1} on its diagonal and -m_i V_i beside it. The inputs are
eliminated (only the Gram matrix W_1 W_1^T counts), and so is rho: with the eigenvalues of
P H^-1 P^T, of which there are as many as outputs, it solves an equation in one unknown. Unit k
enters by T_k (a_k a_k^T - b_k b_k^T) with a_k = e_k - m w_k and b_k = r w_k, so second derivatives
are squared entries of A H^-1 A^T, A H^-1 B^T and B H^-1 B^T, which are formed block by block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.structure.slope_intervals import Interval, recentred

_SECULAR_STEPS = 6  # measured: exact to 1e-12 after four


class Barrier(NamedTuple):
    """The chain as the barrier sees it, S models with W hidden units in all.

    ``gram`` (S, w_1, w_1) is W_1 W_1^T; ``inner`` the layers between hidden layers; ``last``
    (S, c, w) the last one, with as many rows as it has rank at most; ``live`` (S, W) the units that
    are not dead; ``middle`` and ``radius`` (W,) the slopes' centres and half widths.
    """

    gram: Tensor
    inner: list[Tensor]
    last: Tensor
    live: Tensor
    middle: Tensor
    radius: Tensor
    blocks: list[slice]  # of the hidden layers among the units
    size: int  # inputs and units

    def take(self, index: Tensor) -> Barrier:
        return self._replace(
            gram=self.gram[index],
            inner=[weight[index] for weight in self.inner],
            last=self.last[index],
            live=self.live[index],
        )


class Point(NamedTuple):
    """Where the barrier has been evaluated: phi (infinite outside), log rho, H without rho.

    ``scaled`` holds G = V_1 (I + (m^2 - r^2) V_1^T V_1)^-1 V_1^T, V_2, ..., and the last layer.
    """

    value: Tensor
    log_rho: Tensor
    matrix: Tensor
    scaled: list[Tensor]


def barrier(weights: list[Tensor], slopes: list[Interval]) -> Barrier:
    """Of a normalised chain with two or more hidden layers."""
    first, *inner, last = weights
    if last.shape[1] > last.shape[2]:
        last = torch.linalg.qr(last)[1]
    sizes = [weight.shape[1] for weight in weights[:-1]]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    blocks = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    centres = first.new_tensor([recentred(interval) for interval in slopes])
    middle, radius = centres.repeat_interleave(torch.tensor(sizes, device=first.device), 0).T
    live = torch.cat([(w != 0).any(2) for w in weights[:-1]], 1)
    total = ends[-1] + first.shape[2]
    return Barrier(first @ first.mT, inner, last, live, middle, radius, blocks, total)


def evaluate(problem: Barrier, log_t: Tensor, sharpness: Tensor) -> Point:
    """The barrier at log T (S, W); where it is infinite, the matrix is the identity."""
    roots = [(log_t[:, block] / 2).exp() for block in problem.blocks]
    curve = (problem.middle.square() - problem.radius.square()).tolist()
    gram = roots[0][:, :, None] * problem.gram * roots[0][:, None]
    scaled, logs, sound = _inputs_eliminated(gram, curve[0])
    matrix = torch.diag_embed(torch.ones_like(log_t))
    first = problem.blocks[0]
    matrix[:, first, first] -= float(problem.middle[0]) ** 2 * scaled[0]
    for i, weight in enumerate(problem.inner):
        before, after = problem.blocks[i], problem.blocks[i + 1]
        scaled.append(weight * roots[i + 1][:, :, None] / roots[i][:, None])
        matrix[:, after, before] = -float(problem.middle[after.start]) * scaled[-1]
        if curve[after.start]:
            matrix[:, before, before] += curve[after.start] * (scaled[-1].mT @ scaled[-1])
    scaled.append(problem.last / roots[-1][:, None])
    factor, info = torch.linalg.cholesky_ex(matrix)
    end = problem.blocks[-1]
    half = torch.linalg.solve_triangular(factor[:, end, end], scaled[-1].mT, upper=False)
    logs = logs + 2 * factor.diagonal(dim1=1, dim2=2).clamp_min(1e-300).log().sum(1)
    square = (half.mT @ half).nan_to_num(1.0, 1.0, 1.0)
    values = torch.linalg.eigvalsh(square).clamp_min(1e-280)
    rest, log_rho = _least(values, sharpness)
    value = rest - logs
    sound = sound & (info == 0) & value.isfinite()
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    matrix = torch.where(sound[:, None, None], matrix, eye)
    return Point(torch.where(sound, value, torch.inf), log_rho, matrix, scaled)


def _inputs_eliminated(gram: Tensor, curve: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """[G], log det(I + curve gram), and where that is positive definite."""
    none = torch.zeros_like(gram[:, 0, 0])
    if not curve:
        return [gram], none, none == 0
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(eye + curve * gram)
    inner = torch.cholesky_solve(gram, factor).nan_to_num(0.0, 0.0, 0.0)
    logs = 2 * factor.diagonal(dim1=1, dim2=2).clamp_min(1e-300).log().sum(1)
    return [(inner + inner.mT) / 2], logs, info == 0


def _least(values: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """min over rho of -s log rho - sum log(1 - rho value_i), and the log rho of it.

    With u = 1 / (rho value_max) and mu = value / value_max it solves h(u) = sum mu / (u - mu) = s.
    1 / h is concave, so Newton's method for it rises monotonically from below: rho stays feasible.
    """
    top = values[:, -1:]
    ratio, s = values / top, sharpness[:, None]
    u = 1 + 1 / s
    for _ in range(_SECULAR_STEPS):
        terms = ratio / (u - ratio)
        total = terms.sum(1, keepdim=True)
        slope = (terms / (u - ratio)).sum(1, keepdim=True)
        u = u + (total / s - 1) * total / slope
    log_rho = -(u * top).log()[:, 0]
    return -sharpness * log_rho - torch.log1p(-ratio / u).sum(1), log_rho


class Derivatives(NamedTuple):
    """Gradient (S, W + 1) in log T and log rho; the Hessian, but for the diagonal of its log T
    part, to which ``linear`` (S, W) must be added: the second derivative of exp is its first."""

    gradient: Tensor
    hessian: Tensor
    linear: Tensor


def derivatives(problem: Barrier, point: Point, sharpness: Tensor) -> Derivatives:
    """Of -s log rho - log det in (log T, log rho), at the least rho."""
    end = problem.blocks[-1]
    last = (point.log_rho / 2).exp()[:, None, None] * point.scaled[-1]
    matrix = point.matrix.clone()
    matrix[:, end, end] -= last.mT @ last
    inverse = _inverse(matrix, problem.blocks)
    reached, gram = _products(problem, [*point.scaled[:-1], last], inverse)
    middle, radius = problem.middle, problem.radius
    out, through = inverse[:, :, end] @ last.mT, reached[:, :, end] @ last.mT
    ends = last @ out[:, end]
    cross = (radius[:, None] * through).square().sum(2)
    cross -= (out - middle[:, None] * through).square().sum(2)
    scaled = middle[:, None] * gram
    mixed = (reached.mT - scaled).mul_(radius).square_()
    reached *= middle[:, None]
    above = (inverse - reached).sub_(reached.mT).add_(scaled.mul_(middle))
    below = gram.mul_(radius).mul_(radius[:, None])
    linear = below.diagonal(dim1=1, dim2=2) - above.diagonal(dim1=1, dim2=2)
    hessian = linear.new_zeros(len(linear), linear.shape[1] + 1, linear.shape[1] + 1)
    part = hessian[:, :-1, :-1]
    part += above.square_().add_(below.square_()).sub_(mixed)
    part -= mixed.mT
    trace = ends.diagonal(dim1=1, dim2=2).sum(1)
    hessian[:, -1, :-1], hessian[:, :-1, -1] = cross, cross
    hessian[:, -1, -1] = ends.square().sum((1, 2)) + trace
    gradient = torch.cat([1 + linear, (trace - sharpness)[:, None]], 1)
    return Derivatives(gradient, hessian, linear)


def _inverse(matrix: Tensor, blocks: list[slice]) -> Tensor:
    """Inverse of a block tridiagonal matrix, of which the lower half counts, block by block.

    Bordering: with the inverse K of the blocks before, c the link to them and
    S = H_ii - c K c^T it is [[K + D^T S^-1 D, -D^T S^-1], [-S^-1 D, S^-1]], D = c K: products of
    matrices, faster than LAPACK's inverse of the whole. Where a block is not positive definite its
    inverse is the identity, and no good step comes of it.
    """
    inverse = torch.empty_like(matrix)
    for i, own in enumerate(blocks):
        before, corner = slice(0, own.start), matrix[:, own, own]
        if i:
            link = matrix[:, own, blocks[i - 1]]
            reach = link @ inverse[:, blocks[i - 1], before]
            corner = corner - reach[:, :, blocks[i - 1]] @ link.mT
        factor, info = torch.linalg.cholesky_ex(corner)
        eye = torch.eye(corner.shape[1], dtype=matrix.dtype, device=matrix.device)
        part = torch.cholesky_inverse(torch.where((info == 0)[:, None, None], factor, eye))
        inverse[:, own, own] = part
        if i:
            image = part @ reach
            inverse[:, own, before] = -image
            inverse[:, before, own] = -image.mT
            inverse[:, before, before] += reach.mT @ image
    return inverse


def _products(problem: Barrier, scaled: list[Tensor], inverse: Tensor) -> tuple[Tensor, Tensor]:
    """V K on the units and V K V^T, (S, W, W) each, K the whole inverse of H - rho P^T P."""
    blocks, first = problem.blocks, float(problem.middle[0])
    reached, gram = torch.empty_like(inverse), torch.empty_like(inverse)
    reached[:, blocks[0]] = first * (scaled[0] @ inverse[:, blocks[0]])
    for i in range(1, len(blocks) - 1):
        reached[:, blocks[i]] = scaled[i] @ inverse[:, blocks[i - 1]]
    end, last = blocks[-1], scaled[-1]
    if middle := float(problem.middle[end.start]):
        # The last row of (H - rho P^T P) K = I: P has few rows, V_L many.
        rows = inverse[:, end] - last.mT @ (last @ inverse[:, end])
        rows[:, :, end].diagonal(dim1=1, dim2=2).sub_(1)
        reached[:, end] = rows.div_(middle)
    else:
        reached[:, end] = scaled[-2] @ inverse[:, blocks[-2]]
    for i, row in enumerate(blocks):
        for j, column in enumerate(blocks[: i + 1]):
            if j:
                part = reached[:, row, blocks[j - 1]] @ scaled[j].mT
            else:
                part = first * (reached[:, row, column] @ scaled[0])
            gram[:, row, column] = part if i or j else part + scaled[0]
            if i != j:
                gram[:, column, row] = part.mT
    return reached, gram

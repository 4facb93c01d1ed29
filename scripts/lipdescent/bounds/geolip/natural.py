"""The natural SDP of a one-hidden-layer network, by low-rank ascent and a dual certificate.

max <B, sum of x_i z_j^T>: Wang, Prakriya & Jha, arXiv 2203.01212, sec. 4 (GeoLIP), with vectors
z_j of length one, and x_i of length one ("linf") or of joint length one ("l2"):

    sdp(B) = max sum_ij B_ij <x_i, z_j>.

Ascent. X -> Z = normalise(B^T X) -> X = normalise(B Z) never lowers the sum; extrapolating X by
``momentum`` makes it converge in some tens of steps. X has few columns: a maximiser of rank
O(sqrt(n + h)) exists (Barvinok, Pataki), and with more columns than rows no local maximum is
spurious.

Certificate. For any p > 0 (length n) and q > 0 (length h),

    sdp(B) <= ||diag(p)^-1/2 B diag(q)^-1/2||_2 sqrt(sum p sum q),

as sum_ij B_ij <x_i, z_j> = <M, (sqrt(p_i) x_i)(sqrt(q_j) z_j)^T> and the two stacked vectors have
lengths sqrt(sum p), sqrt(sum q). In "l2" all p_i are one number, which replaces sum p. At the
maximiser q_j = ||(B^T X)_j||, and p_i = ||(B Z)_i|| ("l2": sum q), make it an equality.
The matrix has as many eigenvalues to look at as the smaller of n and h: for 40 inputs, 40,
whatever the width.
"""

import math

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm
from lipdescent.arithmetic.ulps import TINY, gamma, round_up, times_power, unscaled_up
from lipdescent.bounds.lipsdp.momentum import CHECKS, momentum
from lipdescent.deadline import over
from lipdescent.shapes import Float64

_NEGLIGIBLE = 1e-100  # of the largest entry: such entries leave the matrix and are added back


def natural_sdp(
    matrix: Float64[Tensor, "groups problems n units"],
    *,
    norm: str,
    tolerance: float = 1e-4,
    max_iterations: int = 1024,
    only_largest: bool = False,
) -> tuple[Float64[Tensor, "groups problems"], Float64[Tensor, "groups problems"]]:
    """Certified upper bound on sdp(B), and the value reached by the ascent.

    Parameters
    ----------
    matrix : (groups, problems, n, h) float64, B.
    norm : "linf" or "l2".
    tolerance : relative gap between the two results at which a problem is finished.
    max_iterations : steps after which it is given up; the bound is valid all the same.
    only_largest : also give up, early, the problems whose bound lies below the value of another
        of its group: enough for the maximum over each group.

    Returns
    -------
    upper, value : float64 (groups, problems). ``upper`` includes rounding; ``value`` does not.
    """
    groups, problems, n, h = matrix.shape
    largest = matrix.abs().amax((-1, -2))
    if only_largest:  # values are compared: one unit for the whole group
        largest = largest.amax(-1, keepdim=True).expand(-1, problems)
    exponent = torch.frexp(largest)[1].to(torch.int64)
    scaled = times_power(matrix, -exponent[..., None, None]).reshape(groups * problems, n, h)
    small = scaled.abs() < _NEGLIGIBLE
    dropped = (scaled.abs() * small).sum((-1, -2))
    vanished = (scaled == 0) & (matrix.reshape_as(scaled) != 0)
    vanished = vanished.to(torch.float64).sum((-1, -2)) * TINY
    dropped = torch.where(vanished > 0, round_up(dropped + vanished, n * h), dropped)
    scaled = scaled.masked_fill(small, 0.0)

    owner = torch.arange(groups, device=matrix.device).repeat_interleave(problems)
    search = _Search(scaled, norm, tolerance, owner if only_largest else None)
    size = min(n, h) + 1
    search.ascend(rank=min(size, 12), max_iterations=max_iterations)
    full_rank = min(size, math.ceil(math.sqrt(2 * (n + h))) + 1)
    if full_rank > 12 and not over():
        search.ascend(rank=full_rank, max_iterations=max_iterations)
    upper = certificate(scaled, search.p, search.q, norm=norm)
    upper = torch.where(dropped > 0, round_up(upper + round_up(dropped, n * h)), upper)
    upper = unscaled_up(upper.reshape(groups, problems), exponent)
    return upper, times_power(search.lower.reshape(groups, problems), exponent)


def certificate(
    matrix: Float64[Tensor, "*problems n units"],
    p: Float64[Tensor, "*problems n"],
    q: Float64[Tensor, "*problems units"],
    *,
    norm: str,
) -> Float64[Tensor, "*problems"]:
    """The dual bound at any p >= 0 (..., n), q >= 0 (..., h), rounding included: (...).

    A zero in p or q is allowed where its row or column of ``matrix`` (..., n, h) is zero.
    """
    # 1 / a_i^2 and 1 / b_j^2 are the p and q that are meant, so their roots need no care.
    a, b = _inverse_root(p), _inverse_root(q)
    bad_row = (a == 0) & (matrix != 0).any(-1)
    bad_column = (b == 0) & (matrix != 0).any(-2)
    if bad_row.any() or bad_column.any():
        raise ValueError("p, q: a zero belongs to a row or column that is not zero")
    weighted = a[..., :, None] * matrix * b[..., None, :]
    error = round_up(gamma(3) * torch.linalg.matrix_norm(weighted), weighted[0].numel() + 4)
    norm_bound = certified_spectral_norm(weighted, error=error)
    sum_p = _sum_of_inverse_squares(a) if norm == "linf" else a.amax(-1).pow(-2)
    product = round_up(sum_p * _sum_of_inverse_squares(b), 2)
    bound = round_up(norm_bound * round_up(product.sqrt(), 2), 2)
    return torch.where((matrix == 0).all(-1).all(-1), 0.0, bound)


def _inverse_root(p: Tensor) -> Tensor:
    return torch.where(p > 0, p.rsqrt(), 0.0)


def _sum_of_inverse_squares(a: Tensor) -> Tensor:
    return round_up(torch.where(a > 0, a.pow(-2), 0.0).sum(-1), a.shape[-1] + 4)


def _unit(v: Tensor, length: Tensor) -> Tensor:
    return v / length.clamp_min(1e-300)


class _Search:
    """The ascent over a batch of problems (count, n, h); finished ones leave it."""

    def __init__(self, matrix: Tensor, norm: str, tolerance: float, owner: Tensor | None) -> None:
        count, n, h = matrix.shape
        self.matrix, self.norm, self.tolerance, self.owner = matrix, norm, tolerance, owner
        self.lower = matrix.new_zeros(count)
        self.upper = matrix.new_full((count,), torch.inf)
        self.p, self.q = matrix.new_ones(count, n), matrix.new_ones(count, h)
        self.todo = torch.arange(count, device=matrix.device)

    def ascend(self, *, rank: int, max_iterations: int) -> None:
        if not len(self.todo):
            return
        matrix = self.matrix[self.todo]
        n = matrix.shape[-2]
        # One start for all problems, so that a result does not depend on the rest of the batch.
        generator = torch.Generator().manual_seed(n)
        start = torch.randn(n, rank, generator=generator, dtype=torch.float64).to(matrix.device)
        x = self._unit_rows(start).expand(len(matrix), -1, -1)
        before = x
        for k in range(1, max_iterations + 1):
            z = matrix.mT @ (x + momentum(k) * (x - before))
            before, x = x, self._unit_rows(matrix @ _unit(z, z.norm(dim=-1, keepdim=True)))
            if k in CHECKS or k == max_iterations:
                keep = self._check(matrix, x)
                if over() or not keep.any():
                    return
                if not keep.all():
                    matrix, x, before = matrix[keep], x[keep], before[keep]

    def _unit_rows(self, x: Tensor) -> Tensor:
        if self.norm == "linf":
            return _unit(x, x.norm(dim=-1, keepdim=True))
        return _unit(x, torch.linalg.matrix_norm(x, keepdim=True))

    def _check(self, matrix: Tensor, x: Tensor) -> Tensor:
        """Record value and multipliers at x; True for the problems that need more steps."""
        z = matrix.mT @ x
        q = z.norm(dim=-1)
        value = q.sum(-1)
        if self.norm == "linf":
            p = (matrix @ _unit(z, q[..., None])).norm(dim=-1)
            # ||.||_2 <= 1 asks for p_i q_j >= B_ij^2: no division by almost nothing.
            p = torch.maximum(p, _largest_ratio(matrix, q[..., None, :], -1))
        else:
            p = value[:, None].expand(x.shape[:-1])
        q = torch.maximum(q, _largest_ratio(matrix, p[..., None], -2))
        m = _inverse_root(p)[..., None] * matrix * _inverse_root(q)[..., None, :]
        gram = m @ m.mT if m.shape[-2] <= m.shape[-1] else m.mT @ m
        sum_p = p.sum(-1) if self.norm == "linf" else value
        bound = (torch.linalg.eigvalsh(gram)[..., -1] * sum_p * q.sum(-1)).clamp_min(0).sqrt()

        index, better = self.todo, bound < self.upper[self.todo]
        self.upper[index[better]] = bound[better]
        self.p[index[better]], self.q[index[better]] = p[better], q[better]
        self.lower[index] = torch.maximum(self.lower[index], value)
        keep = self.upper[index] > self.lower[index] * (1 + self.tolerance)
        if self.owner is not None:
            leader = self.lower.new_zeros(int(self.owner[-1]) + 1)
            leader.scatter_reduce_(0, self.owner, self.lower, "amax")
            keep &= self.upper[index] > leader[self.owner[index]]
        self.todo = index[keep]
        return keep


def _largest_ratio(matrix: Tensor, weight: Tensor, dim: int) -> Tensor:
    """max over ``dim`` of B_ij^2 / weight, 0 where B is 0."""
    return (matrix.square() / weight.clamp_min(1e-300)).amax(dim)

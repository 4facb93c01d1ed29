"""Largest eigenvalues of many small symmetric matrices, all of them at once.

LAPACK and cuSOLVER take such matrices one by one. Here the batch is the last axis of every array,
so that each step is one elementwise operation over the batch: Householder's reduction to
tridiagonal form (Golub & Van Loan 2013, sec. 8.3.1), then Laguerre's iteration on the
characteristic polynomial, which descends monotonically, and cubically at the end, from an upper
bound to the largest root (Wilkinson 1965, ch. 7, sec. 29). Backward stable: errors of a few units
in the last place of the norm.
"""

import torch
from torch import Tensor

from lipdescent.shapes import Float

LARGEST = 16  # measured: above, LAPACK is faster
_CHUNK = 2**11  # matrices reduced at a time, to stay in the cache
_LANES = 64  # a multiple of what a vector instruction or its unrolled loop takes
_FEWEST_STEPS = 4  # by then most have arrived
_MAX_STEPS = 60


def largest_eigenvalue(matrices: Float[Tensor, "n p p"]) -> Float[Tensor, " n"]:
    """Largest eigenvalue of every positive semidefinite matrix.

    Parameters
    ----------
    matrices : (n, p, p), finite.

    Returns
    -------
    (n,), relative error about 1e-15 times p in float64, 1e-6 times p in float32.
    """
    if matrices.shape[-1] > LARGEST:
        return torch.linalg.eigvalsh(matrices)[:, -1].clamp_min(0.0)
    parts = matrices.split(_CHUNK if matrices.device.type == "cpu" else max(1, len(matrices)))
    reduced = [_normalised_tridiagonal(part) for part in parts]
    traces, starts, diagonals, squares = zip(*reduced, strict=True)
    forms = torch.cat(diagonals, 1), torch.cat(squares, 1)
    roots = _largest_root(torch.cat(starts), *forms)
    lifted = _lifted(roots, *forms)
    again = (lifted > roots).nonzero().flatten()
    if len(again):
        roots[again] = _largest_root(lifted[again], *(form[:, again] for form in forms))
    return roots * torch.cat(traces)


def _normalised_tridiagonal(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Traces (n,); upper bounds on the roots and tridiagonal forms of matrices / trace."""
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    inverse = torch.where(trace > 0, 1 / trace, 0.0).nan_to_num(posinf=0.0)
    # Torch rounds what is left over by vector registers in another way: leave nothing over, so
    # that a result does not depend on its place in the batch.
    count = len(matrices)
    work = matrices.new_zeros(*matrices.shape[1:], -(-count // _LANES) * _LANES)
    torch.mul(matrices.permute(1, 2, 0), inverse, out=work[:, :, :count])
    diagonal, square = _tridiagonal(work)
    start = _upper_start(diagonal, square)[:count]
    return trace, start, diagonal[:, :count], square[:, :count]


def _tridiagonal(work: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonals (p, n) and squared off-diagonals (p - 1, n) of ``work`` (p, p, n), overwritten."""
    p = len(work)
    square = work.new_empty(max(p - 1, 0), work.shape[-1])
    for k in range(p - 2):
        vector = work[k + 1 :, k]
        torch.sum(vector.square(), 0, out=square[k])
        length = square[k].sqrt()
        vector[0] += torch.copysign(length, vector[0])
        # |v|^2 / 2 = |x|^2 + |x| |x_0|
        half = length * vector[0].abs()
        scaled = vector * torch.where(half > 0, 1 / half, 0.0)
        rest = work[k + 1 :, k + 1 :]
        image = (rest * scaled).sum(1)
        image -= (0.5 * (image * scaled).sum(0)) * vector
        rest.addcmul_(vector[:, None], image, value=-1)
        rest.addcmul_(image[:, None], vector, value=-1)
    if p > 1:
        torch.square(work[p - 1, p - 2], out=square[p - 2])
    return work.diagonal(dim1=0, dim2=1).T.contiguous(), square


def _largest_root(x: Tensor, diagonal: Tensor, square: Tensor) -> Tensor:
    """Largest root (n,) of the characteristic polynomials of tridiagonal matrices, from x above.

    Every matrix takes its own number of steps, so that its root does not depend on the others.
    """
    if len(diagonal) == 1:
        return diagonal[0]
    todo, start = torch.arange(len(x), device=x.device), x
    for count in range(_MAX_STEPS):
        step = _laguerre_step(diagonal, square, start)
        start = start - step
        if count + 1 >= _FEWEST_STEPS:
            x[todo] = start
            moving = (step > _close(x) * start).nonzero().flatten()
            if not len(moving):
                break
            todo, start = todo[moving], start[moving]
            diagonal, square = diagonal[:, moving], square[:, moving]
    return x


def _lifted(x: Tensor, diagonal: Tensor, square: Tensor) -> Tensor:
    """``x`` (n,), and where rounding has led a step far below the largest root, one above it.

    Of a cluster of roots the discriminant cancels to half the digits, and a step of them all
    undercuts the largest by 1e-8 of its length, where the iteration stands still.
    """
    if len(diagonal) == 1:
        return x
    lift = _close(x)
    todo = (~_is_above(diagonal, square, x * (1 + lift)) & (x > 0)).nonzero().flatten()
    x = x.clone() if len(todo) else x
    while len(todo) and lift < 1:
        lift *= 8
        x[todo] *= 1 + lift
        todo = todo[~_is_above(diagonal[:, todo], square[:, todo], x[todo])]
    return x


def _is_above(diagonal: Tensor, square: Tensor, x: Tensor) -> Tensor:
    """Whether all ratios of successive leading minors of x I - T are positive (n,): Sturm."""
    ratio = x - diagonal[0]
    above = ratio > 0
    for i in range(1, len(diagonal)):
        ratio = (x - diagonal[i]).sub_(ratio.reciprocal_().mul_(square[i - 1]))
        above &= ratio > 0
    return above


def _laguerre_step(diagonal: Tensor, square: Tensor, x: Tensor) -> Tensor:
    """How far (n,) to go down from x, by the ratios of successive leading minors of x I - T.

    All ratios are positive just where x is above every root (Sturm): where rounding has taken x
    to the largest one or below it, one is not, and the others mean nothing.
    """
    p = len(diagonal)
    # g is the ratio, s = g' / g, u = g'' / g; sums over the minors of s and of s^2 - u.
    inverse = (x - diagonal[0]).reciprocal_()
    s, u = inverse.clone(), torch.zeros_like(x)
    first, second, lowest = s.clone(), s.square(), s.clone()
    for i in range(1, p):
        t = inverse.mul_(square[i - 1])
        u.sub_(s.square().mul_(2)).mul_(t)
        s.mul_(t).add_(1)
        inverse = (x - diagonal[i]).sub_(t).reciprocal_()
        torch.minimum(lowest, inverse, out=lowest)
        s *= inverse
        u *= inverse
        first += s
        second.add_(s.square()).sub_(u)
    root = second.mul_(p).sub_(first.square()).mul_(p - 1).clamp_min_(0.0).sqrt_()
    # first = sum 1 / (x - lambda_i): not positive or not finite once x has reached the root.
    step = p / (first + root)
    return torch.where((lowest > 0) & (first > 0) & (step > 0), step, 0.0)


def _upper_start(diagonal: Tensor, square: Tensor) -> Tensor:
    """|T^2|_F^(1/2) = (sum of the fourth powers of the eigenvalues)^(1/4), a little up."""
    main = diagonal.square()
    main[:-1] += square
    main[1:] += square
    total = main.square().sum(0)
    total += 2 * (square * (diagonal[1:] + diagonal[:-1]).square()).sum(0)
    total += 2 * (square[1:] * square[:-1]).sum(0)
    return total.sqrt().sqrt() * (1 + _close(total))


def _close(numbers: Tensor) -> float:
    """A relative distance of some roundings."""
    return 1e-14 if numbers.dtype == torch.float64 else 45 * torch.finfo(numbers.dtype).eps

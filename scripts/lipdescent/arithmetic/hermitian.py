"""Products and leading eigenvalues of large Hermitian matrices, at half the work or less.

A A^H is Hermitian and a Cholesky factor triangular: blocks above the diagonal are not multiplied.
Each entry remains a sum of the same products in some order, so that bounds on its rounding hold as
they are. The eigenvalues are no bounds: what takes them proves its bound afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LARGE = 256  # measured: rows from which blocks and Lanczos' iteration pay
_BLOCK = 256
_STEPS, _CHECKED = 300, 20  # of Lanczos' iteration; how often it is asked whether it has arrived


def gram(a: Tensor) -> Tensor:
    """A A^H of (..., p, k), whose blocks above the diagonal mirror those below: (..., p, p)."""
    p = a.shape[-2]
    if p <= LARGE:
        return a @ a.mH
    product = a.new_empty(*a.shape[:-1], p)
    for begin in range(0, p, _BLOCK):
        rows = slice(begin, min(begin + _BLOCK, p))
        product[..., rows, : rows.stop] = a[..., rows, :] @ a[..., : rows.stop, :].mH
        product[..., :begin, rows] = product[..., rows, :begin].mH
    return product


def factor_product(lower: Tensor) -> Tensor:
    """L L^H of (..., p, p) with zeros above the diagonal."""
    p = lower.shape[-1]
    if p <= LARGE:
        return lower @ lower.mH
    product = lower.new_empty(lower.shape)
    for begin in range(0, p, _BLOCK):
        rows = slice(begin, min(begin + _BLOCK, p))
        for left in range(0, begin, _BLOCK):
            columns = slice(left, left + _BLOCK)
            other = lower[..., columns, : columns.stop]
            product[..., rows, columns] = lower[..., rows, : columns.stop] @ other.mH
        before = lower[..., rows, : rows.stop]
        product[..., rows, rows] = before @ before.mH
        product[..., :begin, rows] = product[..., rows, :begin].mH
    return product


def leading_eigenvalue(matrix: Tensor, *, tolerance: float) -> tuple[float, float]:
    """Largest eigenvalue of one Hermitian matrix (p, p), and by how much it may be too low.

    Lanczos' iteration with full reorthogonalisation (Golub & Van Loan 2013, sec. 10.3) from a
    fixed start, until the estimated error, relative to the eigenvalue, is below ``tolerance``.
    """
    return lanczos(lambda v: matrix @ v, matrix, tolerance=tolerance)


def lanczos(
    apply: Callable[[Tensor], Tensor], like: Tensor, *, tolerance: float
) -> tuple[float, float]:
    """:func:`leading_eigenvalue` of the map ``apply`` on columns (p, 1); ``like`` (..., p)."""
    p = like.shape[-1]
    steps = min(p, _STEPS)
    basis = like.new_zeros(steps, p)
    vector = start_vector(p, like)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        basis[step] = vector
        image = apply(vector[:, None])[:, 0]
        diagonal.append(float(torch.vdot(vector, image).real))
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.mT @ (known.conj() @ image)
        length = float(torch.linalg.vector_norm(image))
        last = step == steps - 1 or not length > 1e-14 * abs(diagonal[0])
        if last or step % _CHECKED == _CHECKED - 1:
            value, error = _ritz(diagonal, beside, length)
            if last or error <= tolerance * abs(value):
                return value, error
        beside.append(length)
        vector = image / length
    raise AssertionError("unreachable: the last step returns")


def start_vector(p: int, like: Tensor) -> Tensor:
    """A vector of length 1, (p,), the same whenever p is the same."""
    draw = torch.randn(p, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = torch.complex(*draw.T) if like.is_complex() else draw[:, 0]
    return (vector / torch.linalg.vector_norm(vector)).to(like)


def _ritz(diagonal: list[float], beside: list[float], length: float) -> tuple[float, float]:
    """Largest Ritz value, and r^2 over the gap to the next one, or r where that is less."""
    off = torch.tensor(beside, dtype=torch.float64)
    form = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    form = form + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(form)
    residual = length * abs(float(vectors[-1, -1]))
    if len(values) == 1:
        return float(values[-1]), residual
    gap = float(values[-1] - values[-2])
    return float(values[-1]), residual * min(1.0, residual / gap) if gap > 0 else residual

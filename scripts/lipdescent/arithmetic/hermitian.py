"""Products and leading eigenvalues of large Hermitian matrices, at half the work or less.

A A^H is Hermitian and a Cholesky factor triangular: blocks above the diagonal are not multiplied.
Each entry remains a sum of the same products in some order, so that bounds on its rounding hold as
they are. The eigenvalues are no bounds: what takes them proves its bound afterwards.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LARGE = 256  # measured: rows from which Lanczos' iteration pays
_BLOCKED, _BLOCK, _BLOCKS = 64, 64, 16  # rows from which a product of blocks does; theirs at least
_PANEL, _PANELS = 32, 16  # columns of a panel, at least; panels, at most
_STEPS, _CHECKED = 300, 20  # of Lanczos' iteration; how often it is asked whether it has arrived


def gram(a: Tensor) -> Tensor:
    """A A^H of (..., p, k), whose blocks above the diagonal mirror those below: (..., p, p)."""
    p = a.shape[-2]
    if p <= _BLOCKED:
        return a @ a.mH
    product = a.new_empty(*a.shape[:-1], p)
    conjugate = a.conj().resolve_conj()  # once: a lazy one is copied at every product
    for begin, end in _cuts(p, max(_BLOCK, p // _BLOCKS)):
        rows = slice(begin, end)
        product[..., rows, :end] = a[..., rows, :] @ conjugate[..., :end, :].mT
        product[..., :begin, rows] = product[..., rows, :begin].mH
    return product


class Factor(NamedTuple):
    """Lower Cholesky factors (..., p, p), how far off they are, and where they were found.

    Attributes
    ----------
    lower : L, with zeros above the diagonal.
    residual : (...), norm |R|_F of what ``factored`` measures of C - L L^H.
    found : (...) bool.
    """

    lower: Tensor
    residual: Tensor
    found: Tensor


def factored(matrix: Tensor) -> Factor:
    """Cholesky factors of C (..., p, p), Hermitian, of which the lower triangle is read.

    By panels of columns: S = C - L L^H of the panels before, its factor (LAPACK's of the square on
    top, the rows below by a triangular system), and R = S - L L^H of the panel's own. Each entry
    of S is a sum of C's and b products, each of R one of S's and b' more, b + b' <= p, so that
    C = L L^H + E with

        |E - R| <= gamma(p + 2) (|C| + |L| |L|^H)

    entrywise (Higham 2002, lemma 3.3 and eq. 3.13), or 2 gamma(2 p + 12) of complex ones. That is
    what the product L L^H would prove, for a fraction of its work.
    """
    p = matrix.shape[-1]
    lower = torch.zeros_like(matrix)
    squares = matrix.real.new_zeros(matrix.shape[:-2])
    found = torch.ones_like(squares, dtype=torch.bool)
    for begin, end in _cuts(p, max(_PANEL, p // _PANELS // _PANEL * _PANEL)):
        panel = matrix[..., begin:, begin:end]
        if begin:
            panel = panel - lower[..., begin:, :begin] @ lower[..., begin:end, :begin].mH
        square, info = torch.linalg.cholesky_ex(panel[..., : end - begin, :])
        found &= info == 0
        lower[..., begin:end, begin:end] = square.tril_()
        if end < p:
            lower[..., end:, begin:end] = torch.linalg.solve_triangular(
                square.mH, panel[..., end - begin :, :], upper=True, left=False
            )
        rest = panel - lower[..., begin:, begin:end] @ square.mH
        squares += frobenius(rest).square()
    # What is above the diagonal is conjugate to what is below it.
    return Factor(lower, (2 * squares).sqrt(), found)


def _cuts(p: int, width: int) -> list[tuple[int, int]]:
    """Where the blocks of p rows begin and end; no last one of few rows."""
    begins = [b for b in range(0, p, width) if b == 0 or p - b > width // 2]
    return list(itertools.pairwise([*begins, p]))


def frobenius(matrices: Tensor) -> Tensor:
    """Norms (...) of real or complex (..., m, n): of a complex number torch takes the modulus."""
    if matrices.is_complex():
        return torch.linalg.vector_norm(torch.view_as_real(matrices), dim=(-3, -2, -1))
    return torch.linalg.vector_norm(matrices, dim=(-2, -1))


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

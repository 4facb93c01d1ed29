"""Norms and eigenvalues in float64 with every rounding error accounted for.

Notation: u = 2^-53, gamma(k) = k u / (1 - k u). A product of real matrices with inner dimension
k, summed in any order, fused or not, has an elementwise error of at most gamma(k) |A| |B|
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.13).

Proof of :func:`certified_max_eigenvalue`. Let H be the symmetric matrix that is stored, t any
number, C = fl(t I - H) and L any real matrix; Cholesky's factor of C is only a good choice. Then
t I - H = L L^T + E, where the residual R that :func:`hermitian.factored` measures gives

    |E|_2 <= |R|_F + gamma(p + 2) (| |C| |_inf + | |L| |L|^T |_inf) + u max_i |C_ii| =: e,

so t I - H >= -e I, that is lambda_max(H) <= t + e. This is Rump's check (BIT 46, 2006) with the
residual measured instead of bounded a priori, hence it does not depend on how a library (LAPACK,
cuSOLVER, MAGMA) computes the factor. The matrix that is meant differs from H by at most ``error``
in the l2 norm, which is added (Weyl).

Proof of :func:`certified_spectral_norm`. |A|_2^2 = lambda_max(G), G = A^T A or A A^T, and
|fl(G) - G|_2 <= gamma(k) | |A|^T |A| |_2 <= gamma(k) |A|_F^2.

H need not be symmetric to the last bit: what is meant is its lower triangle, mirrored.
Matrices are scaled by a power of two to a largest entry in [1/2, 1), or in [2^-201, 2^200] for
norms. What underflows then is at most p k 2^-1074 in a result of at least 2^-402, and one ulp of
slack covers it.

On CUDA the matrix products must be true float64 products, which is the default.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lipdescent.arithmetic import hermitian
from lipdescent.arithmetic.ulps import (
    UNIT_ROUNDOFF,
    gamma,
    round_down,
    round_up,
    scaled_to_one,
    times_power,
    unscaled_up,
)

_CHUNK = 2**23  # entries that one pass holds in each of its few temporaries: 64 MiB


def certified_spectral_norm(matrix: Tensor, *, error: Tensor | float = 0.0) -> Tensor:
    """Upper bound on the spectral norm of every matrix.

    Parameters
    ----------
    matrix : (..., m, n) real or complex, lifted to float64.
    error : (...) or number, l2-norm bound on what rounding has already done to ``matrix``.

    Returns
    -------
    float64 (...), in excess by about 1e-14 to 1e-10 relative, growing with m, n.

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point matrices with m, n >= 1.
    """
    matrix = _checked(matrix, "matrix")
    error = _broadcast(error, matrix)
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    norm = _in_chunks(_spectral_norm, flat)
    return _add(norm.reshape(matrix.shape[:-2]), error)


def certified_max_eigenvalue(
    matrix: Tensor, *, error: Tensor | float = 0.0, guess: float | None = None
) -> Tensor:
    """Upper bound on the largest eigenvalue of every symmetric (Hermitian) matrix.

    Parameters
    ----------
    matrix : (..., n, n) lifted to float64; of a real one only the lower triangle is read.
    error : (...) or number, l2-norm bound on the rounding errors made in forming ``matrix``.
    guess : the largest eigenvalue, if it is known up to rounding; saves finding it. A guess that is
        too low costs time, one that is too high is where the bound lies.

    Returns
    -------
    float64 (...).

    Raises
    ------
    TypeError, ValueError
        For anything but finite, square floating-point matrices with n >= 1.
    """
    matrix = _checked(matrix, "matrix")
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix: shape {tuple(matrix.shape)} is not square")
    error = _broadcast(error, matrix)
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    value = _in_chunks(lambda part: _max_eigenvalue(part, guess), flat)
    return _add(value.reshape(matrix.shape[:-2]), error)


def norm_linf(matrix: Tensor) -> Tensor:
    """Operator norm from l_inf to l_inf, the largest absolute row sum, rounded up: (...)."""
    matrix = _checked(matrix, "matrix")
    return round_up(matrix.abs().sum(-1).amax(-1), matrix.shape[-1])


def norm_l1(matrix: Tensor) -> Tensor:
    """Operator norm from l1 to l1, the largest absolute column sum, rounded up: (...)."""
    return norm_linf(matrix.transpose(-1, -2))


# The operator norm of matrices (..., m, n), rounded up, by its name.
NORMS = {"l2": certified_spectral_norm, "linf": norm_linf, "l1": norm_l1}


def norm_frobenius(matrix: Tensor) -> Tensor:
    """Frobenius norm, an upper bound on the spectral norm, rounded up: (...)."""
    scaled, exponent = scaled_to_one(_checked(matrix, "matrix"))
    return unscaled_up(_frobenius(scaled), exponent)


def _max_eigenvalue(matrix: Tensor, guess: float | None) -> Tensor:
    """(B, p, p), lower triangles, to (B,)."""
    lower = matrix.tril()
    scaled, exponent = scaled_to_one(lower + matrix.tril(-1).transpose(-1, -2))
    if guess is None:
        return unscaled_up(_largest(scaled), exponent)
    shift = times_power(torch.full_like(scaled[:, 0, 0], guess), -exponent)
    size = scaled.abs().sum(-1).amax(-1)
    bound, sound = _shifted_factor(scaled, shift + matrix.shape[-1] * UNIT_ROUNDOFF * size)
    if not bool(sound.all()):
        bound = torch.where(sound, bound, torch.inf)
        bound[~sound] = _largest(scaled[~sound])
    return unscaled_up(bound, exponent)


def _largest(matrix: Tensor) -> Tensor:
    """Bound (B,) on lambda_max(H) + |E|_2 from H + E (B, p, p), H symmetric, E anything.

    The entries' sizes must be such that nothing relevant under- or overflows. H is Hermitian up to
    rounding; its lower triangle counts.
    """
    p = matrix.shape[-1]
    top, step = _estimate(matrix) if p > hermitian.LARGE else _eigenvalue(matrix)
    bound, sound = _shifted_factor(matrix, top + 2 * step)
    if bool(sound.all()):
        return bound
    rows = round_up(matrix.abs().sum(-1).amax(-1), p)
    columns = round_up(matrix.abs().sum(-2).amax(-1), p)
    bound = torch.where(sound, bound, torch.maximum(rows, columns))  # |H|_2, if none is found
    for attempt in range(8):
        todo = (~sound).nonzero().flatten()
        if not len(todo):
            break
        if p > hermitian.LARGE and attempt == 0:  # the estimate's start had missed the largest
            top[todo], step[todo] = _eigenvalue(matrix[todo])
        else:
            step = 16 * step
        value, found = _shifted_factor(matrix[todo], (top + 2 * step)[todo])
        bound[todo] = torch.where(found, torch.minimum(value, bound[todo]), bound[todo])
        sound[todo] = found
    return bound


def _eigenvalue(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues (B,), and the size (B,) of their error."""
    values = torch.linalg.eigvalsh(matrix)
    return values[:, -1], matrix.shape[-1] * UNIT_ROUNDOFF * values[:, [0, -1]].abs().amax(1)


def _estimate(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_eigenvalue` of large matrices, in a fraction of the time; may rarely be too low."""
    rounding = matrix.shape[-1] * UNIT_ROUNDOFF
    found = [hermitian.leading_eigenvalue(one, tolerance=rounding) for one in matrix]
    top, error = matrix.new_tensor(found).T
    return top, torch.maximum(rounding * torch.maximum(top.abs(), matrix.abs().amax((1, 2))), error)


def _shifted_factor(matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """lambda_max <= shift + e by the factor of shift I - matrix, and where it was found."""
    p = matrix.shape[-1]
    shifted = -matrix
    shifted.diagonal(dim1=-2, dim2=-1).add_(shift[:, None])
    lower, residual, found = hermitian.factored(shifted)
    absolute = lower.abs_()
    ones = absolute.new_ones(p, 1)
    product = (absolute @ (absolute.transpose(-1, -2) @ ones)).amax((-1, -2))
    largest = shifted.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    below = shifted.abs_().tril_()
    rows = (below.sum(-1) + below.sum(-2)).amax(-1)
    # Sums of at most p^2 non-negative numbers: relative error gamma(p^2 + 4).
    excess = residual + gamma(p + 2) * (rows + product) + UNIT_ROUNDOFF * largest
    value = round_up(shift + round_up(excess, p * p + 2 * p + 8), 2)
    return value, found & value.isfinite()


def _spectral_norm(matrix: Tensor) -> Tensor:
    """(B, m, n) to (B,)."""
    flat = matrix.flatten(1)
    exponent = torch.frexp(torch.maximum(flat.amax(1), -flat.amin(1)))[1].to(torch.int64)
    # Largest entries between 2^-200 and 2^200 leave room enough for their products.
    exponent = torch.where(exponent.abs() <= 200, 0, exponent)
    scaled = times_power(matrix, -exponent[:, None, None]) if bool(exponent.any()) else matrix
    rows, columns = scaled.shape[-2:]
    tall = scaled if rows >= columns else scaled.transpose(-1, -2)
    gram = hermitian.gram(tall.transpose(-1, -2))
    # |A|_F^2, up to gamma(k) relative in each entry of the diagonal.
    k = max(rows, columns)
    square = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = torch.where(square == 0, square, round_up(square * (1 + 2 * gamma(k)), k + 4))
    largest = round_up(_largest(gram) + round_up(gamma(k) * square, 4), 2)
    norm = round_up(torch.minimum(largest.clamp_min(0.0), square).sqrt(), 2)
    return unscaled_up(torch.where(square == 0, 0.0, norm), exponent)


def length_up(x: Tensor) -> Tensor:
    """l2 norms of the last axis, rounded up, at any scale: (..., n) to (...). Not finite stays."""
    scaled, exponent = scaled_to_one(x[..., None, :])
    return unscaled_up(_frobenius(scaled), exponent)


def length_down(x: Tensor) -> Tensor:
    """l2 norms of the last axis, rounded down, at any scale: (..., n) to (...)."""
    scaled, exponent = scaled_to_one(x[..., None, :])
    length = round_down(scaled.square().sum((-1, -2)).sqrt(), x.shape[-1] + 4)
    return round_down(times_power(length, exponent)).clamp_min(0.0)


def _frobenius(scaled: Tensor) -> Tensor:
    """Frobenius norm of scaled matrices, rounded up; exactly 0 for a zero matrix."""
    k = scaled.shape[-1] * scaled.shape[-2] + 4
    norm = scaled.square().sum((-1, -2)).sqrt()
    return torch.where(norm == 0, norm, round_up(norm, k))


def _add(value: Tensor, error: Tensor) -> Tensor:
    return torch.where(error == 0, value, round_up(value + error))


def _in_chunks(function: Callable[[Tensor], Tensor], flat: Tensor) -> Tensor:
    size = max(1, _CHUNK // max(1, flat.shape[-1] * flat.shape[-2]))
    parts = [function(_real_form(part).to(torch.float64)) for part in flat.split(size)]
    return torch.cat(parts) if parts else flat.new_zeros(0, dtype=torch.float64)


def _real_form(matrix: Tensor) -> Tensor:
    """[[Re, -Im], [Im, Re]]: the same norm, the same eigenvalues (each twice)."""
    if not matrix.is_complex():
        return matrix
    top = torch.cat([matrix.real, -matrix.imag], -1)
    return torch.cat([top, torch.cat([matrix.imag, matrix.real], -1)], -2)


def _broadcast(error: Tensor | float, matrix: Tensor) -> Tensor:
    error = torch.as_tensor(error, dtype=torch.float64, device=matrix.device)
    if not ((error >= 0) & error.isfinite()).all():
        raise ValueError("error: allowed are finite numbers >= 0")
    return error.expand(matrix.shape[:-2])


def _checked(matrix: Tensor, name: str) -> Tensor:
    if not (matrix.is_floating_point() or matrix.is_complex()):
        raise TypeError(f"{name}: dtype {matrix.dtype}, allowed are floating-point types")
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(f"{name}: shape {tuple(matrix.shape)}, expected (..., m, n), m, n >= 1")
    if matrix.numel():  # one pass without temporaries: NaN propagates
        smallest, largest = torch.aminmax(
            torch.view_as_real(matrix) if matrix.is_complex() else matrix
        )
        if not math.isfinite(smallest) or not math.isfinite(largest):
            raise ValueError(f"{name}: contains NaN or infinity; allowed are finite numbers")
    return matrix if matrix.is_complex() else matrix.to(torch.float64)

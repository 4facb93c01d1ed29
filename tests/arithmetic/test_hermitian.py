"""Products and eigenvalues of large Hermitian matrices, against torch's own, and proved norms."""

from __future__ import annotations

import pytest
import torch

from lipdescent.arithmetic import certified_norms, hermitian


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("p", [5, 65, 97, 257, 600])
def test_products_are_those_of_whole_matrices(p, dtype):
    a = drawn(2, p, 40, dtype=dtype)
    torch.testing.assert_close(hermitian.gram(a), a @ a.mH, rtol=1e-12, atol=1e-12)
    if p > 64:
        assert torch.equal(hermitian.gram(a)[0, 0, 64:], hermitian.gram(a)[0, 64:, 0].conj())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("p", [1, 5, 32, 33, 65, 97, 1100])
def test_factors_are_as_far_off_as_is_said(p, dtype):
    """A factor that is wrong in one entry has a residual of that size, and so has the true one."""
    a = drawn(2 if p < 1000 else 1, p, p + 3, dtype=dtype)
    matrix = a @ a.mH + p * torch.eye(p, dtype=dtype)
    lower, residual, found = hermitian.factored(matrix)
    assert bool(found.all())
    assert torch.equal(lower, lower.tril())
    size = torch.linalg.matrix_norm(matrix)
    off = torch.linalg.matrix_norm(matrix - lower @ lower.mH)
    assert bool((off <= residual + 1e-15 * p * size).all())
    assert bool((residual <= 1e-15 * p * size).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("at", [0, 40, 69])
def test_what_is_not_positive_has_no_factor_or_one_that_is_far_off(at, dtype):
    matrix = torch.eye(70, dtype=dtype).repeat(2, 1, 1)
    matrix[0, at, at] = -1e-3
    lower, residual, found = hermitian.factored(matrix)
    assert not (found[0] and residual[0] < 1e-3)
    assert found[1]
    assert residual[1] == 0
    assert torch.equal(lower[1], matrix[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("p", [40, 70])
def test_a_wrong_factor_is_seen_in_the_residual(p, dtype, monkeypatch):
    """Whatever a library makes of the factor: here it is off in one place of each square."""
    a = drawn(1, p, p, dtype=dtype)
    matrix = a @ a.mH + p * torch.eye(p, dtype=dtype)
    cholesky = torch.linalg.cholesky_ex

    def wrong(square):
        lower, info = cholesky(square)
        lower[..., -1, 0] += 1e-3
        return lower, info

    monkeypatch.setattr(torch.linalg, "cholesky_ex", wrong)
    lower, residual, _ = hermitian.factored(matrix)
    off = torch.linalg.matrix_norm(matrix - lower @ lower.mH)
    assert float(off) > 1e-3
    assert float(residual) >= float(off) * (1 - 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_leading_eigenvalue(dtype):
    matrix = hermitian.gram(drawn(300, 300, dtype=dtype))
    truth = float(torch.linalg.eigvalsh(matrix)[-1])
    value, error = hermitian.leading_eigenvalue(matrix, tolerance=1e-13)
    assert abs(value - truth) <= 1e-12 * truth + error
    assert error <= 1e-12 * truth


@pytest.mark.parametrize("top", [10.0, 1.0 + 1e-9, 0.0])
def test_norms_are_proved_where_the_iteration_starts_beside_the_largest_one(top):
    """Orthogonal to the start: without rounding the iteration never meets the first direction."""
    p = 300
    start = hermitian.start_vector(p, drawn(1))
    basis = torch.linalg.qr(torch.cat([start[:, None], drawn(p, p - 1)], 1))[0]
    values = torch.ones(p, dtype=torch.float64)
    values[7] = top
    matrix = basis * values @ basis.mT
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    norm = float(certified_norms.certified_spectral_norm(matrix))
    assert truth * (1 - 1e-13) <= norm <= truth * (1 + 1e-9)


def test_large_norms_of_many_matrices_are_those_of_one():
    matrices = drawn(3, 270, 300)
    together = certified_norms.certified_spectral_norm(matrices)
    alone = torch.stack([certified_norms.certified_spectral_norm(m) for m in matrices])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    truth = torch.linalg.matrix_norm(matrices, 2)
    assert bool((together >= truth * (1 - 1e-14)).all())
    assert bool((together <= truth * (1 + 1e-10)).all())
    zero = certified_norms.certified_spectral_norm(torch.zeros(300, 400, dtype=torch.float64))
    assert float(zero) == 0

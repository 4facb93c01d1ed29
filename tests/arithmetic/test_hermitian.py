"""Products and eigenvalues of large Hermitian matrices, against torch's own, and proved norms."""

from __future__ import annotations

import pytest
import torch

from lipdescent.arithmetic import certified_norms, hermitian


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("p", [5, 256, 257, 600])
def test_products_are_those_of_whole_matrices(p, dtype):
    a = drawn(2, p, 40, dtype=dtype)
    torch.testing.assert_close(hermitian.gram(a), a @ a.mH, rtol=1e-12, atol=1e-12)
    lower = drawn(1, p, p, dtype=dtype).tril()
    product = hermitian.factor_product(lower)
    torch.testing.assert_close(product, lower @ lower.mH, rtol=1e-12, atol=1e-11)
    assert torch.equal(product[0, 0, 1:], product[0, 1:, 0].conj())


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

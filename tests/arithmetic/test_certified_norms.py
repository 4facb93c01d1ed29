"""Certified norms against closed forms, exact rational arithmetic and mpmath."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipdescent.arithmetic import certified_norms
from lipdescent.arithmetic.certified_norms import (
    certified_max_eigenvalue,
    certified_spectral_norm,
    norm_frobenius,
    norm_l1,
    norm_linf,
)
from lipdescent.arithmetic.ulps import gamma, round_down, round_up

FEW = settings(deadline=None, derandomize=True, max_examples=25)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def true_norm(matrix: torch.Tensor) -> mpmath.mpf:
    """Spectral norm to 40 digits."""
    with mpmath.workdps(40):
        gram = mpmath.matrix(matrix.tolist())
        gram = gram.T * gram
        return mpmath.sqrt(max(mpmath.eigsy(gram, eigvals_only=True)))


def test_closed_forms() -> None:
    u, v = gaussian(6, seed=1), gaussian(9, seed=2)
    rank_one = certified_spectral_norm(torch.outer(u, v))
    assert float(rank_one) == pytest.approx(float(u.norm() * v.norm()), rel=1e-13)
    orthogonal = torch.linalg.qr(gaussian(30, 30))[0]
    assert float(certified_spectral_norm(orthogonal)) == pytest.approx(1.0, rel=1e-12)
    ones = torch.ones(1, 7)
    assert math.sqrt(7) <= float(certified_spectral_norm(ones)) <= math.sqrt(7) * (1 + 1e-13)
    assert 7 <= float(norm_linf(ones)) <= 7 * (1 + 1e-14)
    assert 1 <= float(norm_l1(ones)) <= 1 + 1e-14
    # An exact power iteration from (0, 1) would return 1.
    assert float(certified_spectral_norm(torch.diag(torch.tensor([10.0, 1.0])))) >= 10
    assert certified_spectral_norm(torch.zeros(2, 3, 4)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-150, 1e150, 1e-300, 1e300])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 4), (60, 12)])
def test_never_below_and_tight(shape: tuple[int, int], scale: float) -> None:
    matrices = scale * gaussian(3, *shape, seed=len(shape))
    bound = certified_spectral_norm(matrices)
    for matrix, value in zip(matrices, bound.tolist(), strict=True):
        truth = true_norm(matrix)
        with mpmath.workdps(40):
            assert 0 <= mpmath.mpf(value) / truth - 1 < 1e-12


def test_subnormal_entries() -> None:
    matrix = torch.full((2, 2), 5e-324, dtype=torch.float64)
    assert 1e-323 <= float(certified_spectral_norm(matrix)) <= 3e-323


def test_float32_is_lifted_and_leading_axes_kept() -> None:
    matrices = gaussian(2, 3, 4, 5).float()
    bound = certified_spectral_norm(matrices)
    assert bound.shape == (2, 3)
    assert bound.dtype == torch.float64
    truth = torch.linalg.matrix_norm(matrices.double(), 2)
    assert torch.allclose(bound, truth, rtol=1e-12, atol=0)
    assert certified_spectral_norm(torch.zeros(0, 4, 5)).shape == (0,)


def test_complex_matrix_has_the_norm_of_its_svd() -> None:
    matrix = torch.complex(gaussian(4, 6), gaussian(4, 6, seed=1))
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert float(certified_spectral_norm(matrix)) == pytest.approx(truth, rel=1e-12)


def test_max_eigenvalue_of_either_sign_and_error_is_added() -> None:
    symmetric = gaussian(20, 7, 7)
    symmetric = symmetric + symmetric.mT - 20 * torch.eye(7)
    bound = certified_max_eigenvalue(symmetric)
    for matrix, value in zip(symmetric, bound.tolist(), strict=True):
        with mpmath.workdps(40):
            exact = max(mpmath.eigsy(mpmath.matrix(matrix.tolist()), eigvals_only=True))
            assert 0 <= mpmath.mpf(value) - exact < 1e-11
    assert float((certified_max_eigenvalue(symmetric, error=0.5) - bound - 0.5).abs().max()) < 1e-12


def test_only_the_lower_triangle_is_read() -> None:
    symmetric = gaussian(5, 5)
    symmetric = symmetric + symmetric.mT
    garbage = symmetric.tril() + 1e6 * gaussian(5, 5, seed=3).triu(1)
    assert certified_max_eigenvalue(garbage) == certified_max_eigenvalue(symmetric)


def test_clustered_and_singular_matrices_need_no_fallback() -> None:
    low_rank = gaussian(50, 1) @ gaussian(1, 50, seed=1) + 1e-13 * gaussian(50, 50, seed=2)
    truth = float(torch.linalg.matrix_norm(low_rank, 2))
    assert float(certified_spectral_norm(low_rank)) == pytest.approx(truth, rel=1e-12)


def test_bound_survives_a_useless_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = gaussian(10, 6)

    def fails(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(a), torch.ones(len(a), dtype=torch.int32)

    monkeypatch.setattr(certified_norms.torch.linalg, "cholesky_ex", fails)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert truth <= float(certified_spectral_norm(matrix)) <= float(norm_frobenius(matrix))

    def lies(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(a), torch.zeros(len(a), dtype=torch.int32)

    monkeypatch.setattr(certified_norms.torch.linalg, "cholesky_ex", lies)
    assert float(certified_spectral_norm(matrix)) >= truth


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = gaussian(7, 4, 9)
    whole = certified_spectral_norm(matrices)
    monkeypatch.setattr(certified_norms, "_CHUNK", 2 * 4 * 9)
    assert torch.allclose(certified_spectral_norm(matrices), whole, rtol=1e-14, atol=0)


@FEW
@given(st.floats(-1e300, 1e300), st.integers(1, 1000))
def test_rounding_covers_the_ulps_asked_for(x: float, ulps: int) -> None:
    up, down = (
        float(round_up(torch.tensor(x, dtype=torch.float64), ulps)),
        float(round_down(torch.tensor(x, dtype=torch.float64), ulps)),
    )
    assert Fraction(up) >= Fraction(x) + ulps * Fraction(math.ulp(x))
    assert Fraction(down) <= Fraction(x) - ulps * Fraction(math.ulp(x))
    assert up - x <= (2 * ulps + 2) * math.ulp(x) + 1e-320


@FEW
@given(st.integers(0, 2**40))
def test_gamma_is_rounded_up(k: int) -> None:
    exact = Fraction(k, 2**53) / (1 - Fraction(k, 2**53))
    assert exact <= Fraction(gamma(k)) <= exact * (1 + Fraction(1, 10**14))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.tensor([[math.nan]]), "NaN or infinity"),
        (torch.tensor([[math.inf]]), "NaN or infinity"),
        (torch.ones(3), "shape"),
        (torch.ones(3, 0), "shape"),
    ],
)
def test_bad_matrices_are_named(matrix: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certified_spectral_norm(matrix)


def test_other_mistakes() -> None:
    with pytest.raises(TypeError, match=r"torch\.int64"):
        certified_spectral_norm(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="not square"):
        certified_max_eigenvalue(torch.ones(2, 3))
    with pytest.raises(ValueError, match="error"):
        certified_spectral_norm(torch.ones(2, 3), error=-1.0)


def test_a_guess_of_the_largest_eigenvalue_changes_time_not_validity() -> None:
    matrix = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gram = matrix @ matrix.mT
    negative = gram - torch.linalg.eigvalsh(gram)[:, -1, None, None] * torch.eye(9)
    exact = torch.linalg.eigvalsh(negative)[:, -1]
    plain = certified_max_eigenvalue(negative)
    for guess, excess in ((0.0, 1e-11), (-5.0, 1e-11), (3.0, 3.0 + 1e-11)):
        bound = certified_max_eigenvalue(negative, guess=guess)
        assert bool((bound >= exact).all())
        assert bool((bound <= plain + excess).all())

"""Norms by blocks are those of the whole matrix, and never below the truth."""

import pytest
import torch

from lipdescent.arithmetic.blocks import spectral_norm_by_blocks
from lipdescent.arithmetic.certified_norms import certified_spectral_norm


def shuffled_blocks(sizes, generator, zero_rows=0):
    """A block-diagonal matrix with rows and columns in a random order."""
    parts = [torch.randn(m, n, dtype=torch.float64, generator=generator) for m, n in sizes]
    whole = torch.block_diag(*parts, torch.zeros(zero_rows, 1, dtype=torch.float64))
    rows, columns = (torch.randperm(k, generator=generator) for k in whole.shape)
    return whole[rows][:, columns], max(float(torch.linalg.matrix_norm(p, 2)) for p in parts)


@pytest.mark.parametrize(
    "sizes",
    [
        [(3, 3)],
        [(3, 2), (3, 2), (3, 2)],
        [(1, 4), (4, 1), (2, 2)],
        [(5, 7), (1, 1), (5, 7), (2, 9)],
    ],
)
@pytest.mark.parametrize("zero_rows", [0, 2])
def test_the_largest_of_the_blocks(sizes, zero_rows):
    generator = torch.Generator().manual_seed(len(sizes))
    for _ in range(5):
        matrix, truth = shuffled_blocks(sizes, generator, zero_rows)
        found = float(spectral_norm_by_blocks(matrix))
        assert truth <= found * (1 + 1e-15)
        assert found <= truth * (1 + 1e-10)
        assert float(spectral_norm_by_blocks(matrix, error=0.5)) >= truth + 0.5


def test_matrices_of_which_each_links_other_blocks():
    """Blocks are those of all matrices together: one that is linked anywhere is one block."""
    matrices = torch.zeros(3, 4, 4, dtype=torch.float64)
    matrices[0] = torch.eye(4)
    matrices[1, :2, :2] = 1.0
    matrices[2, 2:, 2:] = 2.0
    found = spectral_norm_by_blocks(matrices)
    assert torch.allclose(found, torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), rtol=1e-12)
    assert bool((found >= certified_spectral_norm(matrices) * (1 - 1e-12)).all())


def test_of_zeros_it_is_zero():
    assert spectral_norm_by_blocks(torch.zeros(2, 3, 4, dtype=torch.float64)).tolist() == [0.0, 0.0]


def test_the_same_layer_at_many_tokens_costs_one():
    weight = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = torch.kron(torch.eye(40, dtype=torch.float64), weight)
    one = float(certified_spectral_norm(weight))
    assert float(spectral_norm_by_blocks(whole)) == pytest.approx(one, rel=1e-12)

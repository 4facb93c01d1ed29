"""Norms of matrices that fall into blocks, whatever the order of their rows and columns.

Rows and columns that share an entry other than 0 belong together; a matrix whose rows and columns
fall into several such groups is block diagonal but for their order, which changes no l2 norm, and
its norm is the largest of its blocks' (Golub & Van Loan 2013, sec. 2.3). So the same linear layer
at 200 tokens costs what it costs at one.
"""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm
from lipdescent.arithmetic.ulps import round_up


def spectral_norm_by_blocks(matrix: Tensor, *, error: Tensor | float = 0.0) -> Tensor:
    """Upper bounds on the spectral norms of float64 matrices (..., m, n): (...).

    As :func:`lipdescent.arithmetic.certified_norms.certified_spectral_norm`, block by block where
    all matrices have the same several blocks. ``error`` is of the whole matrix.
    """
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    blocks = _blocks((flat != 0).any(0))
    if blocks is None:
        return certified_spectral_norm(matrix, error=error)
    norm = torch.zeros_like(flat[:, 0, 0])
    for rows, columns in blocks:  # (count, r), (count, c): those of one size at once
        parts = flat[:, rows[:, :, None], columns[:, None, :]]
        norm = torch.maximum(norm, certified_spectral_norm(parts).amax(1))
    norm = norm.reshape(matrix.shape[:-2])
    error = torch.as_tensor(error, dtype=torch.float64, device=matrix.device)
    return torch.where(error == 0, norm, round_up(norm + error))


def _blocks(entries: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """Rows (count, r) and columns (count, c) of the blocks of each size; None for one block.

    Rows and columns of zeros are in none.
    """
    if bool(entries.all(0).any() | entries.all(1).any()):
        return None
    m, n = entries.shape
    row, column = entries.cpu().numpy().nonzero()
    links = coo_array((np.ones(len(row), dtype=bool), (row, m + column)), shape=(m + n, m + n))
    count, label = connected_components(links, directed=False)
    if count == 1:
        return None
    by_size: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    order = np.argsort(label, kind="stable")
    for own in np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1]):
        rows, columns = own[own < m], own[own >= m] - m
        if len(rows) and len(columns):
            by_size.setdefault((len(rows), len(columns)), []).append((rows, columns))
    return [
        (torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(columns)))
        for rows, columns in (zip(*pairs, strict=True) for pairs in by_size.values())
    ]

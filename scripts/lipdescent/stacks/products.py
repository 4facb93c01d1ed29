"""Batched matrix products of which a model's bits do not depend on how many models there are.

A batch of several matrices goes to another kernel than one matrix. With MKL_CBWR (set where this
package is imported) the two round alike, but for products of vectors: there one model is computed
beside a copy of itself.
"""

import torch
from torch import Tensor

from lipdescent.shapes import Float


def bmm(
    left: Float[Tensor, "models m k"],
    right: Float[Tensor, "models k n"],
    *,
    out: Float[Tensor, "models m n"] | None = None,
) -> Float[Tensor, "models m n"]:
    """``torch.bmm`` of (models, m, k) and (models, k, n)."""
    if not _lonely(left, right):
        return torch.bmm(left, right, out=out)
    product = torch.bmm(_twice(left), _twice(right))[:1]
    return product if out is None else out.copy_(product)


def baddbmm(
    start: Tensor,
    left: Float[Tensor, "models m k"],
    right: Float[Tensor, "models k n"],
    *,
    beta: float = 1.0,
    alpha: float = 1.0,
    out: Float[Tensor, "models m n"] | None = None,
) -> Float[Tensor, "models m n"]:
    """``torch.baddbmm``, beta start + alpha left right; ``start`` broadcasts, but for models."""
    if not _lonely(left, right):
        return torch.baddbmm(start, left, right, beta=beta, alpha=alpha, out=out)
    parts = (_twice(t) for t in (start, left, right))
    product = torch.baddbmm(*parts, beta=beta, alpha=alpha)[:1]
    return product if out is None else out.copy_(product)


def _lonely(left: Tensor, right: Tensor) -> bool:
    """True for vectors of one model on a CPU; in a backward pass any of the sizes is a vector's."""
    alone = left.shape[0] == 1 and left.device.type == "cpu"
    return alone and 1 in (*left.shape[1:], right.shape[2])


def _twice(matrix: Tensor) -> Tensor:
    return matrix.expand(2, *matrix.shape[1:])

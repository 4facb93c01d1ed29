"""Sorting of neighbouring features for a stack, with a gradient of its own."""

from typing import Any

import torch
from torch import Tensor


class SortPairs(torch.autograd.Function):
    """Sort neighbours along axis 1 of (n, features, ...): autograd's own takes four times as long.

    Fast where the last axis is contiguous.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        first, second = _pairs(x)
        out = torch.empty_like(x)
        low, high = _pairs(out)
        torch.minimum(first, second, out=low)
        torch.maximum(first, second, out=high)
        ctx.save_for_backward((first > second).to(x.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (swapped,) = ctx.saved_tensors  # 0 or 1: a product is faster than a choice
        low, high = _pairs(gradient)
        out = torch.empty_like(gradient)
        first, second = _pairs(out)
        torch.sub(high, low, out=first).mul_(swapped)
        torch.sub(high, first, out=second)
        first.add_(low)
        return out


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd entries of axis 1, views."""
    return x.unflatten(1, (-1, 2)).unbind(2)

"""Max pools of a stack of networks over windows that do not overlap.

Shapes are (models, batch, channels, *space), in whatever order in memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lipdescent.shapes import Float


class _MaxAlong(torch.autograd.Function):
    """Maximum over windows of ``size`` along ``dim``; the first of equal entries gets the slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, size: int) -> Tensor:
        parts = windows(x, dim, size)
        out = torch.maximum(parts[0], parts[1])
        for part in parts[2:]:
            torch.maximum(out, part, out=out)
        ctx.save_for_backward(x, out)
        ctx.dim, ctx.window = dim, size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, out = ctx.saved_tensors
        slope = torch.empty_like(x)
        covered = out.shape[ctx.dim] * ctx.window
        if covered < x.shape[ctx.dim]:
            slope.narrow(ctx.dim, covered, x.shape[ctx.dim] - covered).zero_()
        left = grad
        pairs = zip(
            windows(x, ctx.dim, ctx.window), windows(slope, ctx.dim, ctx.window), strict=True
        )
        for i, (part, target) in enumerate(pairs):
            if i == ctx.window - 1:
                target.copy_(left)
                break
            torch.eq(part, out, out=target).mul_(left)  # as numbers: booleans are slow to multiply
            left = left - target
        return slope, None, None


def windows(x: Tensor, dim: int, size: int) -> tuple[Tensor, ...]:
    """Views of the first, second, ... entry of every whole window of ``size`` along ``dim``."""
    count = x.shape[dim] // size
    return x.narrow(dim, 0, count * size).unflatten(dim, (count, size)).unbind(dim + 1)


def max_pool(
    x: Float[Tensor, "models batch channels *space"], size: tuple[int, ...]
) -> Float[Tensor, "models batch channels *pooled"]:
    """Max pool of (models, batch, channels, *space) over windows that do not overlap.

    Columns first, then rows: among equal pixels the first in reading order gets the slope, as in
    ``torch.nn.functional.max_pool2d``.
    """
    for axis in reversed(range(len(size))):
        if x.shape[3 + axis] < size[axis]:
            raise ValueError(f"max pool of {size} on an image of {tuple(x.shape[3:])}")
        if size[axis] > 1:
            x = _MaxAlong.apply(x, 3 + axis, size[axis])
    return x


def tiling(module: Any) -> tuple[int, ...] | None:
    """Window of a max pool whose windows lie side by side; None for anything else."""
    if type(module) not in (nn.MaxPool1d, nn.MaxPool2d):
        return None
    axes = 1 if isinstance(module, nn.MaxPool1d) else 2
    settings = module.kernel_size, module.stride, module.padding, module.dilation
    size, stride, padding, dilation = (
        (value,) * axes if isinstance(value, int) else tuple(value) for value in settings
    )
    plain = size == stride and set(padding) == {0} and set(dilation) == {1}
    return size if plain and not module.ceil_mode and not module.return_indices else None

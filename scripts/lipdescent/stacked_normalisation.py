"""Batch normalisation of a stack of networks, each with its own statistics.

Shapes are (models, batch, channels, *space) for activations, (models, channels) for the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def normalise(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, channel by channel."""
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return torch.addcmul(_over(shift, x), x, _over(scale, x))


def normalise_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the statistics of each model's own batch.

    Returns
    -------
    The normalised activations, differentiable, and their former mean and (biased) variance
    (models, channels), which are not.
    """
    return _BatchNorm.apply(x, weight, bias, eps)


def _over(per_channel: Tensor, x: Tensor) -> Tensor:
    models, channels = per_channel.shape
    return per_channel.view(models, 1, channels, *[1] * (x.ndim - 3))


class _BatchNorm(torch.autograd.Function):
    """With y = (x - mean) / sqrt(var + eps) and slopes g at weight * y + bias, the slope at x is
    weight / sqrt(var + eps) * (g - mean(g) - y * mean(g y)), means over batch and space
    (Ioffe & Szegedy 2015, arXiv 1502.03167, sec. 3). Autograd needs about twice the passes.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
        over = (1, *range(3, x.ndim))
        var, mean = torch.var_mean(x, dim=over, correction=0)
        ctx.save_for_backward(x, mean, torch.rsqrt(var + eps), weight)
        ctx.mark_non_differentiable(mean, var)
        return normalise(x, mean, var, weight, bias, eps=eps), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_):
        x, mean, inverse, weight = ctx.saved_tensors
        over = (1, *range(3, x.ndim))
        count = x[0, :, 0].numel()
        y = torch.addcmul(_over(-mean * inverse, x), x, _over(inverse, x))
        total, along_y = grad.sum(over), (grad * y).sum(over)
        grad_x = None
        if ctx.needs_input_grad[0]:
            scale = inverse if weight is None else inverse * weight
            grad_x = torch.addcmul(_over(-scale * total / count, x), grad, _over(scale, x))
            grad_x.addcmul_(y, _over(-scale * along_y / count, x))
        return (
            grad_x,
            along_y if ctx.needs_input_grad[1] else None,
            total if ctx.needs_input_grad[2] else None,
            None,
        )

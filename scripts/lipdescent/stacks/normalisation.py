"""Batch normalisation of a stack of networks, each with its own statistics.

Shapes are (models, batch, channels, *space) for activations, (models, channels) for the rest.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lipdescent.shapes import Float
from lipdescent.stacks.convolution import channel_axis, lies_by_rows, one_channel_axis


def normalise(
    x: Float[Tensor, "models batch channels *space"],
    mean: Float[Tensor, "models channels"],
    var: Float[Tensor, "models channels"],
    weight: Float[Tensor, "models channels"] | None,
    bias: Float[Tensor, "models channels"] | None,
    *,
    eps: float,
) -> Float[Tensor, "models batch channels *space"]:
    """(x - mean) / sqrt(var + eps) * weight + bias, channel by channel."""
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return torch.addcmul(_over(shift, x), x, _over(scale, x))


def normalise_batch(
    x: Float[Tensor, "models batch channels *space"],
    weight: Float[Tensor, "models channels"] | None,
    bias: Float[Tensor, "models channels"] | None,
    *,
    eps: float,
) -> tuple[
    Float[Tensor, "models batch channels *space"],
    Float[Tensor, "models channels"],
    Float[Tensor, "models channels"],
]:
    """The same with the statistics of each model's own batch.

    Returns
    -------
    The normalised activations, differentiable, and their former mean and unbiased variance
    (models, channels), which are not.
    """
    if lies_by_rows(x):
        out, mean, var = _BatchNorm.apply(_images_last(x), weight, bias, eps)
        return _images_first(out, x.ndim), mean, var
    return _grouped(x, weight, bias, eps)


def _grouped(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One normalisation of models * channels channels, as grouped convolutions leave them."""
    models, channels = x.shape[0], x.shape[2]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, var = x.new_zeros(2, models * channels, dtype=dtype)
    scale, shift = (None if t is None else t.flatten() for t in (weight, bias))
    together = one_channel_axis(x)
    out = nn.functional.batch_norm(together, mean, var, scale, shift, True, momentum=1.0, eps=eps)
    return channel_axis(out, models), mean.view(models, channels), var.view(models, channels)


def _over(per_channel: Tensor, x: Tensor) -> Tensor:
    models, channels = per_channel.shape
    return per_channel.view(models, 1, channels, *[1] * (x.ndim - 3))


def _images_last(x: Tensor) -> Tensor:
    """(models, n, channels, rest): the order in which stacked convolutions leave their output."""
    if x.ndim == 5:
        return x.permute(0, 3, 2, 4, 1)
    return x.permute(0, 2, 3, 1).unsqueeze(1) if x.ndim == 4 else x.unsqueeze(3)


def _images_first(x: Tensor, ndim: int) -> Tensor:
    if ndim == 5:
        return x.permute(0, 4, 2, 1, 3)
    return x.squeeze(1).permute(0, 3, 1, 2) if ndim == 4 else x.squeeze(3)


class _BatchNorm(torch.autograd.Function):
    """PyTorch's own kernels model by model: for them (height, channels, width, batch) are images
    as good as (batch, channels, height, width), so that nothing is transposed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        # With momentum 1 the running statistics become those of the batch.
        mean, var, saved_mean, saved_inverse = x.new_zeros(4, x.shape[0], x.shape[2])
        out = torch.empty_like(x)
        for r in range(x.shape[0]):
            affine = (None if t is None else t[r] for t in (weight, bias))
            torch.ops.aten.native_batch_norm.out(
                x[r], *affine, mean[r], var[r], True, 1.0, eps,
                out=out[r], save_mean=saved_mean[r], save_invstd=saved_inverse[r],
            )  # fmt: skip
        ctx.save_for_backward(x, weight, saved_mean, saved_inverse)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, needed = torch.empty_like(x), list(ctx.needs_input_grad[:3])
        affine = x.new_empty(2, *mean.shape)
        for r in range(x.shape[0]):
            scale = None if weight is None else weight[r]
            parts = torch.ops.aten.native_batch_norm_backward(
                grad[r], x[r], scale, None, None, mean[r], inverse[r], True, ctx.eps, needed
            )
            for target, part in zip((grad_x[r], *affine[:, r]), parts, strict=True):
                if part is not None and part.numel():
                    target.copy_(part)
        return *(g if n else None for g, n in zip((grad_x, *affine), needed, strict=True)), None

"""Convolutions of a stack of networks, each with its own weights and batch.

On a CPU a convolution of few channels is a batched matrix product per model: activations lie in
memory as (models, height, channels, width, batch), so that the patches of a row of pixels are one
strided matrix (kernel height * kernel width * channels, width * batch) over a copy of the
activations shifted once per kernel column. So it is on CUDA for IEEE products of networks without
BatchNorm; elsewhere all models are one grouped convolution. benchmarks/image_stacking.py and
benchmarks/gpu.py (convolutions) compare them.

Shapes outside are always (models, batch, channels, *space); what is said above is the order in
memory, which elementwise operations keep.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lipdescent.shapes import Float


class Geometry(NamedTuple):
    """Kernel, stride and zero padding along height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        sides = zip(size, self.kernel, self.stride, self.padding, strict=True)
        height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in sides)
        return height, width


_rows_on_cuda = ContextVar("rows on CUDA", default=False)


@contextlib.contextmanager
def rows_on_cuda() -> Iterator[None]:
    """Within, :func:`lies_by_rows` holds on CUDA, too, where products are IEEE's."""
    token = _rows_on_cuda.set(True)
    try:
        yield
    finally:
        _rows_on_cuda.reset(token)


def lies_by_rows(x: Tensor) -> bool:
    """Whether images of a stack lie by rows, as products want them, and not as cuDNN does.

    On a CPU always; on CUDA where it is asked for and products are IEEE's: in TF32 and bfloat16
    cuDNN's grouped convolutions are the faster ones.
    """
    if x.device.type == "cpu":
        return True
    if not _rows_on_cuda.get() or x.dtype not in (torch.float32, torch.float64):
        return False
    lower = torch.backends.cudnn.allow_tf32 and x.dtype == torch.float32
    return not (lower or torch.is_autocast_enabled(x.device.type))


def _shifted(x: Tensor, geometry: Geometry) -> Tensor:
    """Rows ready for :func:`_patches`: (models, height + padding, kernel width, C, out width, B).

    ``x`` is (models, height, C, width, B). Entry [r, y, j, c, i] is the pixel that column j of the
    kernel sees when it computes column i of the output, zero outside the image.
    """
    (_, taps), (_, step), (pad_rows, pad) = geometry
    models, height, channels, width, batch = x.shape
    columns = geometry.output_size((height, width))[1]
    if taps == 1 and step == 1 and pad == 0 and pad_rows == 0:
        return x.contiguous().unsqueeze(2)
    out = x.new_empty(models, height + 2 * pad_rows, taps, channels, columns, batch)
    if pad_rows:
        out[:, :pad_rows] = 0
        out[:, height + pad_rows :] = 0
    inside = out[:, pad_rows : pad_rows + height]
    for j in range(taps):
        first = min(max(0, -((j - pad) // step)), columns)  # first column that sees the image
        last = max(first, min(columns, (width - 1 + pad - j) // step + 1))
        inside[:, :, j, :, :first] = 0
        inside[:, :, j, :, last:] = 0
        if last > first:
            begin = first * step + j - pad
            end = (last - 1) * step + j - pad + 1
            inside[:, :, j, :, first:last] = x[:, :, :, begin:end:step]
    return out


def _patches(shifted: Tensor, geometry: Geometry, rows: int) -> Tensor:
    """View of one model's :func:`_shifted`: (out height, kernel size * C, out width * B)."""
    _, taps, channels, columns, batch = shifted.shape
    row = taps * channels * columns * batch
    return shifted.as_strided(
        (rows, geometry.kernel[0] * taps * channels, columns * batch),
        (geometry.stride[0] * row, columns * batch, 1),
        shifted.storage_offset(),
    )


def _multiply(matrices: Tensor, shifted: Tensor, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """``matrices`` (models, out, kernel size * C) times the patches: (models, H, out, W, B)."""
    models, out_channels, _ = matrices.shape
    rows, columns = size
    batch = shifted.shape[-1]
    out = shifted.new_empty(models, rows, out_channels, columns * batch)
    for r in range(models):
        matrix = matrices[r].expand(rows, -1, -1)
        torch.bmm(matrix, _patches(shifted[r], geometry, rows), out=out[r])
    return out.unflatten(-1, (columns, batch))


class _Convolution(torch.autograd.Function):
    """x (models, H, C, W, B), weight (models, out, C, kh, kw), bias (models, out) or None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        size = geometry.output_size((x.shape[1], x.shape[3]))
        shifted = _shifted(x, geometry)
        matrices = weight.permute(0, 1, 3, 4, 2).flatten(2)
        out = _multiply(matrices, shifted, geometry, size)
        if bias is not None:
            out += bias[:, None, :, None, None]
        # The shifted copies are made again in the backward pass: they are the larger tensor, and
        # what a step keeps must come back from memory.
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            shifted = _shifted(x, ctx.geometry)
            grad_weight = _weight_gradient(grad, shifted, weight, ctx.geometry)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((1, 3, 4))
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(grad, weight, ctx.geometry, x.shape)
        return grad_x, grad_weight, grad_bias, None


def _weight_gradient(grad: Tensor, shifted: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    models, out_channels, channels, *kernel = weight.shape
    rows = grad.shape[1]
    total = torch.stack(
        [
            torch.bmm(grad[r].flatten(2), _patches(shifted[r], geometry, rows).mT).sum(0)
            for r in range(models)
        ]
    )
    return total.view(models, out_channels, *kernel, channels).permute(0, 1, 4, 2, 3)


def _input_gradient(
    grad: Tensor, weight: Tensor, geometry: Geometry, shape: Sequence[int]
) -> Tensor:
    kernel, stride, padding = geometry
    reach = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    if stride == (1, 1) and min(reach) >= 0:  # a convolution with the kernel turned around
        turned = Geometry(kernel, stride, reach)
        matrices = weight.flip(3, 4).permute(0, 2, 3, 4, 1).flatten(2)
        return _multiply(matrices, _shifted(grad, turned), turned, (shape[1], shape[3]))
    models, height, channels, width, batch = shape
    rows, columns = grad.shape[1], grad.shape[3]
    matrices = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)  # (models, kernel size * C, out)
    by_patch = torch.matmul(matrices.unsqueeze(1), grad.flatten(3))
    by_patch = by_patch.view(models, rows, *kernel, channels, columns, batch)
    padded = [n + 2 * p for n, p in zip((height, width), padding, strict=True)]
    out = grad.new_zeros(models, padded[0], channels, padded[1], batch)
    for i in range(kernel[0]):
        row = slice(i, i + stride[0] * (rows - 1) + 1, stride[0])
        for j in range(kernel[1]):
            column = slice(j, j + stride[1] * (columns - 1) + 1, stride[1])
            out[:, row, :, column] += by_patch[:, :, i, j]
    return out[:, padding[0] : padding[0] + height, :, padding[1] : padding[1] + width]


def convolve(
    module: nn.Conv1d | nn.Conv2d,
    x: Float[Tensor, "models batch channels *space"],
    weight: Float[Tensor, "models out in *kernel"],
    bias: Float[Tensor, "models out"] | None,
) -> Float[Tensor, "models batch out *places"]:
    """Every model's convolution of its own batch.

    Parameters
    ----------
    module : gives stride, padding, dilation and groups; its weights are not read.
    x : (models, batch, channels, *space), one space axis for Conv1d, two for Conv2d.
    weight, bias : as the module's, with a leading axis of models.

    Returns
    -------
    (models, batch, out channels, *output space).
    """
    plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    if not lies_by_rows(x) or not plain or isinstance(module.padding, str):
        return _grouped(module, x, weight, bias)
    flat = isinstance(module, nn.Conv1d)
    if flat:  # an image of height 1
        x, weight = x.unsqueeze(3), weight.unsqueeze(3)
    geometry = Geometry(
        _pair(module.kernel_size, 1), _pair(module.stride, 1), _pair(module.padding, 0)
    )
    if min(geometry.output_size((x.shape[3], x.shape[4]))) < 1:
        raise ValueError(f"{module}: the image is smaller than the kernel, {tuple(x.shape[3:])}")
    out = _Convolution.apply(x.permute(0, 3, 2, 4, 1), weight, bias, geometry)
    out = out.permute(0, 4, 2, 1, 3)
    return out.squeeze(3) if flat else out


def _pair(value: Sequence[int], neutral: int) -> tuple[int, int]:
    """Of an image; of a signal as an image of height 1."""
    return (neutral, value[0]) if len(value) == 1 else (value[0], value[1])


def _grouped(
    module: nn.Conv1d | nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """One convolution with a group (or ``module.groups`` of them) per model."""
    models, padding = x.shape[0], module.padding
    x = one_channel_axis(x)
    if module.padding_mode == "circular" and not isinstance(padding, str):
        ends = [p for p in reversed(padding) for _ in range(2)]
        x, padding = nn.functional.pad(x, ends, mode="circular"), (0,) * len(padding)
    elif module.padding_mode != "zeros":
        raise TypeError(
            f"{module}: padding_mode {module.padding_mode!r}; allowed are zeros, circular"
        )
    function = nn.functional.conv1d if isinstance(module, nn.Conv1d) else nn.functional.conv2d
    out = function(
        x,
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        groups=models * module.groups,
    )
    return channel_axis(out, models)


def one_channel_axis(
    x: Float[Tensor, "models batch channels *space"],
) -> Float[Tensor, "batch models*channels *space"]:
    """(models, batch, channels, *space) -> (batch, models * channels, *space)."""
    return x.transpose(0, 1).flatten(1, 2)


def channel_axis(
    x: Float[Tensor, "batch together *space"], models: int
) -> Float[Tensor, "{models} batch channels *space"]:
    """The way back from :func:`one_channel_axis`; a view."""
    return x.unflatten(1, (models, -1)).transpose(0, 1)


def channels_innermost(
    x: Float[Tensor, "models batch channels *space"],
) -> Float[Tensor, "models batch channels *space"]:
    """The same (models, batch, channels, height, width), all channels of a pixel side by side.

    Grouped convolutions, normalisations and pools keep this order ("channels last").
    """
    together = one_channel_axis(x).contiguous(memory_format=torch.channels_last)
    return channel_axis(together, x.shape[0])

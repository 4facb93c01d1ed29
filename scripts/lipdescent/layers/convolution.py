"""Convolutions, transposed or not, in 1 to 3 dimensions.

l1, l_inf : largest absolute column and row sum of the operator, from the tables of
:mod:`lipdescent.layers._operators`; exact unless two taps of one output read the same element.

l2 : zero padding by :mod:`lipdescent.layers._torus`; circular padding of a divisible input by the
torus that the input is; other padding modes as (norm of the padding) x (convolution without
padding). Where the dense matrix is small its exact norm is used instead. Groups act on separate
channels: the largest of their norms. A transposed convolution is the adjoint of a convolution:
equal l2 norm, l1 and l_inf exchanged.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lipdescent.arithmetic import certified_norms, ulps
from lipdescent.layers import _operators, _torus
from lipdescent.layers._operators import Axis
from lipdescent.shapes import Float64

# Multiplications, of one model, for which the exact dense norm is taken, without and with a tight
# torus bound. How many models there are must not decide: a model's bound is its own.
_DENSE_FLOPS, _DENSE_FLOPS_TIGHT = 2**31, 2**26
_DENSE_ENTRIES = 2**25  # 256 MiB


@dataclass(frozen=True)
class Convolution:
    """Operator with ``kernel`` float64 (models, groups, out, in, *sizes), one ``Axis`` per size.

    ``transposed``: the layer is the adjoint of that operator.
    """

    kernel: Tensor
    axes: list[Axis]
    transposed: bool = False


def operator(
    module: _ConvNd,
    state: dict[str, Tensor],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> Convolution:
    """The linear part of a (transposed) convolution with the weights in ``state``.

    Shapes are (channels, *sizes), without the batch axis.
    """
    transposed = module.transposed
    dims = len(module.kernel_size)
    weight = state["weight"].to(torch.float64)
    models, groups = len(weight), module.groups
    kernel = weight.reshape(models, groups, -1, *weight.shape[2:])
    sizes, outputs = input_shape[-dims:], output_shape[-dims:]
    if transposed:
        sizes, outputs = outputs, sizes
    axes = [
        Axis(
            size=sizes[a],
            outputs=outputs[a],
            kernel=module.kernel_size[a],
            stride=module.stride[a],
            dilation=module.dilation[a],
            padding=_left_padding(module, a),
            mode=module.padding_mode,
        )
        for a in range(dims)
    ]
    return Convolution(kernel, axes, transposed)


def norm_of(convolution: Convolution, norm: str) -> Float64[Tensor, " models"]:
    """Certified upper bound on the operator norm: float64 (models,)."""
    kernel, axes = convolution.kernel, convolution.axes
    if norm == "l2":
        return _spectral_norm(kernel, axes)
    rows = (norm == "linf") != convolution.transposed
    apart = (_operators.largest_row_sum if rows else _operators.largest_column_sum)(kernel, axes)
    if _flops(kernel, axes) > _DENSE_FLOPS or not any(map(_operators.overlaps, axes)):
        return apart
    # Taps that read the same element are added, and may cancel: gamma(T) sum |K_t| each.
    exact = certified_norms.norm_linf if rows else certified_norms.norm_l1
    sums = [exact(_operators.dense(part, axes)).amax(1) for part in _parts(kernel, axes)]
    error = ulps.gamma(math.prod(kernel.shape[4:]) + 2) * apart
    return torch.minimum(apart, ulps.round_up(torch.cat(sums) + error, 2))


def one_group(kernel: Tensor) -> Tensor:
    """(models, groups, out, in, *taps) as (models, all out, all in, *taps), 0 between groups."""
    models, groups, out, inputs = kernel.shape[:4]
    full = kernel.new_zeros(models, groups, out, groups, inputs, *kernel.shape[4:])
    for g in range(groups):
        full[:, g, :, g] = kernel[:, g]
    return full.flatten(3, 4).flatten(1, 2)


def convolution(
    module: _ConvNd,
    state: dict[str, Tensor],
    *,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    norm: str,
) -> Float64[Tensor, " models"]:
    """Constant of a convolution: float64 (models,)."""
    return norm_of(operator(module, state, input_shape, output_shape), norm)


def _left_padding(module: _ConvNd, a: int) -> int:
    if module.padding == "valid":
        return 0
    if module.padding == "same":  # torch adds the odd element on the right
        return module.dilation[a] * (module.kernel_size[a] - 1) // 2
    return int(module.padding[a])


def _spectral_norm(kernel: Tensor, axes: list[Axis]) -> Tensor:
    tight = all(axis.mode == "zeros" or _is_torus(axis) for axis in axes)
    if _flops(kernel, axes) <= (_DENSE_FLOPS_TIGHT if tight else _DENSE_FLOPS):
        return _dense_norm(kernel, axes)
    flat = kernel.flatten(0, 1)
    factor, plain = 1, []
    for axis in axes:
        if axis.mode == "zeros" or _is_torus(axis):
            plain.append(axis)
        else:
            factor *= _operators.repeats(axis)
            size = axis.span()
            plain.append(dataclasses.replace(axis, size=size, padding=0, mode="zeros"))
    value = _torus.torus_norm(flat, plain)
    if factor > 1:
        value = ulps.round_up(value * math.sqrt(factor), 4)
    return value.reshape(kernel.shape[:2]).amax(1)


def _flops(kernel: Tensor, axes: list[Axis]) -> float:
    """Multiplications in the Gram matrices of one model's operators; infinite if too large."""
    rows, columns = _dense_shape(kernel, axes)
    entries = kernel.shape[1] * rows * columns
    return entries * min(rows, columns) if entries <= _DENSE_ENTRIES else math.inf


def _dense_shape(kernel: Tensor, axes: list[Axis]) -> tuple[int, int]:
    """Rows and columns of a group's operator."""
    rows = kernel.shape[2] * math.prod(axis.outputs for axis in axes)
    return rows, kernel.shape[3] * math.prod(axis.size for axis in axes)


def _is_torus(axis: Axis) -> bool:
    divisible = axis.size % axis.stride == 0
    return axis.mode == "circular" and divisible and axis.outputs <= axis.size // axis.stride


def _dense_norm(kernel: Tensor, axes: list[Axis]) -> Tensor:
    # Taps that read the same element are added: entrywise gamma(T) sum |K_t|, and
    # |A|_2^2 <= |A|_1 |A|_inf, both taken of the operator with the kernel |K|.
    sums = _operators.largest_row_sum(kernel, axes), _operators.largest_column_sum(kernel, axes)
    size = sums[0].sqrt() * sums[1].sqrt()
    error = 2 * ulps.gamma(math.prod(kernel.shape[4:]) + 2) * size
    norms = [
        certified_norms.certified_spectral_norm(_operators.dense(part, axes)).amax(1)
        for part in _parts(kernel, axes)
    ]
    return ulps.round_up(torch.cat(norms) + error)


def _parts(kernel: Tensor, axes: list[Axis]) -> tuple[Tensor, ...]:
    """So many models at a time as their dense operators have room for."""
    rows, columns = _dense_shape(kernel, axes)
    return kernel.split(max(1, _DENSE_ENTRIES // (kernel.shape[1] * rows * columns)))


PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TABLE = dict.fromkeys(
    (*PLAIN, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), convolution
)

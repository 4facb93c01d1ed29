"""Convolutions as linear operators: which input element does tap k of output i read?

One axis of a convolution is the table ``source(i, k)``. From it follow the exact absolute sums
(l1 and l_inf), the dense matrix, and how much a padding mode repeats an element.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.shapes import Float64
from lipdescent.stacks import products


@dataclass(frozen=True)
class Axis:
    """One spatial axis: ``output[i] = sum_k kernel[k] padded[stride i + dilation k]``.

    ``size`` and ``outputs`` count the elements of input and output, ``padding`` those added on
    the left, ``mode`` is a padding mode of ``torch.nn.Conv2d``.
    """

    size: int
    outputs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    mode: str = "zeros"

    def offsets(self) -> Tensor:
        """(kernel,): position of each tap relative to stride * output."""
        return self.dilation * torch.arange(self.kernel) - self.padding

    def source(self) -> Tensor:
        """(outputs, kernel): the input element that is read, -1 for a zero."""
        position = self.stride * torch.arange(self.outputs)[:, None] + self.offsets()
        return padded_source(position, self.size, self.mode)

    def one_hot(self) -> Tensor:
        """float64 (outputs, kernel, size)."""
        return (self.source()[..., None] == torch.arange(self.size)).to(torch.float64)

    def span(self) -> int:
        """Length of the padded input that is read when nothing is read outside of it."""
        return max(self.size + self.padding, self._last() + self.padding + 1)

    def torus_size(self) -> int:
        """Smallest torus on which the zero-padded input never meets its own copy.

        Reads left of the input must land behind it, and those right of it before it; outputs
        must stay distinct. A multiple of the stride.
        """
        size = max(self.size + self.padding, self._last() + 1)
        size = max(size, self.stride * (self.outputs - 1) + 1)
        return self.stride * math.ceil(size / self.stride)

    def _last(self) -> int:
        return self.stride * (self.outputs - 1) + self.dilation * (self.kernel - 1) - self.padding


def padded_source(position: Tensor, size: int, mode: str) -> Tensor:
    """Input element behind each position of the padded axis, -1 for a zero."""
    if mode == "zeros":
        return torch.where((position >= 0) & (position < size), position, -1)
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return position.clamp(0, size - 1)
    if mode == "reflect":
        position = position.abs()
        return torch.where(position < size, position, 2 * (size - 1) - position)
    raise ValueError(f"padding mode {mode!r}: allowed are zeros, circular, replicate, reflect")


def repeats(axis: Axis) -> int:
    """How often the padding mode shows the most repeated element: the square of its l2 norm."""
    position = torch.arange(-axis.padding, axis.span() - axis.padding)
    source = padded_source(position, axis.size, axis.mode)
    return int(torch.bincount(source[source >= 0], minlength=1).max())


def overlaps(axis: Axis) -> bool:
    """Whether two taps of one output read the same element."""
    source = axis.source().sort(1).values
    return bool(((source[:, 1:] == source[:, :-1]) & (source[:, 1:] >= 0)).any())


def largest_row_sum(
    kernel: Float64[Tensor, "models groups out in *taps"], axes: list[Axis]
) -> Float64[Tensor, " models"]:
    """Largest absolute row sum of the operator, the norm from l_inf to l_inf.

    Parameters
    ----------
    kernel : float64 (models, groups, out, in, *kernel sizes).

    Returns
    -------
    float64 (models,), rounded up. Exact unless two taps of one output read the same element.
    """
    masks = [torch.unique((axis.source() >= 0).to(torch.float64), dim=0) for axis in axes]
    return _largest_sum(kernel.abs().sum(3), masks, kernel.shape[3])


def largest_column_sum(
    kernel: Float64[Tensor, "models groups out in *taps"], axes: list[Axis]
) -> Float64[Tensor, " models"]:
    """Largest absolute column sum, the norm from l1 to l1; as :func:`largest_row_sum`."""
    counts = [torch.unique(axis.one_hot().sum(0).T, dim=0) for axis in axes]
    return _largest_sum(kernel.abs().sum(2), counts, kernel.shape[2])


def _largest_sum(kernel: Tensor, weights: list[Tensor], terms: int) -> Tensor:
    """Contract (models, groups, channels, *kernel) with one (choices, kernel) table per axis.

    ``terms`` numbers have been summed in each entry of ``kernel``.
    """
    for table in weights:
        terms += table.shape[1] + 1
        kernel = kernel.movedim(3, -1)
        # A product per model: in one of them all, a model's bits would depend on its place.
        flat = kernel.reshape(len(kernel), -1, table.shape[1])
        sums = products.bmm(flat, table.mT.to(kernel).expand(len(kernel), -1, -1))
        kernel = sums.reshape(*kernel.shape[:-1], len(table))
    # Sums of non-negative numbers: the relative error is below gamma of their number.
    return ulps.round_up(kernel.flatten(1).amax(1), terms + 2)


def dense(
    kernel: Float64[Tensor, "models groups out in *taps"], axes: list[Axis]
) -> Float64[Tensor, "models groups rows columns"]:
    """The operator as a matrix (models, groups, out * outputs, in * size)."""
    outputs = kernel.shape[2] * math.prod(axis.outputs for axis in axes)
    for axis in axes:  # taps in front become (outputs, size) at the end
        kernel = kernel.movedim(4, -1)
        table = axis.one_hot().movedim(1, 0).flatten(1).to(kernel)
        flat = kernel.reshape(len(kernel), -1, axis.kernel)
        flat = products.bmm(flat, table.expand(len(kernel), -1, -1))  # a product per model: above
        kernel = flat.reshape(*kernel.shape[:-1], axis.outputs, axis.size)
    rows, columns = range(4, kernel.ndim, 2), range(5, kernel.ndim, 2)
    matrix = kernel.permute(0, 1, 2, *rows, 3, *columns)
    return matrix.reshape(*kernel.shape[:2], outputs, -1)

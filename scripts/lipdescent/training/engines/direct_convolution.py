"""Convolutions of a stack of models as they are defined: one strided product per row of pixels.

The input lies in a buffer (models, height + padding, kernel width, channels, width, batch) that
holds it once per kernel column, shifted: the patches of a row of pixels are then one strided
matrix. Its zero margins are written once. The middle copy is the activation itself, or in the
backward pass the gradient, so that nothing is copied twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[int, int]


def column_shifts(copies: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What copies the middle one of (..., width, batch) to the others, shifted by kernel columns.

    Pairs of views, source and target; the columns that nothing is copied to stay zero.
    """
    middle, width = len(copies) // 2, copies[0].shape[-2]
    image, shifts = copies[middle], []
    for j, copy in enumerate(copies):
        by = min(abs(j - middle), width)  # columns that leave the image
        source, target = image[..., by:, :], copy[..., : width - by, :]
        if j < middle:
            source, target = image[..., : width - by, :], copy[..., by:, :]
        if j != middle and by < width:
            shifts.append((source, target))
    return shifts


class _Padded:
    """Images and their copies shifted by each kernel column, between margins of zeros."""

    def __init__(
        self, like: Tensor, channels: int, kernel: Pair, space: Pair, models: int, batch: int
    ) -> None:
        (height, width), (kernel_rows, taps) = space, kernel
        margin = kernel_rows // 2
        buffer = like.new_zeros(models, height + 2 * margin, taps, channels, width, batch)
        copies = buffer[:, margin : margin + height].unbind(2)
        self.image = copies[taps // 2]
        self._shifts = column_shifts(copies)
        row = taps * channels * width * batch
        shape = (height, kernel_rows * taps * channels, width * batch)
        strides = (row, width * batch, 1)
        self.patches = [b.as_strided(shape, strides, b.storage_offset()) for b in buffer]
        self.patches_back = [p.mT for p in self.patches]
        self.rows = [image.flatten(2) for image in self.image]

    def shift(self) -> None:
        for source, target in self._shifts:
            target.copy_(source)


class DirectConvolution:
    """Memory, views and the two passes of a convolution that keeps the image's size.

    Parameters
    ----------
    like : of the dtype of all tensors.
    channels : (in, out).
    kernel, space : (height, width) of the kernel and of the image.

    Attributes
    ----------
    image : (models, height, in, width, batch), to be filled before :meth:`forward`.
    raw : (models, height, out, width, batch), the result.
    slope : of the same shape, the gradient at ``raw``; to be filled before :meth:`backward`.
    """

    def __init__(
        self, like: Tensor, channels: Pair, kernel: Pair, space: Pair, *, models: int, batch: int
    ) -> None:
        inputs, out = channels
        height, width = space
        self._input = _Padded(like, inputs, kernel, space, models, batch)
        self._slope = _Padded(like, out, kernel, space, models, batch)
        self.image, self.slope = self._input.image, self._slope.image
        self.raw = like.new_empty(models, height, out, width, batch)
        self._rows = [image.flatten(2) for image in self.raw]
        self._by_row = like.new_empty(models, height, out, kernel[0] * kernel[1] * inputs)
        self._turned = like.new_empty(models, inputs, *kernel, out)

    def forward(self, weights: Tensor) -> None:
        """``weights`` (models, out, kernel size * in)."""
        self._input.shift()
        for r, out in enumerate(self._rows):
            matrix = weights[r].expand(len(out), -1, -1)
            torch.bmm(matrix, self._input.patches[r], out=out)

    def backward(self, weights: Tensor, below: list[Tensor] | None) -> Tensor:
        """The gradient at ``weights``, which are those of :meth:`forward`.

        That at ``image`` is written to ``below``, of each model (height, in * width * batch).
        """
        for r, rows in enumerate(self._slope.rows):
            torch.bmm(rows, self._input.patches_back[r], out=self._by_row[r])
        if below is not None:
            self._slope.shift()
            models, inputs, *kernel, out = self._turned.shape
            kernels = weights.view(models, out, *kernel, inputs)
            self._turned.copy_(kernels.flip(2, 3).permute(0, 4, 2, 3, 1))
            for r, slope in enumerate(below):
                matrix = self._turned[r].flatten(1).expand(len(slope), -1, -1)
                torch.bmm(matrix, self._slope.patches[r], out=slope.unflatten(1, (inputs, -1)))
        return self._by_row.sum(1)

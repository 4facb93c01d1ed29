"""Memory and views of the stages of a stack of plain convolutional networks, for their two passes.

Activations lie as (models, height, channels, width, batch). A convolution reads its input from a
buffer (models, height + padding, kernel width, channels, width, batch) that holds it once per
kernel column, shifted: the patches of a row of pixels are then one strided matrix. Its zero margins
are written once. The middle copy is the activation itself, or in the backward pass the gradient, so
that nothing is copied twice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Stage(NamedTuple):
    """A convolution that keeps the image's size, ReLU, and a max pool that tiles the image."""

    name: str
    channels: tuple[int, int]
    kernel: tuple[int, int]
    pool: tuple[int, int]


def _windows(x: Tensor, axis: int, size: int) -> list[Tensor]:
    count = x.shape[axis] // size
    tiles = x.narrow(axis, 0, count * size).unflatten(axis, (count, size))
    return [tiles.select(axis + 1, i) for i in range(size)]


class _Pool:
    """Max over windows along one axis, and its backward pass: the first of equals gets it."""

    def __init__(self, x: Tensor, out: Tensor, slope: Tensor, left: Tensor, axis: int, size: int):
        self._parts, self._slopes = _windows(x, axis, size), _windows(slope, axis, size)
        self._out, self._left = out, left

    def forward(self) -> None:
        torch.maximum(self._parts[0], self._parts[1], out=self._out)
        for part in self._parts[2:]:
            torch.maximum(self._out, part, out=self._out)

    def backward(self) -> None:
        """From the gradient in ``left``, which is used up, to the one in ``slope``."""
        left = self._left
        for i, (part, slope) in enumerate(pairwise(self._slopes)):
            torch.eq(self._parts[i], self._out, out=part).mul_(left)
            last = i == len(self._slopes) - 2
            torch.sub(left, part, out=slope if last else left)


class _Padded:
    """Images and their copies shifted by each kernel column, between margins of zeros."""

    def __init__(self, like: Tensor, models: int, channels: int, space, kernel, batch: int):
        (height, width), (kernel_rows, taps) = space, kernel
        margin, middle = kernel_rows // 2, taps // 2
        buffer = like.new_zeros(models, height + 2 * margin, taps, channels, width, batch)
        copies = buffer[:, margin : margin + height].unbind(2)
        self.image = copies[middle]
        self._shifts = []
        for j, copy in enumerate(copies):
            by = min(abs(j - middle), width)  # columns that leave the image
            source, target = self.image[..., by:, :], copy[..., : width - by, :]
            if j < middle:
                source, target = self.image[..., : width - by, :], copy[..., by:, :]
            if j != middle and by < width:
                self._shifts.append((source, target))
        row = taps * channels * width * batch
        shape = (height, kernel_rows * taps * channels, width * batch)
        strides = (row, width * batch, 1)
        self.patches = [b.as_strided(shape, strides, b.storage_offset()) for b in buffer]
        self.rows = [image.flatten(2) for image in self.image]

    def shift(self) -> None:
        for source, target in self._shifts:
            target.copy_(source)


class StageWorkspace:
    """Memory and views of one stage for a group of models and a part of the batch."""

    def __init__(self, stage: Stage, like: Tensor, models: int, space, batch: int, first: bool):
        channels, out = stage.channels
        height, width = space
        pool_rows, pool_columns = stage.pool
        self.space = (height // pool_rows, width // pool_columns)
        self.input = _Padded(like, models, channels, space, stage.kernel, batch)
        self.slope = _Padded(like, models, out, space, stage.kernel, batch)
        self.raw = like.new_empty(models, height, out, width, batch)
        between = like.new_empty(models, height, out, self.space[1], batch)
        between_slope = torch.zeros_like(between)
        self.pooled = like.new_empty(models, self.space[0], out, self.space[1], batch)
        self.pooled_slope = torch.empty_like(self.pooled)
        size = stage.kernel[0] * stage.kernel[1] * channels
        self.by_row = like.new_empty(models, height, out, size)
        self.turned = None if first else like.new_empty(models, channels, *stage.kernel, out)
        self.pools = []
        if pool_columns == 1:
            between, between_slope = self.raw, self.slope.image
        else:
            views = (self.raw, between, self.slope.image, between_slope)
            self.pools.append(_Pool(*views, 3, pool_columns))
        if pool_rows == 1:
            self.pooled, self.pooled_slope = between, between_slope
        else:
            views = (between, self.pooled, between_slope, self.pooled_slope)
            self.pools.append(_Pool(*views, 1, pool_rows))
        self.raw_rows = [image.flatten(2) for image in self.raw]
        self._height = height

    def forward(self, weights: Tensor, bias: Tensor | None) -> None:
        """``weights`` (models, out, kernel size * channels), ``bias`` (models, out)."""
        self.input.shift()
        for r, out in enumerate(self.raw_rows):
            matrix = weights[r].expand(self._height, -1, -1)
            torch.bmm(matrix, self.input.patches[r], out=out)
        if bias is not None:
            self.raw += bias[:, None, :, None, None]
        for pool in self.pools:
            pool.forward()

    def backward(self, weights: Tensor, below: StageWorkspace | None) -> tuple[Tensor, Tensor]:
        """Gradients of weights and bias, and the one at ``below.pooled`` after its ReLU.

        ``pooled_slope`` holds the gradient at ``pooled``, before the ReLU, and is used up.
        """
        bias_gradient = self.pooled_slope.sum((1, 3, 4))
        for pool in reversed(self.pools):
            pool.backward()
        for r, rows in enumerate(self.slope.rows):
            torch.bmm(rows, self.input.patches[r].mT, out=self.by_row[r])
        if below is not None:
            self.slope.shift()
            models, channels, *kernel, out = self.turned.shape
            kernels = weights.view(models, out, *kernel, channels)
            self.turned.copy_(kernels.flip(2, 3).permute(0, 4, 2, 3, 1))
            for r, slope in enumerate(below.pooled_slope):
                matrix = self.turned[r].flatten(1).expand(self._height, -1, -1)
                torch.bmm(matrix, self.slope.patches[r], out=slope.flatten(2))
        return self.by_row.sum(1), bias_gradient

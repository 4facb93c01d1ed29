"""Memory and views of the stages of a stack of plain convolutional networks, for their two passes.

Activations lie as (models, height, channels, width, batch). Which way a convolution goes depends on
its shape alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.stacks.pooling import windows
from lipdescent.training.engines.direct_convolution import DirectConvolution, Pair
from lipdescent.training.engines.winograd import WinogradConvolution


class Stage(NamedTuple):
    """A convolution that keeps the image's size, ReLU, and a max pool that tiles the image."""

    channels: tuple[int, int]
    kernel: tuple[int, int]
    pool: tuple[int, int]


class _Pool:
    """Max over windows along one axis, and its backward pass: the first of equals gets it."""

    def __init__(self, x: Tensor, out: Tensor, slope: Tensor, left: Tensor, axis: int, size: int):
        self._parts, self._slopes = windows(x, axis, size), windows(slope, axis, size)
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


class StageWorkspace:
    """Memory and views of one stage for a group of models and a part of the batch."""

    def __init__(self, stage: Stage, like: Tensor, models: int, space: Pair, batch: int) -> None:
        (height, width), out = space, stage.channels[1]
        pool_rows, pool_columns = stage.pool
        self.space = (height // pool_rows, width // pool_columns)
        pays = WinogradConvolution.pays(stage.channels, stage.kernel)
        kind = WinogradConvolution if pays else DirectConvolution
        own = kind(like, stage.channels, stage.kernel, space, models=models, batch=batch)
        self._convolution, self.image, raw, slope = own, own.image, own.raw, own.slope
        between = like.new_empty(models, height, out, self.space[1], batch)
        between_slope = torch.zeros_like(between)
        self.pooled = like.new_empty(models, self.space[0], out, self.space[1], batch)
        self.pooled_slope = torch.empty_like(self.pooled)
        self._pools = []
        if pool_columns == 1:
            between, between_slope = raw, slope
        else:
            self._pools.append(_Pool(raw, between, slope, between_slope, 3, pool_columns))
        if pool_rows == 1:
            self.pooled, self.pooled_slope = between, between_slope
        else:
            views = (between, self.pooled, between_slope, self.pooled_slope)
            self._pools.append(_Pool(*views, 1, pool_rows))
        self.pooled_slopes = [slope.flatten(1) for slope in self.pooled_slope]

    def forward(self, weights: Tensor, bias: Tensor | None) -> None:
        """``weights`` (models, out, kernel size * channels), ``bias`` (models, out)."""
        self._convolution.forward(weights)
        if bias is not None:
            self._convolution.raw.add_(bias[:, None, :, None, None])
        for pool in self._pools:
            pool.forward()

    def backward(
        self, weights: Tensor, below: StageWorkspace | None, *, biased: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of weights and (if ``biased``) bias; that at ``below.pooled`` after its ReLU.

        ``pooled_slope`` holds the gradient at ``pooled``, before the ReLU, and is used up.
        """
        bias_gradient = self.pooled_slope.sum((1, 3, 4)) if biased else None
        for pool in reversed(self._pools):
            pool.backward()
        target = None if below is None else below.pooled_slopes
        return self._convolution.backward(weights, target), bias_gradient

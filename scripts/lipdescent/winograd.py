"""Convolutions with three kernel rows by fewer products (Winograd 1980; Lavin & Gray 2016).

The rows of a tile of an image are mixed into two more rows (``spread``), each of which is multiplied
with its own mixture of the three kernel rows (``filters``), and the products are mixed to the rows
of the result (``gather``): m + 2 products per pixel column where the definition makes 3 m. This is
F(m, 3) of Lavin & Gray (arXiv 1509.09308) along the rows only: kernel columns are read from shifted
copies. Along both axes fewer products would be left, but the mixing of the columns costs more than
that at the channels that are stacked, and errors square.

Each of the three steps is linear, so the backward pass is their transposes in reverse order
(the gradient of the weights reads the rows that the forward pass has mixed).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.direct_convolution import column_shifts

# Rows of a tile at most. Larger tiles save more and round more: a relative error of 3e-6 in
# float32, where the definition has 0.4e-6 (tests/test_winograd.py).
LARGEST_TILE = 8
# In this order, as few as a tile needs; infinity is always one (Barabasz et al. 2020, arXiv
# 1803.10986: few distinct magnitudes, and reciprocals of opposite sign, keep the error small).
POINTS = (0, 1, -1, 1 / 2, -2, -1 / 2, 2, 1 / 4, -4)
# With fewer input channels the products are too small to be worth it.
LEAST_CHANNELS = 2


class RowTransforms(NamedTuple):
    """Matrices of a convolution of rows with zeros around the image; tiles are stacked in rows.

    Attributes
    ----------
    spread : (tiles * points, rows of the image).
    filters : (tiles * points, 3).
    gather : (rows of a tile, points), of each tile; the last tile may leave the image.
    tiles : how many.
    """

    spread: Tensor
    filters: Tensor
    gather: Tensor
    tiles: int


def _coefficients(roots: Tensor) -> Tensor:
    """Of the product of (x - root), the constant one first."""
    found = roots.new_ones(1)
    for root in roots:
        found = torch.cat([found.new_zeros(1), found]) - root * torch.cat([found, root.new_zeros(1)])
    return found


def _tile(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """``spread`` (size + 2, size + 2), ``filters`` (size + 2, 3), ``gather`` (size, size + 2).

    gather ((filters w) * (spread x)) are the ``size`` inner products of w with windows of x: the
    transpose of multiplying polynomials by their values at points (Lavin & Gray, section 4.1).
    """
    points = torch.tensor(POINTS[: size + 1], dtype=torch.float64)
    spread, filters = points.new_zeros(size + 2, size + 2), points.new_zeros(size + 2, 3)
    for i, point in enumerate(points):
        others = torch.cat([points[:i], points[i + 1 :]])
        spread[i, :-1] = _coefficients(others)
        filters[i] = point ** torch.arange(3) / (point - others).prod()
    spread[-1], filters[-1, -1] = _coefficients(points), 1
    gather = torch.vander(points, size, increasing=True).mT
    at_infinity = torch.eye(size, dtype=gather.dtype)[:, -1:]
    return spread, filters, torch.cat([gather, at_infinity], 1)


def row_transforms(rows: int) -> RowTransforms:
    """For images of ``rows`` rows, float64."""
    if rows == 1:  # the outer kernel rows only meet zeros
        one = torch.ones(1, 1, dtype=torch.float64)
        return RowTransforms(one, torch.eye(3, dtype=torch.float64)[1:2], one, 1)
    if rows == 2:  # y0 = w1 (x0 + x1) + (w2 - w1) x1, y1 = w1 (x0 + x1) + (w0 - w1) x0
        matrices = [[1, 1], [0, 1], [1, 0]], [[0, 1, 0], [0, -1, 1], [1, -1, 0]], [[1, 1, 0], [1, 0, 1]]
        return RowTransforms(*(torch.tensor(m, dtype=torch.float64) for m in matrices), 1)
    tiles = -(-rows // LARGEST_TILE)
    size = -(-rows // tiles)
    own, filters, gather = _tile(size)
    spread = own.new_zeros(tiles, size + 2, tiles * size + 2)  # with a margin above and below
    for k in range(tiles):
        spread[k, :, k * size : k * size + size + 2] = own
    inner = spread[:, :, 1 : rows + 1].flatten(0, 1).contiguous()
    return RowTransforms(inner, filters.repeat(tiles, 1), gather, tiles)


class WinogradConvolution:
    """Same interface as :class:`lipdescent.direct_convolution.DirectConvolution`."""

    @staticmethod
    def pays(channels: tuple[int, int], kernel: tuple[int, int]) -> bool:
        """By shape alone, so that training does not depend on what else a machine does."""
        return kernel[0] == 3 and channels[0] >= LEAST_CHANNELS

    def __init__(self, like: Tensor, channels, kernel, space, *, models: int, batch: int) -> None:
        (channels, out), (_, taps), (height, width) = channels, kernel, space
        spread, filters, gather, tiles = (
            m.to(like.dtype) if isinstance(m, Tensor) else m for m in row_transforms(height)
        )
        rows, size = len(filters), len(gather)
        self._spread, self._filters, self._kernel_rows = spread, filters, kernel[0]
        self._gather = gather.expand(tiles, -1, -1)
        self._spread_back, self._filters_back = spread.mT.contiguous(), filters.mT.contiguous()
        self._gather_back = gather.mT.contiguous().expand(tiles, -1, -1)

        self.image = like.new_empty(models, height, channels, width, batch)
        raw, slope = like.new_zeros(2, models, tiles * size, out, width, batch)
        self.raw, self.slope = raw[:, :height], slope[:, :height]
        mixed = like.new_zeros(models, rows, taps, channels, width, batch)
        products = like.new_empty(rows, out, width * batch)  # of one model, used up at once
        mixed_slope = torch.zeros_like(mixed[0])
        kernels = like.new_empty(models, rows, out, taps * channels)
        kernel_slope = torch.empty_like(kernels[0])
        self._by_row = like.new_empty(models, 3, out, taps * channels)

        # Every view is made once: at few channels making them takes as long as the products.
        self._images = [x.flatten(1) for x in self.image]
        self._mixed = [x[:, taps // 2].flatten(1) for x in mixed]
        self._shifts = column_shifts(mixed.unbind(2))
        self._patches = [x.view(rows, taps * channels, -1) for x in mixed]
        self._patches_back = [x.mT for x in self._patches]
        self._kernels = list(kernels)
        self._kernels_back = list(kernels.mT)
        self._flat_kernels = list(kernels.flatten(2))
        self._products, self._by_tile = products, products.view(tiles, rows // tiles, -1)
        self._raws, self._slopes = (
            [x.view(tiles, size, -1) for x in tensor] for tensor in (raw, slope)
        )
        self._kernel_slope, self._flat_kernel_slope = kernel_slope, kernel_slope.flatten(1)
        self._flat_by_row = list(self._by_row.flatten(2))
        self._back = mixed_slope.view(rows, taps * channels, -1)
        self._back_middle = mixed_slope[:, taps // 2].flatten(1)
        self._back_shifts = column_shifts(mixed_slope.unbind(1))

    def forward(self, weights: Tensor) -> None:
        models, out, _ = weights.shape
        by_row = weights.view(models, out, 3, -1).transpose(1, 2).reshape(models, 3, -1)
        for image, mixed in zip(self._images, self._mixed, strict=True):
            torch.mm(self._spread, image, out=mixed)
        for source, target in self._shifts:
            target.copy_(source)
        for r, own in enumerate(by_row.unbind()):
            torch.mm(self._filters, own, out=self._flat_kernels[r])
            torch.bmm(self._kernels[r], self._patches[r], out=self._products)
            torch.bmm(self._gather, self._by_tile, out=self._raws[r])

    def backward(self, weights: Tensor, below: list[Tensor] | None) -> Tensor:
        for r, slope in enumerate(self._slopes):
            torch.bmm(self._gather_back, slope, out=self._by_tile)
            torch.bmm(self._products, self._patches_back[r], out=self._kernel_slope)
            torch.mm(self._filters_back, self._flat_kernel_slope, out=self._flat_by_row[r])
            if below is not None:
                torch.bmm(self._kernels_back[r], self._products, out=self._back)
                for middle, shifted in self._back_shifts:
                    middle.add_(shifted)
                torch.mm(self._spread_back, self._back_middle, out=below[r])
        return self._by_row.transpose(1, 2).flatten(2)

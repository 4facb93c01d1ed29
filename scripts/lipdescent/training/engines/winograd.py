"""Convolutions by fewer products (Winograd 1980; Lavin & Gray 2016), along the rows of an image.

m rows of the result come from m + r - 1 rows of the image, r the kernel's rows. Those are mixed
(``spread``), each is multiplied with its own mixture of the kernel's rows (``filters``), and the
products are mixed again to the m rows (``gather``): m + r - 1 products instead of m r, which is
F(m, r) of Lavin & Gray (arXiv 1509.09308, section 4). Kernel columns are read from shifted copies.
Along both axes still fewer products would do, but the mixing then costs more than that at the
channels for which models are stacked, and the rounding errors multiply.

All three steps are linear, so the backward pass consists of their transposes in reverse order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lipdescent.training.engines.direct_convolution import Pair, column_shifts

# Where polynomials are evaluated, in this order as many as are needed, and at infinity: few
# magnitudes, and reciprocals of opposite sign, keep the error small (Barabasz et al. 2020, arXiv
# 1803.10986). More points mean fewer products and larger errors: with all of them 3e-6 in float32,
# relative, where the definition has 0.4e-6 (tests/test_winograd.py).
POINTS = (0, 1, -1, 1 / 2, -2, -1 / 2, 2, 1 / 4, -4)
# With fewer input channels the products are too small for it to pay.
LEAST_CHANNELS = 2


class RowTransforms(NamedTuple):
    """Matrices for a convolution along the rows of an image between zeros.

    Attributes
    ----------
    spread : (tiles * points, rows of the image).
    filters : (tiles * points, kernel rows).
    gather : (rows of a tile, points); the last tile may reach beyond the image.
    tiles : how many of them the image is cut into.
    """

    spread: Tensor
    filters: Tensor
    gather: Tensor
    tiles: int


def _coefficients(roots: Tensor) -> Tensor:
    """Of the product of (x - root), the constant one first."""
    found = roots.new_ones(1)
    for root in roots:
        zero = root.new_zeros(1)
        found = torch.cat([zero, found]) - root * torch.cat([found, zero])
    return found


def _tile(size: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """``spread`` (n, n), ``filters`` (n, kernel), ``gather`` (size, n), n = size + kernel - 1.

    gather ((filters w) * (spread x)) are the inner products of w with the ``size`` windows of x:
    the transpose of multiplying polynomials by their values at n points, the last at infinity.
    """
    n = size + kernel - 1
    points = torch.tensor(POINTS[: n - 1], dtype=torch.float64)
    spread, filters, gather = (
        points.new_zeros(shape) for shape in ((n, n), (n, kernel), (size, n))
    )
    for i, point in enumerate(points):
        others = torch.cat([points[:i], points[i + 1 :]])
        spread[i, :-1] = _coefficients(others)
        filters[i] = point ** torch.arange(kernel) / (point - others).prod()
        gather[:, i] = point ** torch.arange(size)
    spread[-1], filters[-1, -1], gather[-1, -1] = _coefficients(points), 1, 1
    return spread, filters, gather


def row_transforms(rows: int, kernel: int) -> RowTransforms:
    """For images of ``rows`` rows and an odd number of kernel rows; float64."""
    inner = min(kernel, 2 * rows - 1)  # the kernel's other rows only meet zeros
    margin, unused = inner // 2, (kernel - inner) // 2
    tiles = -(-rows // (len(POINTS) + 2 - inner))
    size = -(-rows // tiles)
    if rows == 2:  # y0 = w1 (x0 + x1) + (w2 - w1) x1 and y1 = w1 (x0 + x1) + (w0 - w1) x0
        spread, filters, gather = (
            torch.tensor(matrix, dtype=torch.float64)
            for matrix in (
                [[1, 1], [0, 1], [1, 0]],
                [[0, 1, 0], [0, -1, 1], [1, -1, 0]],
                [[1, 1, 0], [1, 0, 1]],
            )
        )
    else:
        own, filters, gather = _tile(size, inner)
        placed = own.new_zeros(tiles, len(own), tiles * size + 2 * margin)
        for k in range(tiles):
            placed[k, :, k * size : k * size + len(own)] = own
        spread = placed[:, :, margin : margin + rows].flatten(0, 1).contiguous()
    whole = torch.nn.functional.pad(filters, (unused, unused))
    return RowTransforms(spread, whole.repeat(tiles, 1), gather, tiles)


class _OneModel(NamedTuple):
    """Views made once: at few channels making them takes as long as the products."""

    image: Tensor  # (rows, in * width * batch)
    mixed: Tensor  # (points, in * width * batch), the middle copy
    patches: Tensor  # (points, taps * in, width * batch)
    patches_back: Tensor
    kernels: Tensor  # (points, out, taps * in)
    kernels_back: Tensor
    kernel_rows: Tensor  # (points, out * taps * in)
    raw: Tensor  # (tiles, rows of a tile, out * width * batch)
    slope: Tensor
    by_row: Tensor  # (kernel rows, out * taps * in)


class WinogradConvolution:
    """Same interface as :class:`lipdescent.training.engines.direct_convolution.DirectConvolution`.

    Every product is one model's, so that it rounds the same whatever the stack.
    """

    @staticmethod
    def pays(channels: Pair, kernel: Pair) -> bool:
        """By shape alone: a choice by the clock would not give the same bits again."""
        return 3 <= kernel[0] < len(POINTS) + 2 and channels[0] >= LEAST_CHANNELS

    def __init__(
        self, like: Tensor, channels: Pair, kernel: Pair, space: Pair, *, models: int, batch: int
    ) -> None:
        (inputs, out), (kernel_rows, taps), (height, width) = channels, kernel, space
        spread, filters, gather, tiles = row_transforms(height, kernel_rows)
        points, size = len(filters), len(gather)
        self._spread, self._filters, gather = (m.to(like) for m in (spread, filters, gather))
        self._spread_back, self._filters_back = (
            m.mT.contiguous() for m in (self._spread, self._filters)
        )
        self._gather = gather.expand(tiles, -1, -1)
        self._gather_back = gather.mT.contiguous().expand(tiles, -1, -1)

        self.image = like.new_empty(models, height, inputs, width, batch)
        raw, slope = like.new_zeros(2, models, tiles * size, out, width, batch)
        self.raw, self.slope = raw[:, :height], slope[:, :height]
        mixed = like.new_zeros(models, points, taps, inputs, width, batch)
        self._shifts = column_shifts(mixed.unbind(2))
        self._by_row = like.new_empty(models, kernel_rows, out, taps * inputs)
        kernels = like.new_empty(models, points, out, taps * inputs)
        self._models = [
            _OneModel(
                image=self.image[r].flatten(1),
                mixed=mixed[r, :, taps // 2].flatten(1),
                patches=mixed[r].view(points, taps * inputs, -1),
                patches_back=mixed[r].view(points, taps * inputs, -1).mT,
                kernels=kernels[r],
                kernels_back=kernels[r].mT,
                kernel_rows=kernels[r].flatten(1),
                raw=raw[r].view(tiles, size, -1),
                slope=slope[r].view(tiles, size, -1),
                by_row=self._by_row[r].flatten(1),
            )
            for r in range(models)
        ]
        # What one model needs only between two products.
        self._products = like.new_empty(points, out, width * batch)
        self._by_tile = self._products.view(tiles, points // tiles, -1)
        self._kernel_slope = torch.empty_like(kernels[0])
        self._flat_kernel_slope = self._kernel_slope.flatten(1)
        back = torch.zeros_like(mixed[0])
        self._back = back.view(points, taps * inputs, -1)
        self._back_middle = back[:, taps // 2].flatten(1)
        self._back_shifts = column_shifts(back.unbind(1))

    def forward(self, weights: Tensor) -> None:
        models, kernel_rows, out, _ = self._by_row.shape
        by_row = weights.view(models, out, kernel_rows, -1).transpose(1, 2).flatten(2)
        for own in self._models:
            torch.mm(self._spread, own.image, out=own.mixed)
        for source, target in self._shifts:
            target.copy_(source)
        for own, rows in zip(self._models, by_row, strict=True):
            torch.mm(self._filters, rows, out=own.kernel_rows)
            torch.bmm(own.kernels, own.patches, out=self._products)
            torch.bmm(self._gather, self._by_tile, out=own.raw)

    def backward(self, weights: Tensor, below: list[Tensor] | None) -> Tensor:
        for r, own in enumerate(self._models):
            torch.bmm(self._gather_back, own.slope, out=self._by_tile)
            torch.bmm(self._products, own.patches_back, out=self._kernel_slope)
            torch.mm(self._filters_back, self._flat_kernel_slope, out=own.by_row)
            if below is not None:
                torch.bmm(own.kernels_back, self._products, out=self._back)
                for middle, shifted in self._back_shifts:
                    middle.add_(shifted)
                torch.mm(self._spread_back, self._back_middle, out=below[r])
        return self._by_row.transpose(1, 2).flatten(2)

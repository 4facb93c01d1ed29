"""Convolutions by fewer products against PyTorch's own, and how they round."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from lipdescent.training.engines.direct_convolution import DirectConvolution
from lipdescent.training.engines.winograd import POINTS, WinogradConvolution, row_transforms

MODELS = 2


def draw(channels, kernel, space, batch):
    """Images after a ReLU, weights (models, out, in, *kernel), a gradient at the result."""
    generator = torch.Generator().manual_seed(0)
    inputs, out = channels

    def normal(*shape):
        return torch.randn(MODELS, *shape, generator=generator, dtype=torch.float64)

    fan = inputs * kernel[0] * kernel[1]
    weights = normal(out, inputs, *kernel) / fan**0.5
    return normal(batch, inputs, *space).relu(), weights, normal(batch, out, *space)


def exact(images, weights, slopes, *, dtype=torch.float64):
    """Result, gradient at the images and at the weights, of every model by autograd."""
    found = []
    for x, w, slope in zip(images, weights, slopes, strict=True):
        x, w = (t.to(dtype).clone().requires_grad_() for t in (x, w))
        y = conv2d(x, w, padding=[k // 2 for k in w.shape[2:]])
        y.backward(slope.to(dtype))
        found.append((y.detach(), x.grad, w.grad))
    return [torch.stack(parts).double() for parts in zip(*found, strict=True)]


def passes(kind, images, weights, slopes, *, dtype=torch.float64):
    """The same three by ``kind``'s two passes, in PyTorch's layout."""
    models, batch, inputs, *space = images.shape
    out, _, *kernel = weights.shape[1:]
    like = torch.zeros(1, dtype=dtype)
    own = kind(like, (inputs, out), kernel, space, models=models, batch=batch)
    own.image.copy_(images.permute(0, 3, 2, 4, 1))
    kernels = weights.permute(0, 1, 3, 4, 2).flatten(2).to(dtype)
    own.forward(kernels)
    own.slope.copy_(slopes.permute(0, 3, 2, 4, 1))
    below = torch.empty(own.image.shape, dtype=dtype)
    gradient = own.backward(kernels, [b.flatten(1) for b in below])
    shape = (models, out, *kernel, inputs)
    found = (
        own.raw.permute(0, 4, 2, 1, 3),
        below.permute(0, 4, 2, 1, 3),
        gradient.view(shape).permute(0, 1, 4, 2, 3),
    )
    return [tensor.double() for tensor in found]


@pytest.mark.parametrize("kind", [DirectConvolution, WinogradConvolution])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 1), (3, 7)])
@pytest.mark.parametrize(
    "space", [(1, 1), (2, 2), (3, 4), (4, 2), (5, 5), (7, 7), (8, 8), (9, 3), (14, 14), (28, 5)]
)
def test_both_passes_equal_autograd(kind, kernel, space):
    """Images smaller than the kernel, of one tile, of several, and with a last tile cut off."""
    drawn = draw((3, 2), kernel, space, 2)
    for found, expected in zip(passes(kind, *drawn), exact(*drawn), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_second_of_two_batches_forgets_the_first():
    """What is never written again must not be what a batch has left there."""
    like, weights = torch.zeros(1, dtype=torch.float64), torch.ones(1, 2, 9 * 2).double()
    own = WinogradConvolution(like, (2, 2), (3, 3), (9, 3), models=1, batch=2)
    below, results = [torch.empty_like(own.image[0]).flatten(1)], []
    for scale in (1.0, 100.0, 1.0):
        own.image.fill_(scale)
        own.forward(weights)
        own.slope.copy_(own.raw)
        results.append([own.raw.clone(), own.backward(weights, below).clone(), below[0].clone()])
    for first, last in zip(results[0], results[2], strict=True):
        assert torch.equal(first, last)


@pytest.mark.parametrize(
    ("rows", "kernel", "products"),
    [(1, 3, 1), (2, 3, 3), (4, 3, 6), (7, 3, 9), (8, 3, 10), (14, 3, 18), (28, 3, 36), (6, 5, 10)],
)
def test_the_number_of_products(rows, kernel, products):
    """F(m, r) takes m + r - 1 (Lavin & Gray, section 4) for each tile."""
    transforms = row_transforms(rows, kernel)
    assert len(transforms.spread) == len(transforms.filters) == products
    assert transforms.tiles * transforms.gather.shape[1] == products


@pytest.mark.parametrize(("space", "factor"), [((4, 4), 5), ((7, 7), 25), ((14, 14), 25)])
def test_float32_rounds_a_few_times_more_than_the_definition(space, factor):
    """Relative, in the root mean square; measured: 4 times with 6 points, 17 times with 9."""
    drawn = [t.float().double() for t in draw((32, 64), (3, 3), space, 32)]
    errors = [
        [
            (found - expected).norm() / expected.norm()
            for found, expected in zip(
                passes(kind, *drawn, dtype=torch.float32), exact(*drawn), strict=True
            )
        ]
        for kind in (WinogradConvolution, DirectConvolution)
    ]
    for fast, direct in zip(*errors, strict=True):
        assert fast < 4e-6
        assert fast < factor * direct


def test_what_is_left_to_the_definition():
    assert WinogradConvolution.pays((2, 4), (3, 3))
    assert WinogradConvolution.pays((2, 4), (5, 1))
    assert not WinogradConvolution.pays((1, 4), (3, 3))  # one channel
    assert not WinogradConvolution.pays((8, 4), (1, 3))  # one row
    assert not WinogradConvolution.pays((8, 4), (len(POINTS) + 2, 1))  # more points than there are

"""Positive weights per channel between the blocks of a chain, found for all blocks at once.

A block is a layer or a pair of layers around an activation, and D_i weighs the channels between
blocks i and i + 1, where only maps that act channel by channel lie. The constants of
D_i B_i D_{i-1}^-1 multiply to a bound of the chain, for any D. Minimised is the sum of their
logarithms, by Adam (Kingma & Ba 2015, arXiv 1412.6980) on log D and the multipliers of the pairs.
With unit singular vectors u, v of a block its logarithm's derivatives are |u_c|^2 in the log D of
its output channel c and -|v_c|^2 in that of its input channel, so at the optimum every channel
takes the share of a block's output that it has in the next one's input. Nothing here is certified.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.deadline import over

STEPS, SCREEN_EVERY = 200, 20
_ACTIVE, _VECTORS = 8, 4  # frequencies in play, leading eigenvalues of each
_RATE, _SOFT = 0.1, 2e-2  # of a step; how soft the maximum is, relative
_WIDEST = 12.0  # of log D: exact in float64 for weights in float32


@dataclass(frozen=True)
class Block:
    """One layer or a pair, complex symbols (S, F, rows, columns) or a matrix, real and F = 1.

    ``before`` and ``after`` number the weights D of its input and its output channels, None at the
    ends; ``pixels`` are how many columns and how many rows that follow each other belong to one
    channel. ``second`` None: a single layer. ``slopes``: (middle, radius), (S,).
    """

    first: Tensor
    second: Tensor | None
    before: int | None
    after: int | None
    pixels: tuple[int, int]
    slopes: tuple[Tensor, Tensor] | None


def search(blocks: list[Block], channels: list[int]) -> list[Tensor]:
    """log D of every place between two blocks: float64 (S, channels) each."""
    first = blocks[0].first.real
    places = [first.new_zeros(len(first), count) for count in channels]
    inner = [None if block.second is None else _balanced(block) for block in blocks]
    variables = [*places, *(x for x in inner if x is not None)]
    moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in variables]
    active: list[tuple[Tensor, Tensor | None, Tensor]] = []
    best, best_value = [x.clone() for x in places], first.new_full((len(first),), torch.inf)
    for step in range(STEPS + 1):
        if step % SCREEN_EVERY == 0:
            active = [_screened(b, places, d) for b, d in zip(blocks, inner, strict=True)]
        gradients = [torch.zeros_like(x) for x in places]
        own, total = [], torch.zeros_like(best_value)
        for i, block in enumerate(blocks):
            one, two, start = active[i]
            value, change, vectors = _leading(block, (one, two), places, inner[i], start)
            active[i] = one, two, vectors
            total = total + value
            for place, part in ((block.before, change[0]), (block.after, change[1])):
                if place is not None:
                    gradients[place] += part
            if change[2] is not None:
                own.append(change[2])
        if step % SCREEN_EVERY == 0:  # all frequencies have just been looked at
            better = total < best_value
            best_value = torch.where(better, total, best_value)
            best = [torch.where(better[:, None], x, y) for x, y in zip(places, best, strict=True)]
            if over():
                break
        rate = _RATE * 0.5 ** (4 * step / max(STEPS, 1))
        for x, gradient, (mean, square) in zip(variables, gradients + own, moments, strict=True):
            mean.mul_(0.8).add_(0.2 * gradient)
            square.mul_(0.95).addcmul_(gradient, gradient, value=0.05)
            scale = (square / (1 - 0.95 ** (step + 1))).sqrt() + 1e-6
            x.sub_(rate * mean / (1 - 0.8 ** (step + 1)) / scale).clamp_(-_WIDEST, _WIDEST)
    return best


def _balanced(block: Block) -> Tensor:
    """Multipliers that give the hidden channels equal shares on both sides: (S, rows)."""
    assert block.second is not None
    rows = block.first.abs().square().sum((1, 3))
    columns = block.second.abs().square().sum((1, 2))
    tiny = 1e-12 * (rows.amax(1, keepdim=True) * columns.amax(1, keepdim=True)).sqrt() + 1e-280
    return ((columns + tiny) / (rows + tiny)).log() / 2


def _weights(block: Block, places: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """exp(-log D) of the columns and exp(log D) of the rows, (S, 1, 1, n)."""
    columns = rows = None
    if block.before is not None:
        wide = places[block.before].repeat_interleave(block.pixels[0], 1)
        columns = (-wide).exp().repeat(1, block.first.shape[-1] // wide.shape[1])[:, None, None]
    if block.after is not None:
        rows = places[block.after].exp().repeat_interleave(block.pixels[1], 1)[:, None, None]
    return columns, rows


def _scaled(
    block: Block, maps: tuple[Tensor, Tensor | None], places: list[Tensor]
) -> tuple[Tensor, Tensor | None]:
    columns, rows = _weights(block, places)
    first, second = maps
    if columns is not None:
        first = first * columns
    if rows is not None and second is None:
        first = first * rows.mT
    elif rows is not None and second is not None:
        second = second * rows.mT
    return first, second


def _image(
    block: Block, maps: tuple[Tensor, Tensor | None], inner: Tensor | None, vectors: Tensor
) -> Tensor:
    """The block's Hermitian matrix times (v, u), (S, F, columns + rows, k)."""
    first, second = maps
    v, u = vectors.split([first.shape[-1], vectors.shape[-2] - first.shape[-1]], -2)
    if second is None or inner is None or block.slopes is None:
        return torch.cat([first.mH @ u, first @ v], -2)
    middle, radius = (x[:, None, None, None] for x in block.slopes)
    d = inner.exp()[:, None, :, None]
    one, two = first @ v, second.mH @ u
    top = first.mH @ (radius * d * one + middle * two)
    return torch.cat([top, second @ (middle * one + radius / d * two)], -2)


def _leading(
    block: Block,
    maps: tuple[Tensor, Tensor | None],
    places: list[Tensor],
    inner: Tensor | None,
    vectors: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None], Tensor]:
    """log of the block's constant (S,), its derivatives (before, after, inner), eigenvectors."""
    scaled = _scaled(block, maps, places)
    for _ in range(2):  # twice the matrix: a dilation's spectrum is symmetric
        image = _image(block, scaled, inner, _image(block, scaled, inner, vectors))
        vectors, _ = torch.linalg.qr(image)
    image = _image(block, scaled, inner, vectors)
    values, rotation = torch.linalg.eigh(vectors.mH @ image)
    vectors = vectors @ rotation
    top = values.amax((1, 2)).clamp_min(1e-300)
    weight = ((values / top[:, None, None] - 1) / _SOFT).flatten(1).softmax(1)
    weight = weight.reshape(values.shape)[..., None, :]
    size = vectors.abs().square() * (weight * values.clamp_min(0.0)[..., None, :])
    size = size.sum((1, 3)) / top[:, None]
    share, ahead = size.split([scaled[0].shape[-1], size.shape[1] - scaled[0].shape[-1]], 1)
    if block.before is not None:
        count = places[block.before].shape[1]
        share = share.unflatten(1, (-1, count, block.pixels[0])).sum((1, 3))
    if block.after is not None:
        ahead = ahead.unflatten(1, (-1, block.pixels[1])).sum(2)
    change = None
    if scaled[1] is not None and inner is not None and block.slopes is not None:
        v, u = vectors.split([scaled[0].shape[-1], vectors.shape[-2] - scaled[0].shape[-1]], -2)
        d, radius = inner.exp()[:, None, :, None], block.slopes[1][:, None, None, None]
        one = (scaled[0] @ v).abs().square() * (radius * d)
        two = (scaled[1].mH @ u).abs().square() * (radius / d)
        change = ((one - two) * weight).sum((1, 3)) / top[:, None]
    return top.log(), (-2 * share, 2 * ahead, change), vectors


def _screened(
    block: Block, places: list[Tensor], inner: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The frequencies that may attain the constant, and eigenvectors to start from."""
    last = block.first if block.second is None else block.second
    size = block.first.shape[-1] + last.shape[-2]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, _VECTORS, 2, generator=generator, dtype=torch.float64)
    one = torch.view_as_complex(start) if block.first.is_complex() else start[..., 0]
    vectors = one.to(block.first)
    vectors = vectors[:, : min(size, _VECTORS)].expand(*block.first.shape[:2], -1, -1)
    scaled = _scaled(block, (block.first, block.second), places)
    for _ in range(6):
        image = _image(block, scaled, inner, _image(block, scaled, inner, vectors))
        vectors, _ = torch.linalg.qr(image)
    length = torch.linalg.vector_norm(_image(block, scaled, inner, vectors), dim=-2).amax(-1)
    active = length.topk(min(_ACTIVE, length.shape[1]), dim=1).indices[..., None, None]

    def pick(x: Tensor) -> Tensor:
        return x.gather(1, active.expand(-1, -1, *x.shape[2:]))

    second = None if block.second is None else pick(block.second)
    return pick(block.first), second, pick(vectors)

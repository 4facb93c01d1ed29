"""Dropout whose masks are a function of a key, the layer and the place, not of a generator's state.

The numbers are those of SplitMix64 (Steele, Lea & Flood 2014): number i of the generator that
starts at k is mix(k + (i + 1) * GAMMA). So every model of a stack has masks of its own key, on a
CPU and on CUDA the same to the bit, and a captured CUDA graph only reads keys.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lipdescent.shapes import Bool, Int64

# What is done at a dropout layer with probability p: (p, x) -> x, x (models, batch, ...).
Dropout = Callable[[float, Tensor], Tensor]

# Of SplitMix64, as signed numbers of 64 bits: sums and products wrap around as unsigned ones do.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def numbers(
    keys: Int64[Tensor, " keys"], count: int, *, first: int = 0
) -> Int64[Tensor, "keys {count}"]:
    """Numbers ``first`` to ``first + count - 1`` of every key's generator, int64 (keys, count)."""
    place = torch.arange(first + 1, first + count + 1, device=keys.device)
    z = keys.unsqueeze(1) + place * GAMMA
    for shift, factor in _FACTORS:
        z = _xor_shifted(z, shift).mul_(factor)
    return _xor_shifted(z, 31)


def kept(keys: Int64[Tensor, " keys"], count: int, *, p: float) -> Bool[Tensor, "keys {count}"]:
    """Which of ``count`` entries stay, each dropped with probability p to 2^-32: (keys, count)."""
    halves = numbers(keys, -(-count // 2)).view(torch.int32)
    return halves[:, :count] >= round(p * 2**32) - 2**31


class MaskedBy:
    """The dropout layers of one training pass, in the order in which they are evaluated.

    An entry is dropped with probability p, others are divided by 1 - p, as by torch.nn.Dropout.

    Parameters
    ----------
    keys : int64 (models,), one per model and pass.
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys, self._layer = keys, 0

    def __call__(self, p: float, x: Tensor) -> Tensor:
        own = numbers(self._keys, 1, first=self._layer)[:, 0]
        self._layer += 1
        mask = kept(own, x[0].numel(), p=p).view(x.shape)
        return x * mask.to(x.dtype).div_(1 - p)


def off(p: float, x: Tensor) -> Tensor:
    """No dropout, as in eval mode."""
    return x


def _xor_shifted(z: Tensor, shift: int) -> Tensor:
    """With itself, shifted right by ``shift`` bits with zeros from the left."""
    return (z >> shift).bitwise_and_(2 ** (64 - shift) - 1).bitwise_xor_(z)

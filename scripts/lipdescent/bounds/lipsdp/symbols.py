"""Two convolutions around an activation, as matrices of each frequency of a torus.

:mod:`lipdescent.bounds.lipsdp.blocks` says why they are block diagonal there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.layers import _torus
from lipdescent.layers._operators import Axis


@dataclass(frozen=True)
class LinearMap:
    """Zero-padded convolution, kernel float64 (models, out, in, *sizes), an Axis per size.

    ``lost`` (models,) bounds the sum of what has underflowed in the entries of the kernel.
    """

    kernel: Tensor
    axes: list[Axis]
    lost: Tensor | float = 0.0

    def of(self, models: slice) -> LinearMap:
        """The same of some of the models."""
        lost = self.lost[models] if isinstance(self.lost, Tensor) else self.lost
        return LinearMap(self.kernel[models], self.axes, lost)

    @property
    def strides(self) -> list[int]:
        return [axis.stride for axis in self.axes]

    @property
    def offsets(self) -> list[Tensor]:
        return [axis.offsets() for axis in self.axes]


@dataclass(frozen=True)
class Symbols:
    """complex128 (models, F, rows, columns) each; ``repeats`` rows of ``first`` per channel.

    ``skip`` is None where there is no skip connection.

    ``errors`` bound their rounding in the l2 norm, (models,) each.
    """

    first: Tensor
    second: Tensor
    skip: Tensor | None
    repeats: int
    errors: tuple[Tensor, Tensor, Tensor]

    @cached_property
    def adjoints(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Conjugate transposes in memory: a lazy one is copied at every product."""
        turned = self.each(lambda h: h.mH.resolve_conj().contiguous())
        return turned.first, turned.second, turned.skip

    def each(self, change: Callable[[Tensor], Tensor]) -> Symbols:
        """What ``change`` makes of the three maps."""
        skip = None if self.skip is None else change(self.skip)
        return replace(self, first=change(self.first), second=change(self.second), skip=skip)

    @property
    def size(self) -> int:
        return self.first.shape[-1] + self.second.shape[-2]

    def single(self) -> Symbols:
        """In complex64, to search with."""
        e1, e2, e0 = (e.to(torch.float32) for e in self.errors)
        return replace(self.each(lambda h: h.to(torch.complex64)), errors=(e1, e2, e0))

    @cached_property
    def squares(self) -> tuple[Tensor, Tensor]:
        """Squared moduli of ``first`` and ``second``."""
        return self.first.abs().square(), self.second.abs().square()


def _scaled(
    first: LinearMap, second: LinearMap, skip: LinearMap | str | None
) -> tuple[LinearMap, LinearMap, LinearMap | str | None, Tensor]:
    """Kernels with largest entries in [1/2, 1), a skip kernel to match, and the exponents taken.

    "identity" stays: it is scaled where its symbol is made.
    """
    exponents = [ulps.scaled_to_one(m.kernel.flatten(1)[:, None])[1] for m in (first, second)]
    first, second = (_times_power(m, -e) for m, e in zip((first, second), exponents, strict=True))
    total = exponents[0] + exponents[1]
    scaled = _times_power(skip, -total) if isinstance(skip, LinearMap) else skip
    return first, second, scaled, total


def _times_power(one: LinearMap, power: Tensor) -> LinearMap:
    """``one`` times 2^power, (models,); each entry that underflows is off by 2^-1074."""
    kernel = ulps.times_power(one.kernel, power.reshape(-1, *[1] * (one.kernel.ndim - 1)))
    lost = torch.as_tensor(one.lost, dtype=torch.float64, device=kernel.device).expand(len(kernel))
    lost = ulps.times_power(lost, power) + 2 * kernel[0].numel() * ulps.TINY
    return LinearMap(kernel, one.axes, ulps.round_up(lost, 2))


def torus_sizes(
    first: LinearMap, second: LinearMap, skip: LinearMap | str | None
) -> list[int] | None:
    """Outputs per axis of a torus that is large enough for all maps, None if they do not fit."""
    sizes = []
    for a, (one, two) in enumerate(zip(first.axes, second.axes, strict=True)):
        stride = one.stride * two.stride
        side = max(one.torus_size(), one.stride * two.torus_size())
        if skip == "identity" and stride != 1:
            return None
        if isinstance(skip, LinearMap):
            if skip.axes[a].stride != stride:
                return None
            side = max(side, skip.axes[a].torus_size())
        sizes.append(math.ceil(side / stride))
    return sizes


def block_symbols(
    first: LinearMap,
    second: LinearMap,
    skip: LinearMap | str | None,
    *,
    sizes: list[int],
    exponent: Tensor,
) -> Symbols:
    """Symbols on the output lattice; the hidden positions modulo stride are rows of ``first``.

    The identity becomes 2^-exponent times itself, ``exponent`` (models,).
    """
    grid = _torus.frequencies(sizes, (0,) * len(sizes))
    strides = [s * t for s, t in zip(first.strides, second.strides, strict=True)]
    rows = []
    for phase in itertools.product(*[range(s) for s in second.strides]):
        offsets = [
            o + axis.stride * p for o, axis, p in zip(first.offsets, first.axes, phase, strict=True)
        ]
        rows.append(_torus.symbol(first.kernel, offsets, strides, sizes, grid))
    h1 = torch.cat(rows, -2)
    h2 = _torus.symbol(second.kernel, second.offsets, second.strides, sizes, grid)
    # A tap is a shift: what its entries have lost is at most their sum.
    e1, e2 = (_torus.symbol_error(f.kernel) + f.lost for f in (first, second))
    e1, e0 = e1 * math.sqrt(len(rows)), torch.zeros_like(e1)
    h0 = None
    if isinstance(skip, LinearMap):
        h0 = _torus.symbol(skip.kernel, skip.offsets, strides, sizes, grid)
        e0 = _torus.symbol_error(skip.kernel) + skip.lost
    elif skip == "identity":
        h0 = h1.new_zeros(*h1.shape[:2], h2.shape[2], h1.shape[3])
        one = ulps.times_power(torch.ones_like(e1), -exponent)
        h0.diagonal(dim1=-2, dim2=-1).copy_(one[:, None, None].expand(*h1.shape[:2], 1))
    return Symbols(h1, h2, h0, len(rows), (e1, e2, e0))


def matrices(symbols: Symbols, log_d: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
    """The matrix of every model and frequency: complex (models, F, p, p)."""
    d = log_d.exp().repeat(1, symbols.repeats)[:, None]
    r, m = radius[:, None, None], middle[:, None, None, None]
    h1, h2 = symbols.first, symbols.second
    top = (h1.mH * (r * d)[:, :, None]) @ h1
    bottom = (h2 * (r / d)[:, :, None]) @ h2.mH
    cross = m * (h2 @ h1)
    if symbols.skip is not None:
        cross = cross + symbols.skip
    return torch.cat([torch.cat([top, cross.mH], -1), torch.cat([cross, bottom], -1)], -2)


def _entries(first: LinearMap, second: LinearMap) -> int:
    stride = math.prod(first.strides) * math.prod(second.strides)
    inputs = first.kernel.shape[2] * stride
    hidden = first.kernel.shape[1] * math.prod(second.strides)
    outputs = second.kernel.shape[1]
    return hidden * (inputs + outputs) + (inputs + outputs) ** 2

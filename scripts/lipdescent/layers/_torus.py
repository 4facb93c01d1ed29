"""Certified l2 norm of a zero-padded convolution: its norm on a torus that is large enough.

Extend the input by zeros to a torus of side N (:meth:`Axis.torus_size`): no read wraps onto the
input, so the layer is a restriction of the convolution on the torus, whose norm is the largest
of the symbol's norms over the N-th frequencies (Sedghi et al. 2019, arXiv 1805.10408, for N = n,
which is *not* a bound for zero padding). The extension may as well be quasi-periodic,
x[j + N] = -x[j], which shifts the frequencies by half a step: both are bounds, and we take the
smaller. For the kernel [a, b, a] the shifted one is exact.

A stride s turns the symbol into one column block per residue of the input position modulo s
(polyphase components), on a torus of N / s outputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lipdescent.arithmetic import certified_norms, ulps
from lipdescent.layers._operators import Axis
from lipdescent.shapes import Complex128, Float64, Int64
from lipdescent.stacks import products

_CHUNK = 2**18  # complex entries in each temporary, 4 MiB: what a cache holds
_TRY_SHIFTS = 2**22  # symbol entries of one model up to which all shifts are tried


def frequencies(sizes: list[int], shifts: tuple[int, ...]) -> Tensor:
    """Integer (F, axes): twice the frequency in steps of 1/M, one of each conjugate pair."""
    grids = [2 * torch.arange(m) + h for m, h in zip(sizes, shifts, strict=True)]
    grid = torch.cartesian_prod(*grids).reshape(-1, len(sizes))
    key, mirror = torch.zeros(2, len(grid), dtype=torch.int64)
    for a, m in enumerate(sizes):
        key, mirror = 2 * m * key + grid[:, a], 2 * m * mirror + -grid[:, a] % (2 * m)
    return grid[key <= mirror]


def symbol(
    kernel: Float64[Tensor, "models out in *taps"],
    offsets: list[Tensor],
    strides: list[int],
    sizes: list[int],
    grid: Int64[Tensor, "frequencies axes"],
    *,
    drop_empty: bool = False,
) -> Complex128[Tensor, "models frequencies out columns"]:
    """Symbol of a strided convolution.

    Parameters
    ----------
    kernel : float64 (B, out, in, *kernel sizes).
    offsets : per axis (kernel size,), position of each tap relative to stride * output.
    strides, sizes : per axis the stride s and the number of outputs M on the torus.
    grid : (F, axes) from :func:`frequencies`.
    drop_empty : leave out the column blocks of residues that no tap reads.

    Returns
    -------
    complex128 (B, F, out, residues * in), residues over prod(strides).
    """
    batch, out, inputs = kernel.shape[:3]
    device = kernel.device
    phases, residues = [], []
    for a, (offset, stride, size) in enumerate(zip(offsets, strides, sizes, strict=True)):
        steps = torch.div(offset, stride, rounding_mode="floor")
        # Reduced as integers, so that the angle carries one rounding whatever its size.
        angle = (grid[:, a, None] * steps) % (2 * size)
        phases.append((angle.to(torch.float64) * (math.pi / size)).to(device))
        residues.append(offset % stride)
    blocks = []
    for wanted in itertools.product(*[range(stride) for stride in strides]):
        read = [bool((r == w).any()) for r, w in zip(residues, wanted, strict=True)]
        if drop_empty and not all(read):
            continue
        part, angle = kernel, torch.zeros(len(grid), 1, dtype=torch.float64, device=device)
        for a, residue in enumerate(wanted):
            taps = torch.nonzero(residues[a] == residue)[:, 0].to(device)
            part = part.index_select(3 + a, taps)
            angle = (angle[:, :, None] + phases[a][:, None, taps]).flatten(1)
        part = part.reshape(batch, out * inputs, -1).mT  # (B, taps, out in)
        wave = torch.cat([angle.cos(), angle.sin()])
        # A product per model: in one of them all, a column's bits would depend on its place.
        block = products.bmm(wave.expand(batch, -1, -1), part)
        block = block.reshape(batch, 2, len(grid), out, inputs)
        blocks.append(torch.complex(block[:, 0], block[:, 1]))
    return torch.cat(blocks, -1)


def symbol_error(kernel: Float64[Tensor, "models out in *taps"]) -> Float64[Tensor, " models"]:
    """(B,): bound on the l2 norm of the rounding error in :func:`symbol`.

    A tap's phase has an absolute error below 16 u per axis (angle below 2 pi per axis, its
    rounding, cosine and sine), the sum over T taps one of gamma(T): entrywise
    (gamma(T) + 64 u) sum_t |K_t|, and the l2 norm is below the Frobenius norm. Doubled, which also
    covers relative errors of up to 64 u in the kernel itself.
    """
    taps = math.prod(kernel.shape[3:])
    absolute = kernel.abs().flatten(3).sum(-1).flatten(1)
    size = torch.linalg.vector_norm(absolute, dim=1)
    return 2 * (ulps.gamma(taps + 2) + 64 * ulps.UNIT_ROUNDOFF) * size


def torus_norm(
    kernel: Float64[Tensor, "models out in *taps"], axes: list[Axis]
) -> Float64[Tensor, " models"]:
    """Certified upper bound on the l2 norm of zero-padded convolutions.

    Parameters
    ----------
    kernel : float64 (B, out, in, *kernel sizes), no groups.
    axes : one per spatial axis, mode "zeros", or "circular" with ``size`` a multiple of the stride
        and at most ``size / stride`` outputs (the torus is then the input itself).

    Returns
    -------
    float64 (B,).
    """
    circular = [axis.mode == "circular" for axis in axes]
    sizes = [
        (axis.size if wraps else axis.torus_size()) // axis.stride
        for axis, wraps in zip(axes, circular, strict=True)
    ]
    scaled, exponent = ulps.scaled_to_one(kernel.flatten(1)[:, None])
    kernel = scaled.reshape(kernel.shape)
    entries = math.prod(sizes) * math.prod(axis.stride for axis in axes)
    entries *= math.prod(kernel.shape[1:3])
    shifts = [(0,) * len(axes)]
    if entries <= _TRY_SHIFTS:
        both = [(0,) if c or m == 1 else (0, 1) for c, m in zip(circular, sizes, strict=True)]
        shifts = list(itertools.product(*both))
    size = max(1, _CHUNK // entries)
    values = [_one_chunk(part, axes, sizes, shifts) for part in kernel.split(size)]
    value = torch.cat(values) + symbol_error(kernel)
    return ulps.unscaled_up(ulps.round_up(value, 2), exponent)


def _one_chunk(
    kernel: Tensor, axes: list[Axis], sizes: list[int], shifts: list[tuple[int, ...]]
) -> Tensor:
    """Smallest bound (B,) over the shifts of the frequencies."""
    offsets, strides = [axis.offsets() for axis in axes], [axis.stride for axis in axes]
    entries = len(kernel) * math.prod(strides) * math.prod(kernel.shape[1:3])
    best = kernel.new_full((len(kernel),), math.inf)
    for shift in shifts:
        grid = frequencies(sizes, shift).split(max(1, _CHUNK // entries))
        symbols = (symbol(kernel, offsets, strides, sizes, part, drop_empty=True) for part in grid)
        best = torch.minimum(best, largest_norm(symbols, enough=best))
    return best


def largest_norm(
    chunks: Iterable[Tensor], *, enough: Float64[Tensor, " models"]
) -> Float64[Tensor, " models"]:
    """Certified upper bound on max_f |H_f|_2 for complex (B, F, m, n) in chunks of F: (B,).

    Infinite where it exceeds ``enough`` (B,), which ends the work. Complex inner products of
    length k have an error of at most 2 gamma(2 k + 4) times the product of the moduli (Higham
    2002, section 3.6).
    """
    error = torch.zeros_like(enough)

    def grams() -> Iterator[Tensor]:
        nonlocal error
        for h in chunks:
            rows, columns = h.shape[-2:]
            frobenius = torch.linalg.vector_norm(h, dim=(-2, -1)).amax(1).square()
            frobenius = ulps.round_up(frobenius, 2 * rows * columns + 8)
            here = 2 * ulps.gamma(2 * max(rows, columns) + 8) * frobenius
            error = torch.maximum(error, here)
            yield h @ h.mH if rows <= columns else h.mH @ h

    value = largest_eigenvalue(grams(), enough=enough.square())
    return ulps.round_up((value.clamp_min(0.0) + error).sqrt(), 8)


def largest_eigenvalue(chunks: Iterable[Tensor], *, enough: Tensor | None = None) -> Tensor:
    """Certified upper bound on max_f lambda_max(M_f), Hermitian (B, F, p, p) in chunks of F: (B,).

    One Cholesky factor of t I - M_f per frequency at a common t per B, raised where a chunk holds
    a larger eigenvalue: only few frequencies get eigenvalues of their own. All infinite, and the
    remaining chunks not looked at, once every value exceeds ``enough``.
    """
    shift: Tensor | None = None
    value: Tensor | None = None
    for matrices in chunks:
        if shift is None or value is None:
            shift = value = matrices.real.new_full((len(matrices),), -math.inf)
        shift = _raised(matrices, shift)
        found, sound = _below(matrices, shift[:, None].expand(matrices.shape[:2]))
        if not bool(sound.all()):
            found[~sound] = certified_norms.certified_max_eigenvalue(matrices[~sound])
            shift = torch.maximum(shift, torch.where(sound, -math.inf, found).amax(1))
        value = torch.maximum(value, found.amax(1))
        if enough is not None and bool((value > enough).all()):
            return torch.full_like(value, math.inf)
    assert value is not None, "no chunk"
    return value


def _raised(matrices: Tensor, shift: Tensor) -> Tensor:
    """``shift`` (B,), or an estimate of the largest eigenvalue of (B, F, p, p) where it is larger.

    A power iteration tells the frequencies apart; eigenvalues are taken of the leading ones.
    """
    count, p = matrices.shape[1:3]
    start = torch.randn(p, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = (start[:, 0] + 1j * start[:, 1]).to(matrices.device)[:, None]
    for _ in range(12):
        vector = matrices @ vector
        length = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
        vector = vector / torch.where(length > 0, length, 1.0)
    estimate = length[..., 0, 0]
    larger = ~(estimate.amax(1) < shift)
    if not bool(larger.any()):
        return shift
    chosen = matrices[larger]
    # One frequency is enough where eigenvalues are dear: what lies above it is found below.
    top = estimate[larger].topk(min(6 if p <= 128 else 1, count), dim=1).indices
    picked = chosen.gather(1, top[..., None, None].expand(-1, -1, p, p))
    largest = torch.linalg.eigvalsh(picked)[..., -1].amax(1)
    scale = chosen.diagonal(dim1=-2, dim2=-1).real.abs().amax((1, 2))
    slack = 8 * p * p * ulps.UNIT_ROUNDOFF * torch.maximum(scale, largest.abs())
    raised = shift.clone()
    raised[larger] = torch.maximum(shift[larger], largest + slack)
    return raised


def _below(matrices: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """lambda_max <= shift + e for each matrix, and where the Cholesky factor was found.

    e holds the measured residual |t I - M - L L^H|_F, so that it does not matter how L was found.
    """
    p = matrices.shape[-1]
    shifted = -matrices
    shifted.diagonal(dim1=-2, dim2=-1).add_(shift[..., None])
    factor, info = torch.linalg.cholesky_ex(shifted)
    residual = torch.linalg.vector_norm(shifted - factor @ factor.mH, dim=(-2, -1))
    # | |L| |L|^H |_2 <= |L|_F^2, and the rounding of the product is complex.
    squares = torch.linalg.vector_norm(factor, dim=(-2, -1)).square()
    diagonal = shifted.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    excess = residual + 2 * ulps.gamma(2 * p + 8) * squares
    excess = excess + 4 * ulps.UNIT_ROUNDOFF * diagonal
    value = ulps.round_up(shift + ulps.round_up(excess, 2 * p * p + 8), 2)
    return value, (info == 0) & value.isfinite()

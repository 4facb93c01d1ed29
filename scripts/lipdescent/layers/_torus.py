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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipdescent.arithmetic import certified_norms, hermitian, ulps
from lipdescent.layers._operators import Axis
from lipdescent.shapes import Complex128, Float64, Int64
from lipdescent.stacks import products

_CHUNK = 2**18  # complex entries in each temporary, 4 MiB: what a cache holds
# Of Lanczos' iteration, by which shifts and frequencies are put in order: dearer, the larger.
_FEWEST_STEPS, _MOST_STEPS = 6, 24
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
    return _Tables.of_taps(kernel, offsets, strides, sizes, drop_empty=drop_empty).symbol(grid)


@dataclass(frozen=True)
class _Tables:
    """A kernel (B, out, in, ...) sorted by the residue of the input position that its taps read.

    ``shape`` is (out, in), ``axes`` have (step of each tap, number M of outputs), ``parts`` for
    each residue a table (B, taps, out in) and the taps of each axis.
    """

    shape: tuple[int, int]
    axes: list[tuple[Tensor, int]]
    parts: list[tuple[Tensor, list[Tensor]]]

    @classmethod
    def of(cls, kernel: Tensor, axes: list[Axis], sizes: list[int]) -> _Tables:
        offsets, strides = [axis.offsets() for axis in axes], [axis.stride for axis in axes]
        return cls.of_taps(kernel, offsets, strides, sizes, drop_empty=True)

    @classmethod
    def of_taps(
        cls,
        kernel: Tensor,
        offsets: list[Tensor],
        strides: list[int],
        sizes: list[int],
        *,
        drop_empty: bool,
    ) -> _Tables:
        residues = [offset % stride for offset, stride in zip(offsets, strides, strict=True)]
        parts = []
        for wanted in itertools.product(*[range(stride) for stride in strides]):
            own = [torch.nonzero(r == w)[:, 0] for r, w in zip(residues, wanted, strict=True)]
            if drop_empty and not all(map(len, own)):
                continue
            part = kernel
            for a, taps in enumerate(own):
                part = part.index_select(3 + a, taps.to(kernel.device))
            parts.append((part.flatten(3).flatten(1, 2).mT.contiguous(), own))
        steps = [
            torch.div(o, s, rounding_mode="floor") for o, s in zip(offsets, strides, strict=True)
        ]
        return cls((kernel.shape[1], kernel.shape[2]), list(zip(steps, sizes, strict=True)), parts)

    def __getitem__(self, models: Tensor) -> _Tables:
        return replace(self, parts=[(part[models], own) for part, own in self.parts])

    def symbols(self, grid: Tensor) -> Iterator[Tensor]:
        """The symbols at the frequencies ``grid`` (F, axes), chunk by chunk."""
        entries = len(self.parts) * self.parts[0][0][:, 0].numel()
        yield from map(self.symbol, grid.split(max(1, _CHUNK // entries)))

    def symbol(self, grid: Tensor) -> Tensor:
        """:func:`symbol`, in the precision of the kernel."""
        phases = []
        for a, (steps, size) in enumerate(self.axes):
            # Reduced as integers, so that the angle carries one rounding whatever its size.
            angle = (grid[:, a, None] * steps) % (2 * size)
            phases.append(angle.to(torch.float64) * (math.pi / size))
        blocks = []
        for part, taps in self.parts:
            angle = torch.zeros(len(grid), 1, dtype=torch.float64)
            for phase, own in zip(phases, taps, strict=True):
                angle = (angle[:, :, None] + phase[:, None, own]).flatten(1)
            wave = torch.cat([angle.cos(), angle.sin()]).to(part)
            # A product per model: in one of them all, a column's bits would depend on its place.
            block = products.bmm(wave.expand(len(part), -1, -1), part)
            block = block.reshape(len(part), 2, len(grid), *self.shape)
            blocks.append(torch.complex(block[:, 0], block[:, 1]))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1)


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
    if all(axis.kernel == 1 for axis in axes):  # one matrix, at places of its own
        return certified_norms.certified_spectral_norm(kernel.flatten(2))
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
    values = [_smallest(part, axes, sizes, shifts) for part in kernel.split(size)]
    value = torch.cat(values) + symbol_error(kernel)
    return ulps.unscaled_up(ulps.round_up(value, 2), exponent)


def _smallest(
    kernel: Tensor, axes: list[Axis], sizes: list[int], shifts: list[tuple[int, ...]]
) -> Tensor:
    """Smallest bound (B,) over the shifts of the frequencies.

    Each model's most promising shift first; what exceeds a bound that is proved already ends early.
    """
    grids = [frequencies(sizes, shift) for shift in shifts]
    tables = _Tables.of(kernel, axes, sizes)
    rough = rough_norms(kernel, axes, sizes, grids)
    largest = torch.stack([values.amax(1) for values in rough])
    order = largest.argsort(dim=0, stable=True)
    best = kernel.new_full((len(kernel),), math.inf)
    for rank in order:
        for place, grid in enumerate(grids):
            # A rough value is from below, but for its own rounding.
            left = (rank == place) & (largest[place] * (1 - 1e-4) < best)
            chosen = left.nonzero()[:, 0]
            if not len(chosen):
                continue
            if len(kernel) == 1:  # the largest first: nothing is looked for twice
                grid = grid[rough[place][0].argsort(descending=True).to(grid.device)]
            symbols = tables[chosen].symbols(grid)
            found = largest_norm(symbols, enough=best[chosen], descending=len(kernel) == 1)
            best[chosen] = torch.minimum(best[chosen], found)
    return best


def rough_norms(
    kernel: Tensor, axes: list[Axis], sizes: list[int], grids: list[Tensor]
) -> list[Tensor]:
    """About |H_f|_2, from below, at each frequency of each grid: (B, F), to order them by.

    Lanczos' iteration on H^H H (Golub & Van Loan 2013, sec. 10.3) in single precision.
    """
    tables = _Tables.of(kernel.to(torch.float32), axes, sizes)
    found = [[_krylov(h) for h in tables.symbols(grid)] for grid in grids]
    return [torch.cat(parts, 1).to(torch.float64) for parts in found]


def _krylov(h: Tensor) -> Tensor:
    if h.shape[-1] > h.shape[-2]:
        h = h.mT
    h, transposed = h.contiguous(), h.mT.contiguous()  # rows times matrices are quick
    size = h.shape[-1]
    vector = hermitian.start_vector(size, h).expand(*h.shape[:-2], 1, -1)
    before, off = torch.zeros_like(vector), h.real.new_zeros(*h.shape[:2], 1, 1)
    diagonal, beside = [], []
    for _ in range(min(_MOST_STEPS, max(_FEWEST_STEPS, size // 25))):
        image = ((vector @ transposed).conj() @ h).conj()  # of H^H H
        here = (vector.conj() * image).sum((-2, -1), keepdim=True).real
        image = image - here * vector - off * before
        before, off = vector, hermitian.frobenius(image)[..., None, None]
        vector = image / torch.where(off > 0, off, 1.0)
        diagonal.append(here[..., 0, 0])
        beside.append(off[..., 0, 0])
    form = torch.diag_embed(torch.stack(diagonal, -1))
    edge = torch.stack(beside[:-1], -1)
    form = form + torch.diag_embed(edge, 1) + torch.diag_embed(edge, -1)
    return torch.linalg.eigvalsh(form)[..., -1].clamp_min(0.0).sqrt()


def largest_norm(
    chunks: Iterable[Tensor], *, enough: Float64[Tensor, " models"], descending: bool = False
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
            frobenius = hermitian.frobenius(h).amax(1).square()
            frobenius = ulps.round_up(frobenius, 2 * rows * columns + 8)
            here = 2 * ulps.gamma(2 * max(rows, columns) + 8) * frobenius
            error = torch.maximum(error, here)
            yield hermitian.gram(h if rows <= columns else h.mH)

    value = largest_eigenvalue(grams(), enough=enough.square(), descending=descending)
    return ulps.round_up((value.clamp_min(0.0) + error).sqrt(), 8)


def largest_eigenvalue(
    chunks: Iterable[Tensor], *, enough: Tensor | None = None, descending: bool = False
) -> Tensor:
    """Certified upper bound on max_f lambda_max(M_f), Hermitian (B, F, p, p) in chunks of F: (B,).

    One Cholesky factor of t I - M_f per frequency at a common t per B, raised where a chunk holds
    a larger eigenvalue: only few frequencies get eigenvalues of their own. All infinite, and the
    remaining chunks not looked at, once every t, or value, exceeds ``enough``. ``descending``: the
    first chunk likely holds the largest, so no other is looked through for it.
    """
    shift: Tensor | None = None
    value: Tensor | None = None
    for matrices in chunks:
        first = shift is None or value is None
        if shift is None or value is None:
            shift = value = matrices.real.new_full((len(matrices),), -math.inf)
        if first or not descending:
            shift = _raised(matrices, shift)
        if enough is not None and bool((shift > enough).all()):
            return torch.full_like(value, math.inf)
        found, sound = _below(matrices, shift[:, None].expand(matrices.shape[:2]))
        if not bool(sound.all()):
            found[~sound] = _own(matrices[~sound])
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
    vector = hermitian.start_vector(p, matrices).expand(*matrices.shape[:2], 1, -1)
    for _ in range(12):
        vector = vector @ matrices
        estimate = hermitian.frobenius(vector)
        vector = vector / torch.where(estimate > 0, estimate, 1.0)[..., None, None]
    larger = ~(estimate.amax(1) < shift)
    if not bool(larger.any()):
        return shift
    chosen = matrices[larger]
    # One frequency is enough where eigenvalues are dear: what lies above it is found below.
    top = estimate[larger].topk(min(6 if p <= 128 else 1, count), dim=1).indices
    picked = chosen.gather(1, top[..., None, None].expand(-1, -1, p, p))
    largest = _leading(picked.flatten(0, 1)).view(top.shape).amax(1)
    raised = shift.clone()
    raised[larger] = torch.maximum(shift[larger], largest + _slack(chosen, largest))
    return raised


def _leading(matrices: Tensor) -> Tensor:
    """Largest eigenvalues (n,) of (n, p, p), not proved."""
    p = matrices.shape[-1]
    if p <= hermitian.LARGE:
        return torch.linalg.eigvalsh(matrices)[:, -1]
    found = [hermitian.leading_eigenvalue(m, tolerance=p * ulps.UNIT_ROUNDOFF) for m in matrices]
    return matrices.real.new_tensor(found)[:, 0]


def _slack(matrices: Tensor, value: Tensor) -> Tensor:
    """By how much t exceeds an estimate (B,) for (B, F, p, p), so that factors are found."""
    p = matrices.shape[-1]
    scale = matrices.diagonal(dim1=-2, dim2=-1).real.abs().amax((1, 2))
    return 8 * p * p * ulps.UNIT_ROUNDOFF * torch.maximum(scale, value.abs())


def _own(matrices: Tensor) -> Tensor:
    """Certified bounds on the largest eigenvalues of (n, p, p), each by its own: (n,)."""
    top = _leading(matrices)
    value, sound = _below(matrices, top + _slack(matrices[:, None], top))
    if not bool(sound.all()):
        value[~sound] = certified_norms.certified_max_eigenvalue(matrices[~sound])
    return value


def _below(matrices: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """lambda_max <= shift + e for each matrix, and where the Cholesky factor was found.

    e holds the residual of :func:`hermitian.factored`: how L was found does not matter. It is that
    of M's lower triangle, mirrored.
    """
    p = matrices.shape[-1]
    shifted = -matrices
    shifted.diagonal(dim1=-2, dim2=-1).add_(shift[..., None])
    lower, residual, found = hermitian.factored(shifted)
    # | |A| |_2 <= |A|_F, | |L| |L|^H |_2 <= |L|_F^2.
    sizes = hermitian.frobenius(shifted) + hermitian.frobenius(lower).square()
    diagonal = shifted.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    excess = residual + 2 * ulps.gamma(2 * p + 12) * sizes
    excess = excess + 4 * ulps.UNIT_ROUNDOFF * diagonal
    value = ulps.round_up(shift + ulps.round_up(excess, 2 * p * p + 8), 2)
    return value, found & value.isfinite()

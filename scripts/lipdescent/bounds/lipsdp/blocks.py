"""LipSDP-Neuron for W2 sigma(W1 x) + W0 x with convolutions, one multiplier per channel.

With slopes in [a, b], m = (a + b) / 2, r = (b - a) / 2 and any d > 0, the constant is at most

    lambda_max [[ r W1* diag(d) W1 , (W0 + m W2 W1)* ], [ W0 + m W2 W1 , r W2 diag(1/d) W2* ]]

(the eigenvalue form of Fazlyab et al. 2019, arXiv 1906.04893, by 2xy <= d x^2 + y^2 / d). On a
torus on which no zero-padded read wraps (:mod:`lipdescent.layers._torus`), with one d per channel,
the matrix is block diagonal in frequency. The zero-padded layers are those on the torus with their
outputs cropped: a crop is a slope of 0, so [a, b] is extended to contain 0.
"""

import contextlib
import math
from dataclasses import replace

import torch
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.bounds.lipsdp.symbols import (
    LinearMap,
    Symbols,
    _entries,
    _scaled,
    block_symbols,
    matrices,
    torus_sizes,
)
from lipdescent.deadline import over
from lipdescent.layers import _torus

# Descent: frequencies in play at each step, steps between two choices of them, choices.
ACTIVE, STEPS, SCREENS = 12, 12, 5
# Beyond that size of a matrix, where a step costs most, the descent is shorter and in complex64.
LARGE, SCREENS_LARGE = 256, 3
LARGEST = 2**25  # complex entries of all symbols of one model: 512 MiB


def block_bound(
    first: LinearMap,
    second: LinearMap,
    slopes: tuple[Tensor, Tensor],
    *,
    skip: LinearMap | str | None = None,
) -> Tensor | None:
    """Certified upper bound on the l2 Lipschitz constant of second . sigma . first + skip.

    Parameters
    ----------
    slopes : (models,) each, the smallest and the largest slope of the activation.
    skip : None, "identity", or a convolution whose stride is the product of the other two.

    Returns
    -------
    float64 (models,), infinite where float64 overflows; None where the block does not fit.
    """
    sizes = torus_sizes(first, second, skip)
    if sizes is None:
        return None
    low, high = slopes
    if any(m * s != a.outputs for m, s, a in zip(sizes, second.strides, first.axes, strict=True)):
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    middle = (low + high) / 2
    radius = ulps.round_up(torch.maximum(high - middle, middle - low))
    per_model = math.prod(sizes) * _entries(first, second)
    if per_model > LARGEST:
        return None
    first, second, skip, exponent = _scaled(first, second, skip)
    count = max(1, LARGEST // 8 // per_model)
    values = []
    for i in range(0, len(first.kernel), count):
        part = slice(i, i + count)
        own = skip.of(part) if isinstance(skip, LinearMap) else skip
        symbols = block_symbols(
            first.of(part), second.of(part), own, sizes=sizes, exponent=exponent[part]
        )
        values.append(_minimise(symbols, middle[part], radius[part]))
    return ulps.unscaled_up(torch.cat(values), exponent)


def certificate(symbols: Symbols, log_d: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
    """Certified largest eigenvalue over the frequencies: float64 (models,), infinite if none.

    Errors of the symbols enter each block by |A B - A' B'| <= |A - A'| |B| + |A'| |B - B'|, those
    of the complex products by 2 gamma(2 k + 16) times the product of the Frobenius norms.
    """
    d = log_d.exp().repeat(1, symbols.repeats)[:, None, :, None]
    e1, e2, e0 = symbols.errors
    n1, n2, n0 = (
        torch.zeros_like(e0) if h is None else torch.linalg.vector_norm(h, dim=(-2, -1)).amax(1)
        for h in (symbols.first, symbols.second, symbols.skip)
    )
    low, high = d.amin((1, 2, 3)), d.amax((1, 2, 3))
    gamma = 2 * ulps.gamma(2 * max(*symbols.first.shape[2:], *symbols.second.shape[2:]) + 16)
    top = radius * high * (e1 * (2 * n1 + e1) + gamma * n1.square())
    bottom = radius / low * (e2 * (2 * n2 + e2) + gamma * n2.square())
    cross = e0 + gamma * n0 + middle.abs() * (e1 * n2 + e2 * n1 + e1 * e2 + gamma * n1 * n2)
    error = 2 * (torch.maximum(top, bottom) + cross)
    full = matrices(symbols, log_d, middle, radius)
    sound = full.isfinite().flatten(1).all(1) & error.isfinite()
    value = torch.full_like(radius, math.inf)
    if bool(sound.any()):
        parts = full[sound].split(max(1, _torus._CHUNK // full.shape[-1] ** 2), dim=1)
        largest = _torus.largest_eigenvalue(parts)
        value[sound] = ulps.round_up(largest.clamp_min(0.0) + error[sound], 2)
    return value


def _minimise(symbols: Symbols, middle: Tensor, radius: Tensor) -> Tensor:
    """Descend over log d, then certify the best one: float64 (models,)."""
    maps = [h for h in (symbols.first, symbols.second, symbols.skip) if h is not None]
    finite = torch.stack([h.isfinite().flatten(1).all(1) for h in maps]).all(0)
    if not bool(finite.all()):  # a skip connection of another order of magnitude
        value = torch.full_like(radius, math.inf)
        if bool(finite.any()):
            value[finite] = _minimise(_take(symbols, finite), middle[finite], radius[finite])
        return value
    best = start = _balanced(symbols)
    # Any multipliers give a bound. (torch.linalg offers the error, its types do not say so.)
    with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        best = _search(symbols, start, middle, radius)
    return certificate(symbols, best, middle, radius)


def _search(symbols: Symbols, start: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
    if symbols.size <= LARGE:
        return _descend(symbols, start, middle, radius, SCREENS)
    single = symbols.single()
    maps = [h for h in (single.first, single.second, single.skip) if h is not None]
    if not all(bool(h.isfinite().all()) for h in maps):
        return _descend(symbols, start, middle, radius, SCREENS_LARGE)
    start, middle, radius = (x.to(torch.float32) for x in (start, middle, radius))
    return _descend(single, start, middle, radius, SCREENS_LARGE).to(torch.float64)


def _descend(
    symbols: Symbols, log_d: Tensor, middle: Tensor, radius: Tensor, screens: int
) -> Tensor:
    """The best log d that Adam finds on a soft maximum of the leading eigenvalues."""
    best, best_value = log_d, torch.full_like(radius, math.inf)
    moments = [torch.zeros_like(log_d), torch.zeros_like(log_d)]
    for k in range(STEPS * screens + 1):
        if k % STEPS == 0:
            some = _screen(symbols, log_d, middle, radius)
            values, vectors = _leading(some, log_d, middle, radius, None)
            value = values.amax((1, 2))
            better = value < best_value
            best = torch.where(better[:, None], log_d, best)
            best_value = torch.where(better, value, best_value)
        if k == STEPS * screens or over():
            break
        gradient = _gradient(some, values, vectors, log_d, radius)
        step = 0.1 * 0.5 ** (k // STEPS)
        for i, power in enumerate((1, 2)):
            moments[i] = (0.8, 0.95)[i] * moments[i] + (0.2, 0.05)[i] * gradient**power
        scale = (moments[1] / (1 - 0.95 ** (k + 1))).sqrt() + 1e-12
        log_d = (log_d - step * moments[0] / (1 - 0.8 ** (k + 1)) / scale).clamp(-30.0, 30.0)
        values, vectors = _leading(some, log_d, middle, radius, vectors)
    return best


def _apply(
    symbols: Symbols,
    log_d: Tensor,
    middle: Tensor,
    radius: Tensor,
    vectors: Tensor,
    shift: Tensor | float,
) -> Tensor:
    """matrix @ vectors + shift vectors for vectors (models, F, p, k), the matrix is not formed."""
    d = log_d.exp().repeat(1, symbols.repeats)[:, None, :, None]
    r, m = radius[:, None, None, None], middle[:, None, None, None]
    h1, h2, h0 = symbols.first, symbols.second, symbols.skip
    a1, a2, a0 = symbols.adjoints
    v, w = vectors.split([h1.shape[-1], h2.shape[-2]], -2)
    one, two = h1 @ v, a2 @ w
    top, bottom = a1 @ (r * d * one + m * two), h2 @ (m * one + r / d * two)
    if h0 is not None:
        top, bottom = top + a0 @ w, bottom + h0 @ v
    return torch.cat([top, bottom], -2) + shift * vectors


def _shift(symbols: Symbols, log_d: Tensor, radius: Tensor) -> Tensor:
    """Largest diagonal entry (models, 1, 1, 1).

    |lambda_min| <= lambda_max here, and without a shift a mirrored spectrum would stall the
    power iteration.
    """
    d = log_d.exp().repeat(1, symbols.repeats)[:, None, :, None]
    first, second = symbols.squares
    top = (d.mT @ first).amax((1, 2, 3))
    bottom = (second @ (1 / d)).amax((1, 2, 3))
    return (radius * torch.maximum(top, bottom))[:, None, None, None] / 2


def _balanced(symbols: Symbols) -> Tensor:
    """log d that gives the channels equal shares in both diagonal blocks: (models, channels)."""
    rows = symbols.first.abs().square().sum((1, 3)).unflatten(1, (symbols.repeats, -1)).sum(1)
    columns = symbols.second.abs().square().sum((1, 2))
    columns = columns.unflatten(1, (symbols.repeats, -1)).sum(1)
    tiny = 1e-12 * torch.sqrt(rows.amax(1, keepdim=True) * columns.amax(1, keepdim=True)) + 1e-280
    ratio = ((columns + tiny) / (rows + tiny)).log() / 2
    return ratio.clamp(-30.0, 30.0)


def _screen(symbols: Symbols, log_d: Tensor, middle: Tensor, radius: Tensor) -> Symbols:
    """The frequencies that may attain the largest eigenvalue."""
    if symbols.first.shape[1] <= ACTIVE:
        return symbols
    vector, shift = _start(symbols, 1), _shift(symbols, log_d, radius)
    for _ in range(10):
        vector = _apply(symbols, log_d, middle, radius, vector, shift)
        length = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
        vector = vector / length.clamp_min(torch.finfo(length.dtype).tiny)
    return _pick(symbols, length[..., 0, 0].topk(ACTIVE, dim=1).indices)


def _start(symbols: Symbols, count: int) -> Tensor:
    """Random complex (models, F, p, count), the same on every call."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(symbols.size, count, 2, generator=generator, dtype=torch.float64)
    start = torch.view_as_complex(start).to(symbols.first)
    return start.expand(*symbols.first.shape[:2], -1, -1)


def _leading(
    symbols: Symbols, log_d: Tensor, middle: Tensor, radius: Tensor, vectors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Some leading eigenvalues (models, K, k) and vectors, from those of the last step."""
    if symbols.size <= 20:
        values, vectors = torch.linalg.eigh(matrices(symbols, log_d, middle, radius))
        return values[..., -4:], vectors[..., -4:]
    sweeps = 3
    if vectors is None:
        vectors, sweeps = _start(symbols, 5), 10
    shift = _shift(symbols, log_d, radius)
    for _ in range(sweeps):
        image = _apply(symbols, log_d, middle, radius, vectors, shift)
        vectors, _ = torch.linalg.qr(image)
    image = _apply(symbols, log_d, middle, radius, vectors, 0.0)
    values, rotation = torch.linalg.eigh(vectors.mH @ image)
    return values, vectors @ rotation


def _take(symbols: Symbols, models: Tensor) -> Symbols:
    e1, e2, e0 = (e[models] for e in symbols.errors)
    return replace(symbols.each(lambda h: h[models]), errors=(e1, e2, e0))


def _pick(symbols: Symbols, active: Tensor) -> Symbols:
    places = active[..., None, None]
    return symbols.each(lambda h: h.gather(1, places.expand(-1, -1, *h.shape[2:])))


def _gradient(
    symbols: Symbols, values: Tensor, vectors: Tensor, log_d: Tensor, radius: Tensor
) -> Tensor:
    """Gradient in log d of a soft maximum of the leading eigenvalues, relative: (models, C)."""
    top = values.amax((1, 2), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    weights = ((values / top - 1) / 2e-3).flatten(1).softmax(1).reshape(values.shape)
    inputs = symbols.first.shape[-1]
    d = log_d.exp().repeat(1, symbols.repeats)[:, None, :, None]
    one = (symbols.first @ vectors[..., :inputs, :]).abs().square() * d
    two = (symbols.adjoints[1] @ vectors[..., inputs:, :]).abs().square() / d
    change = ((one - two) * weights[..., None, :]).sum((1, 3))
    change = change.unflatten(1, (symbols.repeats, -1)).sum(1)
    return change * radius[:, None] / top[:, 0]

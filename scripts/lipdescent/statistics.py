"""Statistics of a study: bootstrap over seeds, rank correlation, peaks, interpolation threshold.

Plain NumPy, vectorised over leading axes. NaN stands for "no value" (a diverged model, a bound
that does not exist): it is left out wherever that is sound, and gives NaN where nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_POINTS = 3  # fewer points have a rank correlation of +-1 whatever they are


class Estimate(NamedTuple):
    """A value and its bootstrap interval; NaN where it cannot be estimated."""

    value: Array
    low: Array
    high: Array


def resample_seeds(num_seeds: int, *, resamples: int, generator: np.random.Generator) -> Array:
    """How often each resample draws each seed: float64 (resamples, num_seeds).

    The nonparametric bootstrap (Efron 1979): as many draws with replacement as there are seeds.
    """
    if num_seeds < 1 or resamples < 1:
        raise ValueError(
            f"num_seeds = {num_seeds}, resamples = {resamples}: both must be at least 1"
        )
    drawn = generator.integers(num_seeds, size=(resamples, num_seeds))
    counts = np.zeros((resamples, num_seeds))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1.0)
    return counts


def mean(values: Array) -> Array:
    """Mean over seeds, the last axis, of what is there: (..., num_seeds) -> (...)."""
    return resampled_means(values, np.ones((1, values.shape[-1])))[0]


def resampled_means(values: Array, counts: Array) -> Array:
    """Means over resampled seeds: (..., num_seeds) and (B, num_seeds) -> (B, ...).

    A resample that drew only absent values gives NaN.
    """
    there = np.isfinite(values)
    total = np.tensordot(counts, np.where(there, values, 0.0), axes=(1, -1))
    weight = np.tensordot(counts, there.astype(np.float64), axes=(1, -1))
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def interval(samples: Array, *, confidence: float, on_grid: bool = False) -> tuple[Array, Array]:
    """Percentile interval of bootstrap samples (B, ...) -> two arrays (...).

    Quantiles (1 -+ confidence)/2 of the samples that are there, by linear interpolation; with
    ``on_grid`` the ends are samples themselves (a width, not a number between two widths).
    """
    ordered = np.sort(samples, axis=0)  # NaN last
    last = np.isfinite(samples).sum(axis=0) - 1
    ends = []
    for level, direction in (((1 - confidence) / 2, np.floor), ((1 + confidence) / 2, np.ceil)):
        place = np.maximum(level * last, 0.0)
        below = (direction(place) if on_grid else np.floor(place)).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(last, 0))
        low = np.take_along_axis(ordered, below[None], axis=0)[0]
        high = np.take_along_axis(ordered, above[None], axis=0)[0]
        end = low if on_grid else low + (place - below) * (high - low)
        ends.append(np.where(last >= 0, end, np.nan))
    return ends[0], ends[1]


def estimate(value: Array, samples: Array, *, confidence: float, on_grid: bool = False) -> Estimate:
    """``value`` (...) with the interval of its bootstrap ``samples`` (B, ...).

    No interval (NaN) where there is no value, and none for samples that come of a single seed:
    pass an empty ``samples`` (0, ...) there.
    """
    value = np.asarray(value, dtype=np.float64)
    if len(samples) == 0:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    low, high = interval(samples, confidence=confidence, on_grid=on_grid)
    absent = ~np.isfinite(value)
    return Estimate(value, np.where(absent, np.nan, low), np.where(absent, np.nan, high))


def mean_estimate(values: Array, counts: Array, *, confidence: float) -> Estimate:
    """Mean over seeds with its bootstrap interval: (..., num_seeds) -> (...)."""
    counts = counts if values.shape[-1] > 1 else counts[:0]
    samples = resampled_means(values, counts)
    return estimate(mean(values), samples, confidence=confidence)


def pick(whole: Estimate, index: Any) -> Estimate:
    """The same index into value and interval."""
    return Estimate(*(part[index] for part in whole))


def ranks(values: Array) -> Array:
    """Ranks along the last axis from 1, ties at their mean rank, NaN where there is no value."""
    smaller = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return np.where(np.isfinite(values), smaller + (equal + 1) / 2, np.nan)


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rank correlation along the last axis: Pearson's of the ranks.

    Points where either is NaN are left out; NaN with fewer than 3 points or a constant side.
    """
    x, y, there = _paired(x, y)
    a, b = ranks(x), ranks(y)
    count = there.sum(-1, keepdims=True)
    centre = (count + 1) / 2
    a = np.where(there, a - centre, 0.0)
    b = np.where(there, b - centre, 0.0)
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return _ratio((a * b).sum(-1), np.where(count[..., 0] < MIN_POINTS, 0.0, scale))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b along the last axis (Kendall 1945), ties corrected.

    Points where either is NaN are left out; NaN with fewer than 3 points or a constant side.
    """
    x, y, there = _paired(x, y)
    pairs = there[..., :, None] & there[..., None, :]
    a = np.where(pairs, np.sign(x[..., :, None] - x[..., None, :]), 0.0)
    b = np.where(pairs, np.sign(y[..., :, None] - y[..., None, :]), 0.0)
    scale = np.sqrt((a * a).sum((-2, -1)) * (b * b).sum((-2, -1)))
    few = there.sum(-1) < MIN_POINTS
    return _ratio((a * b).sum((-2, -1)), np.where(few, 0.0, scale))


def correlation_over_width(
    correlation: Callable[[Array, Array], Array],
    x: Array,
    y: Array,
    counts: Array,
    *,
    confidence: float,
) -> Estimate:
    """Rank correlation over width of two means over seeds: (W, N, S) twice -> (N,).

    Seeds are resampled jointly for both. Models that only one side has are left out of both.
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(both, x, np.nan), np.where(both, y, np.nan)
    value = correlation(mean(x).T, mean(y).T)
    counts = counts if x.shape[-1] > 1 else counts[:0]
    drawn = (np.swapaxes(resampled_means(side, counts), -1, -2) for side in (x, y))
    return estimate(value, correlation(*drawn), confidence=confidence)


def peak_index(curve: Array) -> NDArray[np.int64]:
    """Place of the largest value along the last axis, the first of equals; -1 where all is NaN."""
    there = np.isfinite(curve)
    place = np.where(there, curve, -np.inf).argmax(-1)
    return np.where(there.any(-1), place, -1)


def peak_position(curve: Array, positions: Array) -> Array:
    """Where the largest value lies, such as the peak's width; NaN where there is none."""
    return _at(peak_index(curve), positions)


def peak_ratio(curve: Array) -> Array:
    """Largest value over the last one (the widest network's); NaN if either is not there."""
    largest = np.where(np.isfinite(curve), curve, -np.inf).max(-1)
    return _ratio(np.where(np.isfinite(largest), largest, np.nan), curve[..., -1])


def first_reaching(curve: Array, positions: Array, *, level: float) -> Array:
    """First position along the last axis at which ``curve`` is at least ``level``; NaN if none.

    With the mean train accuracy over widths: the interpolation threshold.
    """
    reached = curve >= level  # False for NaN
    return _at(np.where(reached.any(-1), reached.argmax(-1), -1), positions)


def _at(index: NDArray[np.int64], positions: Array) -> Array:
    found = np.asarray(positions, dtype=np.float64)[index]
    return np.where(index >= 0, found, np.nan)


def _paired(x: Array, y: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    there = np.isfinite(x) & np.isfinite(y)
    return np.where(there, x, np.nan), np.where(there, y, np.nan), there


def _ratio(above: Array, below: Array) -> Array:
    above, below = np.broadcast_arrays(above, below)
    out = np.full(above.shape, np.nan)
    return np.divide(above, below, out=out, where=np.isfinite(below) & (below != 0))

"""Statistics of a study: means over seeds and their intervals, rank correlation, peaks, thresholds.

Plain NumPy, vectorised over leading axes; seeds are the last axis. NaN stands for "no value" (a
diverged model, a bound that does not exist): it is left out wherever that is sound, and gives NaN
where nothing is left.

Intervals come of Student's t from four seeds on, of logarithms where the mean is a geometric one.
Fewer seeds, and what is not a mean (a width, a rank correlation), have the range over the seeds:
the smallest to the largest. Of n independent seeds it holds the median of all seeds with a
probability of at least 1 - 2^(1 - n), whatever the distribution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
# An axis of a study, or places along it: widths and epochs are integers, label noise is not.
Axis = NDArray[np.int64] | Array

MIN_POINTS = 3  # fewer points have a rank correlation of +-1 whatever they are
MIN_SEEDS = 4  # fewer have no interval but a range


class Estimate(NamedTuple):
    """A value and its interval or range over seeds; NaN where it cannot be estimated."""

    value: Array
    low: Array
    high: Array


def mean(values: Array) -> Array:
    """Mean over seeds of what is there: (..., S) -> (...)."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def geometric_mean(values: Array) -> Array:
    """Geometric mean over seeds of what is there, 0 if one is: (..., S) >= 0 -> (...)."""
    return np.exp(mean(logarithm(values)))


def mean_bracket(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Around the geometric mean over seeds of what lies between: (..., S) twice -> (...) twice.

    Rounding included: that of logarithms and exponentials, below 2e-13 for any double.
    """
    return geometric_mean(lower) * (1 - 1e-12), geometric_mean(upper) * (1 + 1e-12)


def logarithm(values: Array) -> Array:
    """Natural logarithm; -inf for 0.

    Raises
    ------
    ValueError
        If a value is negative.
    """
    if (values < 0).any():
        raise ValueError(f"{np.nanmin(values):g} has no logarithm: allowed are values from 0 on")
    with np.errstate(divide="ignore"):
        return np.log(values)


def has_logarithm(values: Array) -> bool:
    """Whether a quantity is compared by ratios: losses and bounds are, unless one is negative."""
    return not (values < 0).any()


def limits(values: Array, *, tail: float) -> tuple[Array, Array]:
    """Student's t limits of the mean over seeds, each missed with probability ``tail``.

    NaN where fewer than four seeds have a value, or one is infinite.
    """
    there = ~np.isnan(values)
    count, centre = there.sum(-1), mean(values)
    with np.errstate(invalid="ignore"):
        squares = np.where(there, (values - centre[..., None]) ** 2, 0.0).sum(-1)
    degrees = np.maximum(count - 1, 1)
    half = stdtrit(degrees, 1 - tail) * np.sqrt(squares / degrees / np.maximum(count, 1))
    half = np.where((count >= MIN_SEEDS) & np.isfinite(half), half, np.nan)
    return centre - half, centre + half


def spread(values: Array) -> tuple[Array, Array]:
    """Smallest and largest over seeds; NaN of fewer than two."""
    enough = (~np.isnan(values)).sum(-1) >= 2
    low = np.where(np.isnan(values), np.inf, values).min(-1)
    high = np.where(np.isnan(values), -np.inf, values).max(-1)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def mean_estimate(values: Array, *, confidence: float, geometric: bool = False) -> Estimate:
    """Mean over seeds with its interval, or with the range of fewer than four: (..., S) -> (...).

    Of a geometric mean both are those of the logarithms.
    """
    if geometric:
        return Estimate(*map(np.exp, mean_estimate(logarithm(values), confidence=confidence)))
    if values.shape[-1] < MIN_SEEDS:
        return Estimate(mean(values), *spread(values))
    return Estimate(mean(values), *limits(values, tail=(1 - confidence) / 2))


def share_estimate(values: Array, *, confidence: float) -> Estimate:
    """:func:`mean_estimate` of shares such as an accuracy, cut at 0 and 1: no mean lies beyond."""
    return within(mean_estimate(values, confidence=confidence), 0.0, 1.0)


def correlation_estimate(values: Array, *, confidence: float) -> Estimate:
    """The same of correlations, cut at -1 and 1."""
    return within(mean_estimate(values, confidence=confidence), -1.0, 1.0)


def within(found: Estimate, least: float, most: float = np.inf) -> Estimate:
    """An interval cut at what values can be: it misses no mean that it held."""
    return found._replace(low=np.maximum(found.low, least), high=np.minimum(found.high, most))


def centre(values: Array) -> Array:
    """Mean over seeds of a loss or a bound: geometric, or plain if one is negative."""
    return (geometric_mean if has_logarithm(values) else mean)(values)


def centre_estimate(values: Array, *, confidence: float) -> Estimate:
    """:func:`centre` with its interval or range."""
    return mean_estimate(values, confidence=confidence, geometric=has_logarithm(values))


def ratio_estimate(
    above: Array, below: Array, *, confidence: float, candidates: int = 1
) -> Estimate:
    """Ratio of two geometric means over the same seeds, (..., S) twice -> (...).

    Its logarithm is the mean of the seeds' own differences. An interval for the one of several
    ``candidates`` that looks largest misses as rarely as all of them together do (Bonferroni).
    """
    with np.errstate(invalid="ignore"):
        difference = logarithm(above) - logarithm(below)
    tails = (1 - confidence) / max(candidates, 1)
    return Estimate(*map(np.exp, mean_estimate(difference, confidence=1 - tails)))


def over_seeds(value: Array, each: Array) -> Estimate:
    """``value`` (...) with the range of what every seed alone gives, (..., S)."""
    low, high = spread(each)
    absent = np.isnan(value)
    return Estimate(value, np.where(absent, np.nan, low), np.where(absent, np.nan, high))


def held_by_range(num_seeds: int) -> float:
    """Least probability with which the range of so many seeds holds the median of all."""
    return max(0.0, 1 - 2.0 ** (1 - num_seeds))


def band_name(num_seeds: int, confidence: float) -> str:
    """What a band around a mean over so many seeds is; empty where there is none."""
    if num_seeds < 2:
        return ""
    if num_seeds < MIN_SEEDS:
        return f"bands: range over the {num_seeds} seeds"
    return f"bands: {100 * confidence:g} % intervals of the mean"


def pick(whole: Estimate, index: Any) -> Estimate:
    """The same index into value and interval."""
    return Estimate(*(part[index] for part in whole))


def ranks(values: Array) -> Array:
    """Ranks along the last axis from 1, ties at their mean rank, NaN where there is no value."""
    # Not at the top: scipy.stats takes 1 s, which figures without a rank correlation need not wait.
    from scipy.stats import rankdata

    there = np.isfinite(values)
    return np.where(there, rankdata(np.where(there, values, np.inf), axis=-1), np.nan)


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


def pearson(x: Array, y: Array) -> Array:
    """Pearson's linear correlation along the last axis; NaN where a side is constant."""
    a, b = (side - side.mean(-1, keepdims=True) for side in (x, y))
    return _ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


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
    correlation: Callable[[Array, Array], Array], x: Array, y: Array
) -> Estimate:
    """Rank correlation over width of every seed's own two curves: (W, N, S) twice -> (N,).

    The median over seeds with the range. Models that only one side has are left out of both.
    """
    each = correlation(*(np.moveaxis(side, 0, -1) for side in (x, y)))
    there = np.isfinite(each).any(-1)
    value = np.full(each.shape[:-1], np.nan)
    value[there] = np.nanmedian(each[there], axis=-1)
    return over_seeds(value, each)


def peak_index(curve: Array) -> NDArray[np.int64]:
    """Place of the largest value along the last axis, the first of equals; -1 where all is NaN."""
    there = np.isfinite(curve)
    place = np.where(there, curve, -np.inf).argmax(-1)
    return np.where(there.any(-1), place, -1)


def peak_position(curve: Array, positions: Axis) -> Array:
    """Where the largest value lies, such as the peak's width; NaN where there is none."""
    return _at(peak_index(curve), positions)


def first_reaching(curve: Array, positions: Axis, *, level: float) -> Array:
    """First position along the last axis at which ``curve`` is at least ``level``; NaN if none.

    With the mean train accuracy over widths: the interpolation threshold.
    """
    reached = curve >= level  # False for NaN
    return _at(np.where(reached.any(-1), reached.argmax(-1), -1), positions)


def _at(index: NDArray[np.int64], positions: Axis) -> Array:
    found = np.asarray(positions, dtype=np.float64)[index]
    return np.where(index >= 0, found, np.nan)


def _paired(x: Array, y: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    there = np.isfinite(x) & np.isfinite(y)
    return np.where(there, x, np.nan), np.where(there, y, np.nan), there


def _ratio(above: Array, below: Array) -> Array:
    above, below = np.broadcast_arrays(above, below)
    out = np.full(above.shape, np.nan)
    return np.divide(above, below, out=out, where=np.isfinite(below) & (below != 0))

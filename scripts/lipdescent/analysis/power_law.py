"""Power laws y = c x^b over width, epochs, ...: lines through logarithms, by least squares.

An exponent is a linear functional of log y whose weights depend on x alone: for a line by least
squares w_i = (log x_i - mean) / sum of squares, for the average exponent between the two ends
w = (-1, 0, ..., 0, 1) / log(x_P / x_1). So where y lies in a bracket, its exponent lies between the
sums that take the lower or the upper bound at each point by the sign of its weight: proved, for
every seed, with no assumption that y follows a power law.
"""

from typing import NamedTuple

import numpy as np

from lipdescent.analysis import statistics
from lipdescent.analysis.statistics import Array, Estimate

MIN_POINTS = 3  # two points have a line whatever they are
STRAIGHT = 1.1  # a mean curve within this factor of its line counts as straight
EPSILON = 2.0**-52


class Fit(NamedTuple):
    """A line through the logarithms of every seed's own curve.

    Attributes
    ----------
    exponent : mean of the seeds' least-squares exponents (that of their geometric mean), with its
        interval or range over seeds.
    average : the same of the exponent between the two ends alone, log(y_P / y_1) / log(x_P / x_1).
    r_squared : share of the variance of the mean logarithm that its line explains; NaN of a
        constant.
    """

    exponent: Estimate
    average: Estimate
    r_squared: float


class Range(NamedTuple):
    """What a bracket proves of an exponent: of its mean over these seeds, and beyond them.

    ``seeds_low`` and ``seeds_high`` are the outer ends of the intervals (ranges) over seeds of
    ``low`` and ``high``; NaN of one seed.
    """

    low: float
    high: float
    seeds_low: float
    seeds_high: float


def weights(x: Array) -> dict[str, Array]:
    """Weights (P,) of log y in the exponents ``least_squares`` and ``average``; x increases.

    Raises
    ------
    ValueError
        For fewer than two points, or x that are not positive and increasing.
    """
    x = np.asarray(x, dtype=np.float64)
    if len(x) < 2 or not (x[0] > 0 and (np.diff(x) > 0).all()):
        raise ValueError(f"x = {x.tolist()}: allowed are two and more increasing positive numbers")
    logs = _logarithms(x)
    centred = logs - logs.mean()
    ends = np.zeros(len(x))
    ends[[0, -1]] = -1, 1
    return {"least_squares": centred / (centred**2).sum(), "average": ends / logs[-1]}


def _logarithms(x: Array) -> Array:
    """log(x_i / x_1), each to a few ulps of itself, however close the x are."""
    return np.log1p((x - x[0]) / x[0])


def fit(x: Array, curves: Array, *, confidence: float) -> Fit:
    """Fit of curves (P, S) of positive numbers.

    Raises
    ------
    ValueError
        As :func:`weights`; for fewer than three points or curves that are not positive.
    """
    if len(x) < MIN_POINTS:
        raise ValueError(f"{len(x)} points: a fit needs {MIN_POINTS}")
    if not (np.isfinite(curves) & (curves > 0)).all():
        raise ValueError("a power law is of positive finite numbers")
    logs = np.log(curves)
    found = {
        name: statistics.mean_estimate(w @ logs, confidence=confidence)
        for name, w in weights(x).items()
    }
    curve = logs.mean(-1)
    centred, rest = curve - curve.mean(), _residuals(x, curve)
    whole = (centred**2).sum()
    # What rounding leaves of a constant's variance is none.
    flat = whole <= len(curve) * (1e-12 * (1 + np.abs(curve).max())) ** 2
    r_squared = np.nan if flat else float(1 - (rest**2).sum() / whole)
    return Fit(found["least_squares"], found["average"], r_squared)


def bracketed(x: Array, lower: Array, upper: Array, *, confidence: float) -> dict[str, Range]:
    """What brackets (P, S) prove of ``least_squares`` and ``average`` of what lies between.

    Rounded outwards. A lower bound of 0 proves nothing, the range is then infinite; inside, it
    leaves the average as it is.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(lower), np.log(upper)
    found = {}
    for name, w in weights(x).items():
        # Inside, the average has exact zeros; a line's weight of 0 may be a rounded one.
        used = (w != 0) | (name != "average")
        low, high = (side[used] for side in logs)
        w = w[used, None]
        slack = _slack(x, w, np.maximum(np.abs(low), np.abs(high)))
        with np.errstate(invalid="ignore"):  # 0 times infinity
            least = (w * np.where(w > 0, low, high)).sum(0) - slack
            most = (w * np.where(w > 0, high, low)).sum(0) + slack
        found[name] = _over_seeds(least, most, confidence)
    return found


def _slack(x: Array, w: Array, sizes: Array) -> Array:
    """What rounding can do to an exponent from logarithms of ``sizes`` (P, S), and their mean.

    With c_i = log(x_i / x_1) and eps = 2^-52 the centred c are off by at most (P + 6) eps c_P. The
    sum of their squares is at least c_P^2 / 2, so that every weight, itself at most c_P / sum, is
    off by at most 8 P^(1/2) (P + 6) eps c_P / sum. A logarithm, a product, their sum and the mean
    over seeds add (P + S + 6) eps of what is summed.
    """
    seeds = sizes.shape[1]
    logs = _logarithms(np.asarray(x, dtype=np.float64))
    largest = logs[-1] / ((logs - logs.mean()) ** 2).sum() + 1 / logs[-1]
    size = (np.abs(w) + largest) * (1 + np.where(np.isfinite(sizes), sizes, 0))
    return 8 * np.sqrt(len(x)) * (len(x) + seeds + 6) * EPSILON * size.sum(0)


def _over_seeds(least: Array, most: Array, confidence: float) -> Range:
    ends = least.mean(), most.mean()
    if not np.isfinite(ends).all():
        return Range(-np.inf, np.inf, -np.inf, np.inf)
    low, high = (statistics.mean_estimate(side, confidence=confidence) for side in (least, most))
    return Range(*map(float, (*ends, low.low, high.high)))


def is_straight(x: Array, curves: Array) -> bool:
    """Whether the geometric mean over seeds of (P, S) is within a factor 1.1 of its line."""
    rest = _residuals(x, np.log(curves).mean(-1))
    return bool((np.abs(rest) <= np.log(STRAIGHT)).all())


def _residuals(x: Array, logs: Array) -> Array:
    """Distances of log y (P,) from its line."""
    centred = np.log(x) - np.log(x).mean()
    rest = logs - logs.mean()
    return rest - (weights(x)["least_squares"] @ logs) * centred

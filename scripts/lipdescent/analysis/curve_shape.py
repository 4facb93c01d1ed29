"""Has a curve over width, or over epochs, a peak, and is it double descent? A test over seeds.

The largest of a few noisy values is nearly always inside of the grid, so where it lies says
nothing. A word is given only to what every step of it shows: Student's t over paired seeds, one
sided, with the error shared between all places where the step could have been (Bonferroni), as the
places are chosen by the same data. Curves of pure noise, and those that lack one of the steps, are
then called by a word in at most 1 - confidence of all cases.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipdescent.analysis import statistics
from lipdescent.analysis.statistics import Array

DOUBLE_DESCENT = "double descent"  # first > minimum < peak > last
ONE_PEAK = "one peak"  # first < peak > last
NO_PEAK = "no peak"  # neither is shown
UNKNOWN = "unknown"  # too few seeds or points


class Shape(NamedTuple):
    """What the seeds show of a curve.

    Attributes
    ----------
    verdict : one of the four words above.
    peak, minimum : places on the curve; -1 where there is none.
    rise, fall, descent : lower limits of the steps to the peak, from it to the last point and from
        the first point to the minimum, in the curve's unit; each holds with the confidence asked
        for, though its places were chosen by the same data.
    """

    verdict: str
    peak: int = -1
    minimum: int = -1
    rise: float = np.nan
    fall: float = np.nan
    descent: float = np.nan


def shape(curves: Array, *, confidence: float) -> Shape:
    """Shape of the mean of the seeds' curves, (P, S): logarithms of what is compared by ratios."""
    points = len(curves)
    if points < 3 or curves.shape[-1] < statistics.MIN_SEEDS:
        return Shape(UNKNOWN)
    found = _double_descent(curves, confidence)
    return found if found.verdict == DOUBLE_DESCENT else _one_peak(curves, confidence)


def _one_peak(curves: Array, confidence: float) -> Shape:
    """An inner point above both ends."""
    inner = np.arange(1, len(curves) - 1)
    tail = (1 - confidence) / len(inner)
    rise = _at_least(curves[inner], curves[:1], tail)
    fall = _at_least(curves[inner], curves[-1:], tail)
    shown = (rise > 0) & (fall > 0)
    if not shown.any():
        return Shape(NO_PEAK)
    best = _largest(curves[inner], shown)
    return Shape(ONE_PEAK, peak=int(inner[best]), rise=rise[best], fall=fall[best])


def _double_descent(curves: Array, confidence: float) -> Shape:
    """A point below the first one and, behind it, one above that and above the last one."""
    inner = np.arange(1, len(curves) - 1)
    low, high = (side.ravel() for side in np.meshgrid(inner, inner, indexing="ij"))
    low, high = low[low < high], high[low < high]
    if not len(low):
        return Shape(NO_PEAK)
    each, tail = len(inner) - 1, 1 - confidence
    descent = _at_least(curves[:1], curves[low], tail / each)
    rise = _at_least(curves[high], curves[low], tail / len(low))
    fall = _at_least(curves[high], curves[-1:], tail / each)
    shown = (descent > 0) & (rise > 0) & (fall > 0)
    if not shown.any():
        return Shape(NO_PEAK)
    peak = high[_largest(curves[high], shown)]
    best = _largest(-curves[low], shown & (high == peak))
    limits = (float(step[best]) for step in (rise, fall, descent))
    return Shape(DOUBLE_DESCENT, int(peak), int(low[best]), *limits)


def _at_least(above: Array, below: Array, tail: float) -> Array:
    """Lower limits of the mean differences over paired seeds, (K, S) -> (K,); -inf: none."""
    with np.errstate(invalid="ignore"):
        limit = statistics.limits(above - below, tail=tail)[0]
    return np.where(np.isnan(limit), -np.inf, limit)


def _largest(curves: Array, allowed: NDArray[np.bool_]) -> int:
    return int(np.where(allowed, statistics.mean(curves), -np.inf).argmax())

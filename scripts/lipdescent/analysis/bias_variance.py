"""The squared error over seeds in two parts, and bounds of one of them by Lipschitz constants.

Of networks f_s with constants C_s, their mean fbar with constant Cbar, any fixed x' and points x:

- the form of Khromov & Singh (2024, arXiv 2302.10886), put right: f_s(x) - fbar(x) is the sum of
  three differences, so E_x Var f <= 3 (Cbar^2 + mean C_s^2) E|x - x'|^2 + 3 Var f(x');
- sharper: the standard deviation over seeds of f_s(x) - f_s(x') is at most the root mean square of
  C_s times |x - x'|, so by Minkowski's inequality, over seeds and then over x,
  sqrt(E_x Var f) <= sqrt(Var f(x')) + rms(C_s) sqrt(E|x - x'|^2). It needs no Cbar.

Var is the mean over the seeds at hand (not S - 1), x' the better of the origin and the mean point.
Both bounds are rounded up; what they are made of is measured so.
"""

from typing import NamedTuple

import numpy as np

from lipdescent.analysis import ladder, statistics
from lipdescent.analysis.groups import Group, Series
from lipdescent.analysis.statistics import Array

REFERENCES = ("origin", "mean")


class Parts(NamedTuple):
    """Of every width, noise and epoch (W, N, E); NaN where it was not measured.

    Attributes
    ----------
    error, bias, variance : mean_s E|y - f_s|^2 and its two parts, which add up to it.
    each_error : the seeds' own terms of the error (W, N, E, S).
    sharper, certified : the two bounds of the variance above, with certified upper bounds for the
        constants; of Cbar the least of fbar's own bound and the mean of the seeds'.
    plug_in : the paper's estimate, no bound: lower bounds for the constants, and the square of the
        mean in place of the mean of squares.
    """

    error: Array
    bias: Array
    variance: Array
    each_error: Array
    sharper: Array
    certified: Array
    plug_in: Array


def parts(group: Group) -> Parts | None:
    """None where the study did not measure ``bias_variance``."""

    def measured(name: str, norm: str = "", split: str = "test") -> Array:
        nothing = np.full(group.diverged.shape, np.nan)
        return group.series.get(Series(name, "metric", norm, split), nothing)

    each_error, each_variance = measured("seed_square_error"), measured("seed_variance")
    if not np.isfinite(each_variance).any():
        return None
    upper, lower = (ladder.best(group, side, "l2") for side in ("upper", "lower"))
    own_upper = _any(measured("ensemble_upper_lipsdp", "l2", ""))
    own_lower = _any(measured("ensemble_lower_jacobian", "l2", "train"))
    # A mean of fewer constants than seeds bounds nothing.
    there = np.isfinite(each_variance)
    whole = (np.isfinite(upper) | ~there).all(-1)
    kept = np.where(there, upper, np.nan)
    square = np.where(whole, statistics.mean(kept**2), np.nan)
    mean_upper = np.where(whole, statistics.mean(kept), np.nan)
    ensemble = np.fmin(own_upper, mean_upper)
    lowest = statistics.mean(lower)
    plugged = np.where(np.isfinite(own_lower), own_lower, lowest) ** 2 + lowest**2
    found = []
    for x in REFERENCES:
        distance = _any(measured(f"mean_square_distance_from_{x}", "l2"))
        start = statistics.mean(measured(f"seed_variance_at_{x}"))
        found.append(
            (
                _up((np.sqrt(start) + np.sqrt(square * distance)) ** 2, upper.shape[-1]),
                _up(3 * (ensemble**2 + square) * distance + 3 * start, upper.shape[-1]),
                3 * plugged * distance + 3 * start,
            )
        )
    return Parts(
        statistics.mean(each_error),
        _any(measured("ensemble_square_error")),
        statistics.mean(each_variance),
        each_error,
        *(np.fmin(*pair) for pair in zip(*found, strict=True)),
    )


def _up(values: Array, seeds: int) -> Array:
    """At least the truth, of fewer than ``seeds`` + 16 roundings of numbers that are not negative.

    A mean over the seeds takes ``seeds``; sums, products and square roots one each.
    """
    return np.nextafter(values * (1 + (seeds + 16) * 2.0**-52), np.inf)


def _any(values: Array) -> Array:
    """What all seeds share, (..., S) -> (...)."""
    return np.fmax.reduce(values, axis=-1)

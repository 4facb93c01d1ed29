"""Effective model complexity: the largest number of training points that a training fits.

Nakkiran et al. (2020, arXiv 1912.02292, definition 1): the largest n at which the mean error on n
training points, by the labels trained on, is at most epsilon; they take .1.
"""

import numpy as np

from lipdescent.analysis import statistics
from lipdescent.analysis.statistics import Array

EPSILON = 0.1


def of_mean(sizes: Array, errors: Array) -> Array:
    """The largest of ``sizes`` (P,), increasing, at which the mean over seeds is at most epsilon.

    Errors are (P, ..., S). The true one is at least that, and below the next size, if none between
    was fitted. NaN where no size is fitted, or one diverged.
    """
    fitted = statistics.mean(errors) <= EPSILON
    last = len(sizes) - 1 - fitted[::-1].argmax(0)
    return np.where(fitted.any(0), np.asarray(sizes, dtype=np.float64)[last], np.nan)

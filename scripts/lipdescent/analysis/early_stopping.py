"""The best checkpoint of every network, and what it had."""

import numpy as np
from numpy.typing import NDArray

from lipdescent.analysis.statistics import Array


def best_epoch(losses: Array) -> NDArray[np.int64]:
    """Place of the least loss over the checkpoints, (W, N, E, S) -> (W, N, S).

    The first of equals; -1 for a network that diverged or lacks a value at some checkpoint.
    """
    whole = np.isfinite(losses).all(2)
    return np.where(whole, np.where(np.isfinite(losses), losses, np.inf).argmin(2), -1)


def at(values: Array, best: NDArray[np.int64]) -> Array:
    """Values (W, N, E, S) at each network's best checkpoint, (W, N, S); NaN where there is none."""
    found = np.take_along_axis(values, np.maximum(best, 0)[:, :, None], axis=2)[:, :, 0]
    return np.where(best >= 0, found, np.nan)


def positions(best: NDArray[np.int64], epochs: NDArray[np.int64]) -> Array:
    """The epochs themselves, (W, N, S); NaN where there is none."""
    return np.where(best >= 0, epochs[best], np.nan)

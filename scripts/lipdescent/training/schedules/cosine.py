"""Half a cosine from the base rate to a floor (Loshchilov & Hutter 2017)."""

import numpy as np


def factors(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, floor: float = 0.0
) -> np.ndarray:
    """From 1 to ``floor`` over the whole training along half a cosine (Loshchilov & Hutter)."""
    return floor + (1 - floor) * (1 + np.cos(np.pi * update / total_updates)) / 2

"""The base rate throughout."""

import numpy as np


def factors(update: np.ndarray, *, updates_per_epoch: int, total_updates: int) -> np.ndarray:
    """1 throughout."""
    return np.ones(len(update))

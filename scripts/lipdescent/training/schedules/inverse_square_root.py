"""The inverse square root of Nakkiran et al. (2020)."""

import numpy as np


def factors(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, every_updates: int = 512
) -> np.ndarray:
    """1 / sqrt(1 + floor(update / ``every_updates``)) of Nakkiran et al. (2020)."""
    return 1 / np.sqrt(1 + update // every_updates)

"""A small step every so many epochs: Cont100 of Khromov & Singh (2024)."""

import numpy as np


def factors(
    update: np.ndarray,
    *,
    updates_per_epoch: int,
    total_updates: int,
    factor: float = 0.95,
    every_epochs: int = 100,
    floor: float = 0.0,
) -> np.ndarray:
    """``factor`` every ``every_epochs`` epochs: Cont100 of Khromov & Singh (2024).

    ``floor`` is the smallest factor (their label-noise sweep stops at 1e-5 of learning rate).
    """
    return np.maximum(floor, factor ** ((update // updates_per_epoch) // every_epochs))

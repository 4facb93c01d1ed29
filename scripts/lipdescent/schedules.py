"""Learning-rate schedules: factor of the base rate at each update, by name.

Each function takes ``update`` (int64 array, 0 for the first), ``updates_per_epoch`` and
``total_updates``, and returns the float64 factors.
"""

from __future__ import annotations

import numpy as np


def constant(update: np.ndarray, *, updates_per_epoch: int, total_updates: int) -> np.ndarray:
    """1 throughout."""
    del updates_per_epoch, total_updates
    return np.ones(len(update))


def cosine(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, floor: float = 0.0
) -> np.ndarray:
    """From 1 to ``floor`` over the whole training along half a cosine (Loshchilov & Hutter)."""
    del updates_per_epoch
    return floor + (1 - floor) * (1 + np.cos(np.pi * update / total_updates)) / 2


def warmup_step(
    update: np.ndarray,
    *,
    updates_per_epoch: int,
    total_updates: int,
    warmup_updates: int = 20_000,
    factor: float = 0.75,
    step_epochs: int = 2_500,
) -> np.ndarray:
    """Linear warm-up, then ``factor`` every ``step_epochs``: W20000S25 of Khromov & Singh (2024).

    The defaults are theirs: 20,000 warm-up updates, then x0.75 at each quarter of 10,000 epochs.
    """
    del total_updates
    warm = np.minimum(1.0, (update + 1) / max(1, warmup_updates))
    return warm * factor ** ((update // updates_per_epoch) // step_epochs)


def continuous_decay(
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
    del total_updates
    return np.maximum(floor, factor ** ((update // updates_per_epoch) // every_epochs))


def inverse_square_root(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, every_updates: int = 512
) -> np.ndarray:
    """1 / sqrt(1 + floor(update / ``every_updates``)) of Nakkiran et al. (2020)."""
    del updates_per_epoch, total_updates
    return 1 / np.sqrt(1 + update // every_updates)


def warmup(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, warmup_epochs: float = 5
) -> np.ndarray:
    """Linear warm-up over ``warmup_epochs``, then 1 (the example run of Gamba et al. 2023)."""
    del total_updates
    return np.minimum(1.0, (update + 1) / max(1, warmup_epochs * updates_per_epoch))


def warmup_cosine(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, warmup_epochs: float = 5
) -> np.ndarray:
    """Linear warm-up over ``warmup_epochs``, then half a cosine to 0."""
    warm = min(warmup_epochs * updates_per_epoch, total_updates - 1)
    rest = (update - warm) / max(1, total_updates - warm)
    cosine_part = (1 + np.cos(np.pi * np.clip(rest, 0, 1))) / 2
    return np.where(update < warm, (update + 1) / max(1, warm), cosine_part)

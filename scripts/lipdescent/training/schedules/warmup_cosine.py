"""Linear warm-up, then half a cosine to 0."""

import numpy as np


def factors(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, warmup_epochs: float = 5
) -> np.ndarray:
    """Linear warm-up over ``warmup_epochs``, then half a cosine to 0."""
    warm = min(warmup_epochs * updates_per_epoch, total_updates - 1)
    rest = (update - warm) / max(1, total_updates - warm)
    cosine_part = (1 + np.cos(np.pi * np.clip(rest, 0, 1))) / 2
    return np.where(update < warm, (update + 1) / max(1, warm), cosine_part)

"""Linear warm-up, then steps: W20000S25 of Khromov & Singh (2024)."""

from __future__ import annotations

import numpy as np


def factors(
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

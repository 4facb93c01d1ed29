"""Linear warm-up, then the base rate (the example run of Gamba et al. 2023)."""

import numpy as np


def factors(
    update: np.ndarray, *, updates_per_epoch: int, total_updates: int, warmup_epochs: float = 5
) -> np.ndarray:
    """Linear warm-up over ``warmup_epochs``, then 1 (the example run of Gamba et al. 2023)."""
    return np.minimum(1.0, (update + 1) / max(1, warmup_epochs * updates_per_epoch))

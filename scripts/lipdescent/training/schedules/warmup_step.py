"""Linear warm-up, then a few steps: W20000S25 of Khromov & Singh (2024)."""

import numpy as np


def factors(
    update: np.ndarray,
    *,
    updates_per_epoch: int,
    total_updates: int,
    warmup_updates: int = 20_000,
    factor: float = 0.75,
    step_epochs: int = 2_500,
    drops: int = 3,
) -> np.ndarray:
    """Linear warm-up, then ``factor`` every ``step_epochs``: W20000S25 of Khromov & Singh (2024).

    The defaults are theirs: from 1/20,000 to 1 in 20,000 updates, then x0.75 at 25, 50 and 75 % of
    10,000 epochs, which are counted from the end of the warm-up; after ``drops`` steps the rate
    stays what it is.
    """
    warm = np.minimum(1.0, (update + 1) / max(1, warmup_updates))
    steps = (update - warmup_updates) // (step_epochs * updates_per_epoch)
    return warm * factor ** np.clip(steps, 0, drops)

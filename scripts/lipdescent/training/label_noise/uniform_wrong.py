"""A fixed number of labels moves to another class (Gamba et al. 2023)."""

import numpy as np

from lipdescent.training.label_noise import another_class, random


def noisy(labels: np.ndarray, *, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Exactly round(n * fraction) labels move to another class (Gamba et al. 2023)."""
    draws = random("fixed_count_flip", seed)
    chosen = draws.permutation(len(labels))[: round(len(labels) * fraction)]
    wrong = another_class(labels, num_classes, draws)
    noisy = labels.copy()
    noisy[chosen] = wrong[chosen]
    return noisy

"""Each label is wrong with a probability (Nakkiran et al. 2020)."""

import numpy as np

from lipdescent.training.label_noise import another_class, random


def noisy(labels: np.ndarray, *, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Each label is wrong with probability ``fraction`` (Nakkiran et al. 2020)."""
    draws = random("bernoulli_flip", seed)
    chosen = draws.random(len(labels)) < fraction
    return np.where(chosen, another_class(labels, num_classes, draws), labels)

"""Each label is redrawn among all classes with a probability (MNIST1D's notebook)."""

import numpy as np

from lipdescent.training.label_noise import random


def noisy(labels: np.ndarray, *, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """With probability ``fraction`` a label is redrawn among all classes (MNIST1D's notebook)."""
    draws = random("bernoulli_uniform", seed)
    chosen = draws.random(len(labels)) < fraction
    return np.where(chosen, draws.integers(0, num_classes, len(labels)), labels)

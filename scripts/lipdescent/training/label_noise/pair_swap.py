"""Disjoint pairs exchange labels (Khromov & Singh 2024)."""

import numpy as np

from lipdescent.training.label_noise import count_down, random


def noisy(labels: np.ndarray, *, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Disjoint pairs exchange labels (Khromov & Singh 2024): the class histogram is kept.

    floor(n * fraction) // 2 pairs of one permutation that is the same for every seed. Partners of
    one class exchange equal labels, so about 0.9 * fraction of them change with 10 even classes.
    """
    order = random("pair_swap").permutation(len(labels))
    count = int(count_down(len(labels), fraction)) // 2
    pairs = order[: 2 * count].reshape(count, 2)
    noisy = labels.copy()
    noisy[pairs[:, 0]], noisy[pairs[:, 1]] = labels[pairs[:, 1]], labels[pairs[:, 0]]
    return noisy

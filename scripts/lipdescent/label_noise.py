"""Makers of label noise, each as its paper does it. They differ: name the one a study uses.

All take int64 ``labels`` (n,), ``fraction`` in [0, 1] and ``seed``, return a noisy copy, and are
nested: a label wrong at a fraction keeps its wrong class at every larger fraction.
"""

from __future__ import annotations

import numpy as np

from lipdescent.seeding import seed_of


def pair_swap(labels: np.ndarray, *, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Disjoint pairs exchange labels (Khromov & Singh 2024): the class histogram is kept.

    floor(n * fraction) // 2 pairs of one permutation that is the same for every seed. Partners of
    one class exchange equal labels, so about 0.9 * fraction of them change with 10 even classes.
    """
    del num_classes, seed
    order = _random("pair_swap").permutation(len(labels))
    count = int(_count_down(len(labels), fraction)) // 2
    pairs = order[: 2 * count].reshape(count, 2)
    noisy = labels.copy()
    noisy[pairs[:, 0]], noisy[pairs[:, 1]] = labels[pairs[:, 1]], labels[pairs[:, 0]]
    return noisy


def uniform_wrong(
    labels: np.ndarray, *, num_classes: int, fraction: float, seed: int
) -> np.ndarray:
    """Exactly round(n * fraction) labels move to another class (Gamba et al. 2023)."""
    random = _random("fixed_count_flip", seed)
    chosen = random.permutation(len(labels))[: round(len(labels) * fraction)]
    wrong = _another_class(labels, num_classes, random)
    noisy = labels.copy()
    noisy[chosen] = wrong[chosen]
    return noisy


def bernoulli_wrong(
    labels: np.ndarray, *, num_classes: int, fraction: float, seed: int
) -> np.ndarray:
    """Each label is wrong with probability ``fraction`` (Nakkiran et al. 2020)."""
    random = _random("bernoulli_flip", seed)
    chosen = random.random(len(labels)) < fraction
    return np.where(chosen, _another_class(labels, num_classes, random), labels)


def bernoulli_uniform(
    labels: np.ndarray, *, num_classes: int, fraction: float, seed: int
) -> np.ndarray:
    """With probability ``fraction`` a label is redrawn among all classes (MNIST1D's notebook)."""
    random = _random("bernoulli_uniform", seed)
    chosen = random.random(len(labels)) < fraction
    return np.where(chosen, random.integers(0, num_classes, len(labels)), labels)


def _random(*key: object) -> np.random.Generator:
    # Another key is another draw: these stay as they are, whatever the makers are called.
    return np.random.default_rng(seed_of("label_noise", *key))


def _another_class(labels: np.ndarray, num_classes: int, random: np.random.Generator) -> np.ndarray:
    return (labels + random.integers(1, num_classes, len(labels))) % num_classes


def _count_down(n: int, fraction: float) -> float:
    # 1000 * 0.29 is 289.99...: floor would lose one without the margin.
    return np.floor(n * fraction + 1e-9)

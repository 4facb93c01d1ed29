"""Makers of label noise, one file each, as their papers do it. They differ: name the one in use.

``noisy(labels, *, num_classes, fraction, seed)`` takes int64 ``labels`` (n,), ``fraction`` in
[0, 1] and ``seed``, and returns a noisy copy. All are nested: a label wrong at a fraction keeps its
wrong class at every larger fraction.
"""

import numpy as np

from lipdescent.stacks.seeding import seed_of


def random(*key: object) -> np.random.Generator:
    """Draws of a maker. Another key is another draw: it stays, whatever the makers are called."""
    return np.random.default_rng(seed_of("label_noise", *key))


def another_class(labels: np.ndarray, num_classes: int, draws: np.random.Generator) -> np.ndarray:
    """A wrong class for every label, each as likely."""
    return (labels + draws.integers(1, num_classes, len(labels))) % num_classes


def count_down(n: int, fraction: float) -> float:
    """floor(n * fraction), where 1000 * 0.29 counts as 290 and not as 289.99..."""
    return np.floor(n * fraction + 1e-9)

"""What a noise maker's file offers. tests/training/label_noise/test_contract.py asks every one."""

from typing import Protocol

import numpy as np


class LabelNoisePlugin(Protocol):
    """A module ``training/label_noise/NAME.py``."""

    def noisy(
        self, labels: np.ndarray, *, num_classes: int, fraction: float, seed: int
    ) -> np.ndarray:
        """A noisy copy of ``labels``, int64 (n,) in 0..num_classes-1 as they are.

        ``fraction`` is in [0, 1], nothing changes at 0. Nested: what is wrong at a fraction keeps
        its wrong class at every larger one. Drawn from ``seed`` alone
        (:func:`lipdescent.training.label_noise.random`).
        """
        ...

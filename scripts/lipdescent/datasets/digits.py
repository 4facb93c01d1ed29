"""scikit-learn's digits: 1797 grey 8 x 8 images (the test part of UCI's optdigits), 10 classes.

They come without a division: here the first 1400 of a fixed permutation are for training.
"""

import numpy as np

from lipdescent.datasets import Dataset
from lipdescent.datasets._images import Normalisation, prepare

INPUT_SHAPE = (1, 8, 8)
NUM_TRAIN = 1400
NUM_TEST = 397
NUM_CLASSES = 10


def load(
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    normalise: Normalisation = "channel",
) -> Dataset:
    """``num_train`` of the 1400 and ``num_test`` of the 397 images, drawn by ``seed``.

    ``normalise`` is "channel" (zero mean and unit variance over the training set) or "none"
    ([0, 1]); a ValueError names it otherwise.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.images[order][:, None], digits.target[order]
    return prepare(
        (images[:NUM_TRAIN], labels[:NUM_TRAIN], images[NUM_TRAIN:], labels[NUM_TRAIN:]),
        num_classes=NUM_CLASSES,
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        normalise=normalise,
        brightest=16.0,
    )

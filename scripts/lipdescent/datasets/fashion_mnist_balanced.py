"""Fashion-MNIST with as many training images of every class, for studies of few images."""

from pathlib import Path

import numpy as np

from lipdescent.datasets import Dataset, fashion_mnist
from lipdescent.datasets._images import Normalisation

INPUT_SHAPE = (1, 28, 28)
NUM_TRAIN = 60_000
NUM_TEST = 10_000
NUM_CLASSES = 10


def load(
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    download: bool = True,
    normalise: Normalisation = "channel",
    image_size: int | None = None,
) -> Dataset:
    """As :func:`lipdescent.datasets.fashion_mnist.load`, training images class by class in turn.

    Classes have equally many of the ``num_train`` images, up to one, as long as there are enough.
    """
    whole = fashion_mnist.load(
        num_test=num_test,
        seed=seed,
        data_dir=data_dir,
        download=download,
        normalise=normalise,
        image_size=image_size,
    )
    order = np.random.default_rng(seed).permutation(len(whole.train_labels))
    labels = whole.train_labels[order]
    turn = np.empty(len(labels), dtype=np.int64)  # place of an image among those of its class
    for label in range(NUM_CLASSES):
        turn[labels == label] = np.arange((labels == label).sum())
    order = order[np.argsort(turn, kind="stable")]
    count = len(order) if num_train is None else num_train
    if not 1 <= count <= len(order):
        raise ValueError(f"num_train = {num_train}: allowed are 1 to {len(order)}")
    index = np.sort(order[:count])
    return Dataset(
        whole.train_inputs[index],
        whole.train_labels[index],
        whole.test_inputs,
        whole.test_labels,
        NUM_CLASSES,
    )

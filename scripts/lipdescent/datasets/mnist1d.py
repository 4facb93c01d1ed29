"""MNIST1D (Greydanus & Kobak 2024, arXiv 2011.14439), made by the ``mnist1d`` package.

4000 training and 1000 test points of 40 features, 10 classes; deterministic by its own seed.
"""

import contextlib
import io
import random
from collections.abc import Iterator

import numpy as np

from lipdescent.datasets import Dataset, take

INPUT_SHAPE = (40,)
NUM_TRAIN = 4000
NUM_TEST = 1000
NUM_CLASSES = 10


def load(
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    order_seed: int | None = None,
) -> Dataset:
    """``num_train`` of the 4000 and ``num_test`` of the 1000 points, subsets drawn by ``seed``.

    ``order_seed`` permutes the training points by NumPy's older generator, as the code of Khromov &
    Singh (2024) does with seed 42: batches in a fixed order then hold other points.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    with contextlib.redirect_stdout(io.StringIO()), _generators_kept():
        data = make_dataset(get_dataset_args())
    train = take(data["x"], data["y"], num_train, seed=seed, what="num_train")
    if order_seed is not None:
        order = np.random.RandomState(order_seed).permutation(len(train[1]))
        train = train[0][order], train[1][order]
    test = take(data["x_test"], data["y_test"], num_test, seed=seed, what="num_test")
    return Dataset(
        train_inputs=train[0].astype(np.float32),
        train_labels=train[1].astype(np.int64),
        test_inputs=test[0].astype(np.float32),
        test_labels=test[1].astype(np.int64),
        num_classes=NUM_CLASSES,
    )


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """The package seeds the global generators of Python and NumPy; they are as before after it."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002

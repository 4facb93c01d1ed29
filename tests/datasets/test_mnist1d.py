"""MNIST1D, made twice: the same points, and in another order NumPy's order of them."""

import numpy as np

from lipdescent.datasets import mnist1d


def test_the_order_is_numpys_and_only_of_the_training_points():
    plain, ordered = (mnist1d.load(order_seed=seed) for seed in (None, 42))
    np.random.seed(42)  # noqa: NPY002  the authors' way
    places = np.random.permutation(4000)  # noqa: NPY002
    np.testing.assert_array_equal(ordered.train_inputs, plain.train_inputs[places])
    np.testing.assert_array_equal(ordered.train_labels, plain.train_labels[places])
    np.testing.assert_array_equal(ordered.test_inputs, plain.test_inputs)

"""Equally many images of every class, and nothing else than Fashion-MNIST's."""

import numpy as np
import pytest
from image_files import write_mnist

from lipdescent.datasets import fashion_mnist, fashion_mnist_balanced


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch, counts=(400, 20), modules=(fashion_mnist,))
    return {"data_dir": tmp_path, "download": False}


@pytest.mark.parametrize("num_train", [10, 95, 200])
def test_classes_have_equally_many(folder, num_train):
    data = fashion_mnist_balanced.load(num_train=num_train, **folder)
    counts = np.bincount(data.train_labels, minlength=10)
    assert counts.sum() == num_train
    assert counts.max() - counts.min() == (num_train % 10 > 0)
    whole = fashion_mnist.load(**folder)
    pairs = {(x.tobytes(), y) for x, y in zip(whole.train_inputs, whole.train_labels, strict=True)}
    own = {(x.tobytes(), y) for x, y in zip(data.train_inputs, data.train_labels, strict=True)}
    assert own <= pairs
    assert len(own) == num_train


def test_all_of_them_are_fashion_mnist(folder):
    assert (
        fashion_mnist_balanced.load(**folder).checksum() == fashion_mnist.load(**folder).checksum()
    )

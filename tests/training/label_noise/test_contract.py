"""Every label-noise maker keeps the contract of training/label_noise/_contract.py."""

import contracts
import numpy as np
import pytest

from lipdescent.training.label_noise._contract import LabelNoisePlugin

MAKERS = contracts.plugins("label_noise")
LABELS = np.arange(1000) % 10
every_maker = pytest.mark.parametrize("name", MAKERS)


def make(name: str, fraction: float, seed: int = 0) -> np.ndarray:
    labels = LABELS.copy()
    with contracts.no_global_draws():
        noisy = MAKERS[name].noisy(labels, num_classes=10, fraction=fraction, seed=seed)
    assert np.array_equal(labels, LABELS)
    assert not np.shares_memory(noisy, labels)
    return noisy


@every_maker
def test_signature(name):
    contracts.check(MAKERS[name], LabelNoisePlugin)
    assert contracts.needed(MAKERS[name].noisy) == ["num_classes", "fraction", "seed"]


@every_maker
@pytest.mark.parametrize("fraction", [0.0, 0.35, 1.0])
def test_labels_stay_labels_and_the_same_seed_gives_the_same(name, fraction):
    noisy = make(name, fraction, seed=3)
    assert (noisy.shape, noisy.dtype) == (LABELS.shape, np.int64)
    assert 0 <= noisy.min() <= noisy.max() < 10
    assert np.array_equal(noisy, make(name, fraction, seed=3))
    assert np.array_equal(noisy, LABELS) == (fraction == 0)


@every_maker
def test_noise_is_nested(name):
    few, many = make(name, 0.2), make(name, 0.6)
    wrong = few != LABELS
    assert wrong.any()
    assert np.array_equal(many[wrong], few[wrong])

import numpy as np
import pytest

from lipdescent.plugins import lookup
from lipdescent.training.label_noise import uniform_wrong

LABELS = np.arange(1000) % 10
MAKERS = lookup.known("label_noise")


def make(name, fraction, seed=0, labels=LABELS):
    function = lookup.resolve("label_noise", name).noisy
    return function(labels, num_classes=10, fraction=fraction, seed=seed)


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"pair_swap"}))
def test_seeds_differ(name):
    assert not np.array_equal(make(name, 0.3, seed=0), make(name, 0.3, seed=1))


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.29, 1.0])
def test_uniform_wrong_moves_exactly_that_many(fraction):
    assert (make("uniform_wrong", fraction) != LABELS).sum() == round(1000 * fraction)


def test_pair_swap_keeps_the_histogram_and_changes_nine_tenths():
    noisy = make("pair_swap", 0.4)
    assert np.array_equal(np.bincount(noisy), np.bincount(LABELS))
    assert abs((noisy != LABELS).mean() - 0.36) < 0.02
    assert np.array_equal(noisy, make("pair_swap", 0.4, seed=7))  # the same for all seeds


def test_bernoulli_wrong_is_always_wrong_and_binomial():
    wrong = (make("bernoulli_wrong", 0.3) != LABELS).sum()
    assert abs(wrong - 300) < 4 * np.sqrt(1000 * 0.3 * 0.7)
    assert (make("bernoulli_wrong", 1.0) != LABELS).all()


def test_bernoulli_uniform_keeps_a_tenth_of_the_redrawn():
    wrong = (make("bernoulli_uniform", 1.0) != LABELS).mean()
    assert abs(wrong - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 1000)


def test_another_class_is_uniform_over_the_wrong_ones():
    noisy = uniform_wrong.noisy(
        np.zeros(9000, dtype=np.int64), num_classes=10, fraction=1.0, seed=0
    )
    counts = np.bincount(noisy, minlength=10)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 1000).max() < 150

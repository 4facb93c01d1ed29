"""The best checkpoint of curves that are written out."""

import numpy as np

from lipdescent.analysis import early_stopping

EPOCHS = np.array([0, 10, 100])
# (W, N, E, S): one width and noise, three checkpoints, four networks.
LOSSES = np.array([[3.0, 1.0, 2.0, np.nan], [1.0, 2.0, 2.0, 1.0], [2.0, 0.5, 5.0, 2.0]])[None, None]


def test_the_first_least_loss_is_the_best_and_what_lacks_a_value_has_none():
    best = early_stopping.best_epoch(LOSSES)
    assert best.tolist() == [[[1, 2, 0, -1]]]
    np.testing.assert_array_equal(early_stopping.positions(best, EPOCHS), [[[10, 100, 0, np.nan]]])
    np.testing.assert_array_equal(early_stopping.at(LOSSES, best), [[[1.0, 0.5, 2.0, np.nan]]])
    np.testing.assert_array_equal(
        early_stopping.at(-10 * LOSSES, best), [[[-10.0, -5.0, -20.0, np.nan]]]
    )

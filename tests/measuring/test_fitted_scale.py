"""The loss at a fitted scale against the minimiser of SciPy, one model at a time."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from lipdescent.measuring import fitted_scale


def draws(generator, models=6, points=41, classes=4, spread=2.0):
    labels = torch.randint(classes, (models, points), generator=generator)
    own = torch.nn.functional.one_hot(labels, classes)
    noise = torch.randn(models, points, classes, generator=generator, dtype=torch.float64)
    return spread * (noise + own), labels


def mean_loss(beta, logits, labels):
    return -log_softmax(beta * logits, axis=-1)[np.arange(len(labels)), labels].mean()


def test_each_half_is_judged_at_the_scale_that_scipy_finds_for_the_other(generator):
    logits, labels = draws(generator)
    found, beta = fitted_scale.calibrated(logits, labels)
    for model in range(len(logits)):
        z, y = logits[model].numpy(), labels[model].numpy()
        halves = [slice(0, None, 2), slice(1, None, 2)]
        best = [
            minimize_scalar(
                lambda b, h=half, z=z, y=y: mean_loss(b, z[h], y[h]), bounds=(0, 20),
                method="bounded", options={"xatol": 1e-10},
            ).x
            for half in halves
        ]  # fmt: skip
        there = [mean_loss(b, z[h], y[h]) for b, h in zip(best, halves[::-1], strict=True)]
        sizes = [len(y[half]) for half in halves[::-1]]
        assert float(found[model]) == pytest.approx(np.average(there, weights=sizes), rel=1e-7)
        assert float(beta[model]) == pytest.approx(np.mean(best), rel=1e-5)


@pytest.mark.parametrize("factor", [1e-6, 0.1, 30.0, 1e6])
def test_a_factor_of_all_logits_changes_the_scale_and_no_loss(generator, factor):
    logits, labels = draws(generator)
    loss, beta = fitted_scale.calibrated(logits, labels)
    other, other_beta = fitted_scale.calibrated(factor * logits, labels)
    torch.testing.assert_close(other, loss)
    torch.testing.assert_close(factor * other_beta, beta)


def test_logits_that_say_nothing_or_the_contrary_give_the_loss_of_chance(generator):
    logits, labels = draws(generator)
    chance = torch.full((6,), np.log(4), dtype=torch.float64)
    torch.testing.assert_close(fitted_scale.calibrated(torch.zeros_like(logits), labels)[0], chance)
    own = torch.nn.functional.one_hot(labels, 4).double()
    against, beta = fitted_scale.calibrated(-own, labels)
    torch.testing.assert_close(against, chance)
    assert beta.abs().max() < 1e-6


def test_points_that_are_all_right_have_a_loss_near_zero_and_a_finite_scale(generator):
    _, labels = draws(generator)
    own = torch.nn.functional.one_hot(labels, 4).float()
    loss, beta = fitted_scale.calibrated(own, labels)
    assert loss.max() < 1e-3
    assert torch.isfinite(beta).all()


def test_one_point_is_refused(generator):
    logits, labels = draws(generator, points=1)
    with pytest.raises(ValueError, match="1 points: two halves need two points"):
        fitted_scale.calibrated(logits, labels)


def test_a_scale_does_not_depend_on_the_other_models(generator):
    """Beside one that is all right, whose scale takes the most steps."""
    logits, labels = draws(generator)
    logits[0] = torch.nn.functional.one_hot(labels[0], 4)
    together = fitted_scale.calibrated(logits, labels)
    for model in range(len(logits)):
        alone = fitted_scale.calibrated(logits[model : model + 1], labels[model : model + 1])
        for all_of_them, one in zip(together, alone, strict=True):
            assert torch.equal(all_of_them[model : model + 1], one)

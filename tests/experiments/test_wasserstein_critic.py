"""Distance and errors of the mixture against SciPy's own, and samples of `temperature`."""

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from lipdescent.experiments import wasserstein_critic as critic
from lipdescent.experiments.temperature import RADIUS_LIMIT, mixture


def test_density_and_distribution_are_those_of_the_samples():
    x, y = mixture(20000, torch.Generator().manual_seed(0))
    p, q = x[y < 0].numpy(), x[y > 0].numpy()
    assert stats.kstest(p, critic.below).pvalue > 0.01
    assert stats.kstest(-q, critic.below).pvalue > 0.01
    for at in (-2.2, 0.0, 1.05):
        slope = (critic.below(at + 1e-5) - critic.below(at - 1e-5)) / 2e-5
        assert critic.density(at) == pytest.approx(slope, abs=1e-6)


def test_the_distance_is_the_area_between_the_distribution_functions():
    line = np.linspace(-5, 5, 20001)
    between = critic.below(line) - (1 - critic.below(-line))
    assert between.min() > -1e-12  # so the exact critic has the slope 1 everywhere
    area = integrate.trapezoid(np.abs(between), line)
    assert critic.distance() == pytest.approx(area, rel=1e-6)
    assert critic.distance() == pytest.approx(2 * RADIUS_LIMIT)


def test_exact_errors():
    found = critic.exact_errors()
    assert found["critic"] == pytest.approx(1 - critic.below(0.0), abs=1e-12)
    least, _ = integrate.quad(
        lambda x: min(critic.density(x), critic.density(-x)), -4, 4, limit=500,
        points=[-2, -1.3, -1, 0, 1, 1.3, 2],
    )  # fmt: skip
    assert found["bayes"] == pytest.approx(least / 2, rel=1e-5)

    def at(threshold):
        return (1 - critic.below(threshold) + 1 - critic.below(-threshold)) / 2

    best = optimize.minimize_scalar(at, bounds=(1, 2), method="bounded").fun
    assert found["critic_best_threshold"] == pytest.approx(best, rel=1e-5)


def test_errors_of_functions_on_the_line():
    line = critic.LINE
    right = np.where(critic.density(line) > critic.density(-line), -1.0, 1.0)
    found = critic.error(np.stack([line, -line, right]))
    exact = critic.exact_errors()
    expected = [exact["critic"], 1 - exact["critic"], exact["bayes"]]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_trained_critic_is_as_weak_as_the_exact_one():
    frame = critic.run(seeds=[0], taus=[64], steps=150)
    trained = frame[frame["what"] == "trained"].set_index("classifier")
    assert trained.loc["critic", "distance"] <= critic.distance() * (1 + 1e-6)
    assert trained.loc["critic", "distance"] > 0.99 * critic.distance()
    assert trained.loc["critic", "error"] == pytest.approx(0.1, abs=0.005)
    assert 0.0055 < trained.loc["cross_entropy", "error"] < 0.02
    assert (trained["certified_constant"] <= 1).all()


def test_a_temperature_is_positive():
    with pytest.raises(ValueError, match="tau = 0: allowed are positive numbers"):
        critic.run(taus=[0])

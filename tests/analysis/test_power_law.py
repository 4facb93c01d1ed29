"""Exponents against exact power laws, NumPy and SciPy; brackets against what they hold."""

import mpmath
import numpy as np
import pytest
from scipy.stats import linregress, t

from lipdescent.analysis import power_law

X = np.array([2.0, 3.0, 7.0, 20.0, 50.0])


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_an_exact_power_law_has_its_exponent_and_explains_all():
    for exponent in (-2.5, 0.4, 1.0):
        found = power_law.fit(X, 3 * X[:, None] ** exponent * [[1.0, 2.0]], confidence=0.95)
        assert found.exponent.value == pytest.approx(exponent, abs=1e-12)
        assert found.average.value == pytest.approx(exponent, abs=1e-12)
        assert found.r_squared == pytest.approx(1)
        assert power_law.is_straight(X, X[:, None] ** exponent)


def test_a_constant_has_exponent_zero_and_no_share_explained():
    found = power_law.fit(X, np.full((5, 1), 7.3), confidence=0.95)
    assert found.exponent.value == pytest.approx(0, abs=1e-12)
    assert np.isnan(found.r_squared)
    assert np.isnan(found.exponent.low)  # one seed


def test_one_seed_equals_scipy_and_numpy(random):
    y = np.exp(random.normal(size=5))
    found, theirs = power_law.fit(X, y[:, None], confidence=0.9), linregress(np.log(X), np.log(y))
    assert found.exponent.value == pytest.approx(theirs.slope)
    assert found.exponent.value == pytest.approx(np.polyfit(np.log(X), np.log(y), 1)[0])
    assert found.r_squared == pytest.approx(theirs.rvalue**2)
    assert found.average.value == pytest.approx(np.log(y[-1] / y[0]) / np.log(25))


def test_over_seeds_it_is_the_mean_of_their_exponents_with_students_interval(random):
    y = np.exp(random.normal(size=(5, 6)))
    found = power_law.fit(X, y, confidence=0.9)
    each = np.array([linregress(np.log(X), np.log(seed)).slope for seed in y.T])
    mean = linregress(np.log(X), np.log(y).mean(1))
    assert found.exponent.value == pytest.approx(each.mean())
    assert found.exponent.value == pytest.approx(mean.slope)
    assert found.r_squared == pytest.approx(mean.rvalue**2)
    ends = t.interval(0.9, 5, each.mean(), each.std(ddof=1) / np.sqrt(6))
    assert [found.exponent.low, found.exponent.high] == pytest.approx(ends)


def test_brackets_hold_every_curve_inside_and_their_ends_are_reached(random):
    lower = np.exp(random.normal(size=(5, 3)))
    upper = lower * np.exp(random.exponential(size=(5, 3)))
    found = power_law.bracketed(X, lower, upper, confidence=0.95)
    for _ in range(200):
        inside = lower * (upper / lower) ** random.choice([0, 1, random.uniform()], size=(5, 3))
        fit = power_law.fit(X, inside, confidence=0.95)
        for name, value in (("least_squares", fit.exponent), ("average", fit.average)):
            assert found[name].low <= value.value <= found[name].high
    # The steepest curve: the lower bound left of the mean of log x, the upper one right of it.
    right = (np.log(X) > np.log(X).mean())[:, None]
    steepest = power_law.fit(
        X, np.where(right, upper, lower), confidence=0.95
    ).exponent.value.item()
    flattest = power_law.fit(
        X, np.where(right, lower, upper), confidence=0.95
    ).exponent.value.item()
    line, ends = found["least_squares"], found["average"]
    assert (line.low, line.high) == pytest.approx((flattest, steepest))
    assert line.low < flattest  # rounded outwards
    assert line.high > steepest
    low = (np.log(lower[-1] / upper[0]) / np.log(25)).mean()
    high = (np.log(upper[-1] / lower[0]) / np.log(25)).mean()
    assert (ends.low, ends.high) == pytest.approx((low, high))
    assert ends.seeds_low < ends.low < ends.high < ends.seeds_high


def test_a_point_in_the_middle_has_no_say_in_the_average_exponent():
    lower, upper = np.ones((3, 1)), np.ones((3, 1))
    lower[1] = 0
    found = power_law.bracketed(np.array([1.0, 10, 100]), lower, upper, confidence=0.95)
    assert found["average"].low == pytest.approx(0, abs=1e-11)
    # A line's weight there is 0 to rounding only: nothing is proved.
    assert (found["least_squares"].low, found["least_squares"].high) == (-np.inf, np.inf)
    found = power_law.bracketed(np.array([1.0, 2, 100]), lower, upper, confidence=0.95)
    assert found["average"].high == pytest.approx(0, abs=1e-11)
    assert found["least_squares"][:2] == (-np.inf, np.inf)


def test_a_bend_of_more_than_a_factor_is_not_straight():
    x, bend = np.array([1.0, 10, 100]), np.array([1.0, 1, 1])
    # Residuals of (0, h, 0) are (-h/3, 2h/3, -h/3).
    for factor, straight in ((1.09, True), (1.11, False)):
        bend[1] = factor**1.5
        assert power_law.is_straight(x, bend[:, None]) is straight


@pytest.mark.parametrize(
    ("x", "curves", "said"),
    [
        (X[:2], np.ones((2, 1)), "2 points: a fit needs 3"),
        (X, np.zeros((5, 1)), "positive finite"),
        (X, np.full((5, 1), np.nan), "positive finite"),
        (X[::-1], np.ones((5, 1)), "increasing positive"),
        (X - 2, np.ones((5, 1)), "increasing positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x, curves, said):
    with pytest.raises(ValueError, match=said):
        power_law.fit(x, curves, confidence=0.95)


@pytest.mark.parametrize(
    "x",
    [X, 1e6 + np.arange(5), 500.0 + np.arange(5), 8e4 + 1e3 * np.arange(5), 2.0 ** np.arange(5)],
)
def test_ranges_are_rounded_outwards_however_close_the_points(random, x):
    """Against 60 digits: brackets of width 0 leave nothing but rounding."""
    with mpmath.workdps(60):
        logs = [mpmath.log(mpmath.mpf(value)) for value in x]
        mean = mpmath.fsum(logs) / len(x)
        square = mpmath.fsum((value - mean) ** 2 for value in logs)
        exact = {
            "least_squares": [(value - mean) / square for value in logs],
            "average": [w / (logs[-1] - logs[0]) for w in (-1, 0, 0, 0, 1)],
        }
        for size in (0.1, 1, 100):
            y = np.exp(size * random.normal(size=(5, 2)))
            found = power_law.bracketed(x, y, y, confidence=0.95)
            for name, weights in exact.items():
                each = [
                    mpmath.fsum(
                        w * mpmath.log(mpmath.mpf(v)) for w, v in zip(weights, own, strict=True)
                    )
                    for own in y.T
                ]
                truth = mpmath.fsum(each) / 2
                assert mpmath.mpf(found[name].low) <= truth <= mpmath.mpf(found[name].high)
                largest = max(abs(float(w)) for w in weights) * max(1, np.abs(np.log(y)).max())
                assert found[name].high - found[name].low <= 1e-11 * largest

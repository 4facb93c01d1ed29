"""Statistics against SciPy; intervals against the truth of made-up studies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lipdescent.analysis import statistics

short_lists = st.lists(st.integers(-4, 4), min_size=3, max_size=14)


def two_columns(draw_values):
    return st.tuples(draw_values, st.randoms(use_true_random=False))


@given(two_columns(short_lists))
def test_correlations_agree_with_scipy_also_with_ties(drawn):
    x, shuffler = drawn
    y = [shuffler.randint(-3, 3) for _ in x]
    constant = len(set(x)) == 1 or len(set(y)) == 1
    a, b = np.array(x, dtype=float), np.array(y, dtype=float)
    ours = statistics.spearman(a, b), statistics.kendall(a, b)
    if constant:
        assert np.isnan(ours).all()
        return
    theirs = stats.spearmanr(a, b).statistic, stats.kendalltau(a, b).statistic
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@given(two_columns(short_lists))
def test_ranks_agree_with_scipy(drawn):
    values = np.array(drawn[0], dtype=float)
    np.testing.assert_array_equal(statistics.ranks(values), stats.rankdata(values))


def test_correlations_leave_out_nan_pairs_and_need_three_points():
    x = np.array([1.0, 2, np.nan, 4, 5, 3])
    y = np.array([2.0, 1, 0, np.nan, 5, 4])
    kept = np.isfinite(x) & np.isfinite(y)
    assert statistics.spearman(x, y) == pytest.approx(stats.spearmanr(x[kept], y[kept]).statistic)
    assert statistics.kendall(x, y) == pytest.approx(stats.kendalltau(x[kept], y[kept]).statistic)
    assert np.isnan(statistics.spearman(x[:2], y[:2]))
    assert np.isnan(statistics.kendall(x[:2], y[:2]))


def test_correlations_over_leading_axes():
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(2, 5, 4, 9))
    for function, theirs in (
        (statistics.spearman, stats.spearmanr),
        (statistics.kendall, stats.kendalltau),
    ):
        expected = [[theirs(a, b).statistic for a, b in zip(*p)] for p in zip(x, y)]  # noqa: B905
        np.testing.assert_allclose(function(x, y), expected, atol=1e-12)


def coverage(estimates, truth):
    """Share of intervals that hold the truth; no interval counts as a miss."""
    with np.errstate(invalid="ignore"):
        return ((estimates.low <= truth) & (truth <= estimates.high)).mean()


@pytest.mark.parametrize("num_seeds", [4, 6, 12])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_of_means_and_ratios_cover_what_they_say(num_seeds, confidence):
    """4,000 made-up studies of a known truth; losses differ by their seeds by up to a third."""
    draws = np.random.default_rng(num_seeds)
    shape, close = (4000, num_seeds), {"abs": 0.02}
    means = statistics.mean_estimate(draws.normal(size=shape), confidence=confidence)
    assert coverage(means, 0) == pytest.approx(confidence, **close)
    common = draws.normal(size=shape)  # what the seeds share at both ends of a ratio
    losses, others = (
        level * np.exp(0.3 * common + 0.2 * draws.normal(size=shape)) for level in (3, 2)
    )
    found = statistics.centre_estimate(losses, confidence=confidence)
    assert coverage(found, 3) == pytest.approx(confidence, **close)
    found = statistics.ratio_estimate(losses, others, confidence=confidence)
    assert coverage(found, 1.5) == pytest.approx(confidence, **close)
    accuracy = draws.binomial(1000, 0.4 + 0.02 * common.clip(-3, 3)) / 1000
    assert coverage(
        statistics.mean_estimate(accuracy, confidence=confidence), 0.4
    ) == pytest.approx(confidence, **close)


@pytest.mark.parametrize("num_seeds", [4, 6, 12])
def test_the_interval_of_the_largest_ratio_covers_although_it_was_chosen(num_seeds):
    """Eight equal losses over the last one: the largest mean is too large."""
    draws = np.random.default_rng(num_seeds)
    losses = np.exp(0.2 * draws.normal(size=(4000, 9, num_seeds)))
    place = statistics.geometric_mean(losses)[:, :-1].argmax(-1)
    largest = losses[np.arange(4000), place]
    held = {
        count: coverage(
            statistics.ratio_estimate(largest, losses[:, -1], confidence=0.95, candidates=count), 1
        )
        for count in (1, 8)
    }
    assert held[8] >= 0.95
    assert held[1] < 0.93


@pytest.mark.parametrize("num_seeds", [2, 3, 4, 6])
def test_a_range_holds_the_median_as_often_as_is_said(num_seeds):
    draws = np.random.default_rng(num_seeds)
    for values, median in (
        (draws.exponential(size=(8000, num_seeds)), np.log(2)),
        (draws.choice([16, 24, 32], p=[0.3, 0.4, 0.3], size=(8000, num_seeds)), 24),
    ):
        found = statistics.over_seeds(np.median(values, axis=-1), values.astype(float))
        assert coverage(found, median) >= statistics.held_by_range(num_seeds) - 0.01
    assert statistics.held_by_range(6) == 1 - 2 / 2**6


def test_intervals_are_scipys():
    values = np.random.default_rng(0).normal(size=(3, 7))
    values[1, 2] = np.nan
    found = statistics.mean_estimate(values, confidence=0.9)
    for row, low, high in zip(values, found.low, found.high, strict=True):
        there = row[np.isfinite(row)]
        theirs = stats.ttest_1samp(there, 0).confidence_interval(0.9)
        assert (low, high) == pytest.approx((theirs.low, theirs.high))
    above, below = np.exp(values), np.exp(np.random.default_rng(1).normal(size=(3, 7)))
    ratio = statistics.ratio_estimate(above, below, confidence=0.9)
    paired = stats.ttest_rel(np.log(above[0]), np.log(below[0])).confidence_interval(0.9)
    assert (ratio.low[0], ratio.high[0]) == pytest.approx((np.exp(paired.low), np.exp(paired.high)))


def test_means_leave_out_what_is_absent():
    values = np.array([[1.0, 4.0, np.nan], [np.nan] * 3, [2.0, 0.0, 2.0]])
    np.testing.assert_array_equal(statistics.mean(values), [2.5, np.nan, 4 / 3])
    np.testing.assert_allclose(statistics.geometric_mean(values), [2, np.nan, 0])
    np.testing.assert_allclose(statistics.geometric_mean(values[0, :2]), stats.gmean(values[0, :2]))
    np.testing.assert_array_equal(statistics.centre(values - 2), [0.5, np.nan, -2 / 3])
    with pytest.raises(ValueError, match="-1 has no logarithm"):
        statistics.geometric_mean(values - 2 + (values == 0))


def test_the_bracket_of_a_mean_holds_it_to_the_last_digit():
    from mpmath import mp, mpf

    draws = np.random.default_rng(0)
    values = np.exp2(draws.uniform(-1000, 1000, size=(200, 6)))
    low, high = statistics.mean_bracket(values, values)
    with mp.workdps(40):
        for row, below, above in zip(values, low, high, strict=True):
            product = mpf(1)
            for value in row:
                product *= mpf(value)
            assert mpf(below) <= mp.root(product, 6) <= mpf(above)


def test_fewer_than_four_seeds_have_a_range_and_one_has_none():
    for geometric in (False, True):
        one, three = (
            statistics.mean_estimate(np.array(values), confidence=0.95, geometric=geometric)
            for values in ([[1.0], [2.0]], [[1.0, 2.0, 4.0]])
        )
        np.testing.assert_allclose(one.value, [1, 2])
        assert np.isnan([one.low, one.high]).all()
        np.testing.assert_allclose((three.low[0], three.high[0]), (1, 4))
    sparse = np.array([[1.0, 2.0, np.nan, np.nan]])  # three of four seeds or fewer: no interval
    found = statistics.mean_estimate(sparse, confidence=0.95)
    assert (found.value[0], np.isnan(found.low[0])) == (1.5, True)
    assert statistics.band_name(1, 0.95) == ""
    assert statistics.band_name(3, 0.95) == "bands: range over the 3 seeds"
    assert statistics.band_name(4, 0.95) == "bands: 95 % intervals of the mean"


def test_peaks_and_threshold():
    width = np.array([4, 8, 16, 32])
    curves = np.array([[1.0, 3, np.nan, 2], [np.nan] * 4, [1, 1, 5, 5], [4, 3, 2, np.nan]])
    np.testing.assert_array_equal(statistics.peak_position(curves, width), [8, np.nan, 16, 4])
    accuracy = np.array([[0.5, 0.99, 0.995, 1], [0.5, 0.6, 0.7, 0.8], [np.nan, 1, 0.9, 1]])
    np.testing.assert_array_equal(
        statistics.first_reaching(accuracy, width, level=0.995), [16, np.nan, 8]
    )


def test_correlation_over_width_is_of_every_seeds_own_curves():
    draws = np.random.default_rng(5)
    x, y = draws.normal(size=(2, 7, 2, 5))
    same = statistics.correlation_over_width(statistics.kendall, x, 3 * x)
    np.testing.assert_array_equal(same, np.ones((3, 2)))
    found = statistics.correlation_over_width(statistics.spearman, x, y)
    for noise in range(2):
        each = [
            stats.spearmanr(x[:, noise, seed], y[:, noise, seed]).statistic for seed in range(5)
        ]
        expected = np.median(each), min(each), max(each)
        np.testing.assert_allclose([part[noise] for part in found], expected)
    y = x.copy()
    y[:, :, 0] = np.nan  # seed 0 has no value on one side: left out of both
    found = statistics.correlation_over_width(statistics.spearman, x, y)
    np.testing.assert_allclose(found, np.ones((3, 2)))

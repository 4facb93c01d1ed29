"""Statistics against SciPy, NumPy's quantiles and explicit loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lipdescent import statistics

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


def test_resampling_draws_as_many_as_there_are_and_depends_on_the_generator_only():
    counts = statistics.resample_seeds(6, resamples=500, generator=np.random.default_rng(3))
    again = statistics.resample_seeds(6, resamples=500, generator=np.random.default_rng(3))
    assert counts.shape == (500, 6)
    assert (counts.sum(axis=1) == 6).all()
    np.testing.assert_array_equal(counts, again)
    # Each seed is drawn once on average, with variance 5/6 (binomial)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.15)
    assert counts.var() == pytest.approx(5 / 6, rel=0.1)
    with pytest.raises(ValueError, match="num_seeds = 0"):
        statistics.resample_seeds(0, resamples=5, generator=np.random.default_rng(0))


def test_resampled_means_against_a_loop_with_absent_values():
    draws = np.random.default_rng(1)
    values = draws.normal(size=(3, 4, 5))
    values[0, 0, 2] = np.nan
    values[1, 1] = np.nan
    counts = statistics.resample_seeds(5, resamples=20, generator=draws)
    means = statistics.resampled_means(values, counts)
    for resample, count in enumerate(counts):
        seeds = np.repeat(np.arange(5), count.astype(int))
        for place in np.ndindex(3, 4):
            drawn = values[place][seeds]
            drawn = drawn[np.isfinite(drawn)]
            expected = drawn.mean() if len(drawn) else np.nan
            assert means[(resample, *place)] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_interval_is_numpys_quantile(confidence):
    samples = np.random.default_rng(2).normal(size=(101, 3))
    samples[::7, 1] = np.nan
    samples[:, 2] = np.nan
    low, high = statistics.interval(samples, confidence=confidence)
    for column in range(2):
        there = samples[np.isfinite(samples[:, column]), column]
        ends = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
        np.testing.assert_allclose([low[column], high[column]], ends, atol=1e-12)
    assert np.isnan([low[2], high[2]]).all()


def test_interval_on_the_grid_has_ends_that_are_widths():
    samples = np.repeat([16.0, 32.0, 64.0], [3, 90, 7])[:, None]
    low, high = statistics.interval(samples, confidence=0.95, on_grid=True)
    assert (low[0], high[0]) == (16, 64)
    low, high = statistics.interval(samples, confidence=0.9, on_grid=True)
    assert (low[0], high[0]) == (32, 64)


def test_bootstrap_interval_covers_the_mean_of_normal_draws():
    draws = np.random.default_rng(4)
    values = draws.normal(size=(300, 30))
    counts = statistics.resample_seeds(30, resamples=500, generator=draws)
    _, low, high = statistics.mean_estimate(values, counts, confidence=0.9)
    assert 0.83 < ((low < 0) & (high > 0)).mean() < 0.95


def test_one_seed_has_a_mean_and_no_interval():
    counts = statistics.resample_seeds(1, resamples=50, generator=np.random.default_rng(0))
    found = statistics.mean_estimate(np.array([[1.0], [2.0]]), counts, confidence=0.95)
    np.testing.assert_array_equal(found.value, [1, 2])
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()


def test_peaks_and_threshold():
    width = np.array([4, 8, 16, 32])
    curves = np.array([[1.0, 3, np.nan, 2], [np.nan] * 4, [1, 1, 5, 5], [4, 3, 2, np.nan]])
    np.testing.assert_array_equal(statistics.peak_position(curves, width), [8, np.nan, 16, 4])
    np.testing.assert_array_equal(statistics.peak_ratio(curves), [1.5, np.nan, 1, np.nan])
    accuracy = np.array([[0.5, 0.99, 0.995, 1], [0.5, 0.6, 0.7, 0.8], [np.nan, 1, 0.9, 1]])
    np.testing.assert_array_equal(
        statistics.first_reaching(accuracy, width, level=0.995), [16, np.nan, 8]
    )


def test_correlation_over_width_uses_the_same_seeds_for_both_sides():
    draws = np.random.default_rng(5)
    x = draws.normal(size=(7, 2, 4))
    counts = statistics.resample_seeds(4, resamples=200, generator=draws)
    same = statistics.correlation_over_width(statistics.kendall, x, 3 * x, counts, confidence=0.9)
    np.testing.assert_array_equal(same, np.ones((3, 2)))
    y = x.copy()
    y[:, :, 0] = np.nan  # seed 0 has no value on one side: left out of both
    found = statistics.correlation_over_width(statistics.spearman, x, y, counts, confidence=0.9)
    np.testing.assert_allclose(found.value, 1)

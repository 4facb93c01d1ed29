"""Bounds of the variance of lines through the origin, whose constants are known."""

from fractions import Fraction

import numpy as np
import pytest

from lipdescent.analysis import bias_variance
from lipdescent.analysis.groups import Group, Series

SLOPES = np.array([1.0, 2.0, 6.0])  # f_s(x) = s x, fbar(x) = 3 x
POINTS = np.array([1.0, -2.0, 3.0])
SQUARE, MEAN = (POINTS**2).mean(), POINTS.mean()


def group_of(slopes=SLOPES, upper=SLOPES, **changed):
    """One width, noise and epoch; ``upper`` are certified constants, ``lower`` half of them."""
    away = (slopes - slopes.mean()) ** 2
    shared = np.ones(len(slopes))
    values = {
        ("seed_variance", "metric", "", "test"): away * SQUARE,
        ("seed_square_error", "metric", "", "test"): away * SQUARE + 5,
        ("ensemble_square_error", "metric", "", "test"): 5 * shared,
        ("seed_variance_at_origin", "metric", "", "test"): 0 * shared,
        ("seed_variance_at_mean", "metric", "", "test"): away * MEAN**2,
        ("mean_square_distance_from_origin", "metric", "l2", "test"): SQUARE * shared,
        ("mean_square_distance_from_mean", "metric", "l2", "test"): (SQUARE - MEAN**2) * shared,
        ("upper_lipsdp", "upper", "l2", ""): np.asarray(upper),
        ("lower_jacobian", "lower", "l2", "train"): slopes / 2,
        ("ensemble_upper_lipsdp", "metric", "l2", ""): slopes.mean() * shared,
        ("ensemble_lower_jacobian", "metric", "l2", "train"): slopes.mean() / 2 * shared,
    }
    values |= changed.get("series", {})
    series = {Series(*key): row[None, None, None] for key, row in values.items()}
    nothing = np.zeros((1, 1, 1, len(slopes)), dtype=bool)
    axes = {"width": [4], "label_noise": [0.0], "epoch": [1], "seed": np.arange(len(slopes))}
    axes = {name: np.asarray(axis) for name, axis in axes.items()}
    return Group("s", "d", "a", **axes, series=series, diverged=nothing, not_applicable=())


def test_the_parts_add_up_and_the_bounds_are_those_of_the_formulas():
    found = bias_variance.parts(group_of())
    values = {name: part.item() for name, part in found._asdict().items() if part.size == 1}
    variance = SLOPES.var() * SQUARE
    assert values["variance"] == pytest.approx(variance)
    assert values["error"] == pytest.approx(values["bias"] + values["variance"])
    square, cbar = (SLOPES**2).mean(), SLOPES.mean()
    near = SQUARE - MEAN**2, SLOPES.var() * MEAN**2
    paper = [3 * (cbar**2 + square) * d + 3 * v for d, v in ((SQUARE, 0), near)]
    sharper = [(v**0.5 + (square * d) ** 0.5) ** 2 for d, v in ((SQUARE, 0), near)]
    assert values["certified"] == pytest.approx(min(paper))
    assert values["sharper"] == pytest.approx(min(sharper))
    assert variance <= values["sharper"] <= values["certified"]
    plugged = cbar**2 / 4 + (SLOPES / 2).mean() ** 2
    theirs = [3 * plugged * d + 3 * v for d, v in ((SQUARE, 0), near)]
    assert values["plug_in"] == pytest.approx(min(theirs))


def test_the_mean_of_squares_is_not_the_square_of_the_mean():
    """Two seeds x and -x: the variance is E x^2 itself, of which the sharper form loses nothing."""
    slopes = np.array([3.0, -3.0])
    found = bias_variance.parts(group_of(slopes, upper=np.abs(slopes)))
    assert found.variance.item() == pytest.approx(9 * SQUARE)
    assert found.sharper.item() == pytest.approx(9 * SQUARE)


def test_both_bounds_are_rounded_up():
    """Seeds C and -C: the sharper form from the origin is C^2 E x^2 itself, in fractions."""
    random, squares = np.random.default_rng(1), Fraction(float(SQUARE))
    for _ in range(200):
        size = random.normal(size=1) * np.exp(random.normal())
        slopes = np.concatenate([size, -size])
        found = bias_variance.parts(group_of(slopes, upper=np.abs(slopes)))
        exact = Fraction(float(size[0])) ** 2 * squares
        assert exact <= Fraction(found.sharper.item()) <= exact * (1 + Fraction(1, 10**13))
        assert Fraction(found.certified.item()) >= 3 * exact


def test_the_variance_bound_holds_for_any_lines():
    random = np.random.default_rng(0)
    for _ in range(50):
        slopes = random.normal(size=5) * np.exp(random.normal())
        found = bias_variance.parts(group_of(slopes, upper=np.abs(slopes)))
        assert found.variance.item() <= found.sharper.item()
        assert found.sharper.item() <= found.certified.item() * (1 + 1e-12)


def test_a_seed_without_an_upper_bound_leaves_no_bound():
    found = bias_variance.parts(group_of(upper=[1.0, np.nan, 6.0]))
    assert np.isnan(found.sharper).all()
    assert np.isnan(found.certified).all()
    assert np.isfinite(found.variance).all()


def test_a_seed_that_diverged_is_left_out_of_all():
    lost = np.array([False, True, False])
    series = {
        (name, "metric", "", "test"): np.where(lost, np.nan, 1.0)
        for name in ("seed_variance", "seed_square_error", "seed_variance_at_mean")
    }
    found = bias_variance.parts(group_of(upper=np.where(lost, np.nan, SLOPES), series=series))
    square = (1 + 36) / 2
    assert found.sharper.item() == pytest.approx(
        min(square * SQUARE, (1 + (square * (SQUARE - MEAN**2)) ** 0.5) ** 2)
    )


def test_of_other_networks_the_mean_has_the_seeds_mean_constant():
    nothing = np.full(3, np.nan)
    series = {
        ("ensemble_upper_lipsdp", "metric", "l2", ""): nothing,
        ("ensemble_lower_jacobian", "metric", "l2", "train"): nothing,
    }
    found = bias_variance.parts(group_of(series=series))
    assert found.certified.item() == bias_variance.parts(group_of()).certified.item()
    plugged = 2 * (SLOPES / 2).mean() ** 2
    assert found.plug_in.item() <= 3 * plugged * SQUARE


def test_what_was_not_measured_has_no_parts():
    nothing = np.full(3, np.nan)
    assert (
        bias_variance.parts(group_of(series={("seed_variance", "metric", "", "test"): nothing}))
        is None
    )

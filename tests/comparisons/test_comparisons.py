"""Figures with several architectures, of whole and of degenerate studies."""

from dataclasses import replace
from functools import cache

import numpy as np
import printed
import pyarrow as pa
import pytest
import synthetic_study

from lipdescent.analysis import groups, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.figures import _style as style
from lipdescent.plugins import lookup

COMPARISONS = lookup.known("comparisons")
CERTIFICATES = (
    ("certified_accuracy@0", "metric", "l2", "test", 0.02),
    ("certified_accuracy@0.1", "metric", "l2", "test", 0.01),
    ("pgd_accuracy@0", "metric", "l2", "test", 0.02),
    ("pgd_accuracy@0.1", "metric", "l2", "test", 0.015),
    ("certified_accuracy@0.05", "metric", "linf", "test", 0.01),
    ("mean_certified_radius", "metric", "l2", "train", 0.001),
)
WHOLE = {"bounds": synthetic_study.BOUNDS + CERTIFICATES}
STUDIES = {
    "whole": WHOLE,
    "no_certificates": {},
    "no_bound": {"bounds": ()},
    "one_of_each": WHOLE | {"widths": (16,), "seeds": (3,), "noises": (0.0,), "epochs": (0,)},
    "one_seed": WHOLE | {"seeds": (0,)},
    "all_diverged": WHOLE
    | {"widths": (16,), "noises": (0.2,), "seeds": (0,), "diverged": ((16, 0.2, 0),)},
}


NAMES = ("mlp", "one_lipschitz")
LAID_OUT = {}


@cache
def found(study, names):
    parts = [synthetic_study.make(**STUDIES[study], architecture=name) for name in names]
    rows = pa.concat_tables(parts).unify_dictionaries()
    return {name: groups.group_of(rows, dataset="mnist1d", architecture=name) for name in names}


@cache
def draw(comparison, study, names=NAMES):
    """Studies that look the same are laid out once."""
    drawn = lookup.resolve("comparisons", comparison).draw(
        found(study, names),
        statistics={"bootstrap": 50, "confidence": 0.9, "interpolation_accuracy": 0.995},
        losses=dict.fromkeys(names, "cross_entropy"),
    )
    key = comparison, printed.contents(drawn)
    if key not in LAID_OUT:
        style.fit(drawn)
        drawn.draw_without_rendering()
        LAID_OUT[key] = drawn
    return LAID_OUT[key]


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_what_is_drawn_is_told_apart_without_colour(comparison):
    printed.check_without_colour(draw(comparison, "whole"))


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("comparison", COMPARISONS)
def test_nothing_is_clipped_or_covered(comparison, study):
    drawn = draw(comparison, study)
    renderer = drawn.canvas.get_renderer()
    width, height = drawn.get_size_inches()
    assert width == style.WIDTH
    printed.check(drawn)
    whole = drawn.get_tightbbox(renderer)
    assert min(whole.x0, whole.y0) >= -0.01
    assert whole.x1 <= width + 0.01
    assert whole.y1 <= height + 0.01
    for legend in drawn.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in drawn.axes)
    printed.check_legend(drawn)
    others = comparison in ("slopes", "effective_complexity", "layer_norms")  # lines are others
    if not others and study in ("whole", "one_of_each", "one_seed"):
        assert "one lipschitz" in [text.get_text() for text in drawn.legends[0].get_texts()]
    if study == "all_diverged":
        assert "2 diverged models left out" in drawn.get_suptitle()


def test_certified_accuracy_is_drawn_over_its_radii():
    drawn = draw("certified_accuracy", "whole")
    lines = drawn.axes[0].lines
    np.testing.assert_array_equal(lines[0].get_xdata(), [0, 0.1])
    assert (lines[0].get_ydata()[1] < lines[1].get_ydata()[1]).all()
    assert lines[1].get_linestyle() == "--"


def test_certified_accuracy_has_a_column_for_each_value_of_a_further_axis():
    """Of one width; the values of a third of three are those of its own networks."""
    found = {}
    for place, word in enumerate(("ReLU", "MaxMin", "FullSort")):
        rows = synthetic_study.make(
            **WHOLE, widths=(16,), noises=(0.0,), point={"activation": word}, architecture="net"
        )
        (name,) = [architecture for _, architecture in groups.group_names(rows)]
        group = groups.group_of(rows, dataset="mnist1d", architecture=name)
        for key, values in group.series.items():
            group.series[key] = values * (1 + place)
        found[group.variant] = group
    drawn = lookup.resolve("comparisons", "certified_accuracy").draw(
        found, statistics={"confidence": 0.9}, losses=dict.fromkeys(found, "hinge")
    )
    assert [axes.get_title() for axes in drawn.axes[:3]] == ["ReLU", "MaxMin", "FullSort"]
    assert drawn.legends[0].get_texts()[0].get_text() == "net"
    for axes, group in zip(drawn.axes[:3], found.values(), strict=True):
        series = next(v for k, v in group.series.items() if k[:3] == (*CERTIFICATES[0][:3],))
        assert axes.lines[0].get_ydata()[0] == pytest.approx(series[0, 0, -1].mean())


def test_what_was_not_measured_has_no_row():
    rows = {
        study: len(draw("over_width", study).axes) // 3 for study in ("whole", "no_certificates")
    }
    assert rows == {"whole": 5, "no_certificates": 4}


POINTS = [
    {"depth": depth, "loss": loss, "rate": rate}
    for depth in (1, 2, 3)
    for loss in ("ce", "mse")
    for rate in (0.1, 0.5)
]
KINDS = {"ce": "cross_entropy", "mse": "mean_squared_error"}


@pytest.fixture(scope="module")
def at_points():
    """Groups and losses of a study with three further axes; depth multiplies every value."""
    found = {}
    for point in POINTS:
        rows = synthetic_study.make(
            widths=(4, 16, 64), noises=(0.0, 0.2), seeds=(0, 1, 2, 3), epochs=(0, 100), point=point
        )
        group = groups.group_of(
            rows, dataset="mnist1d", architecture=groups.group_names(rows)[0][1]
        )
        for key, values in group.series.items():
            if key.quantity != "test_accuracy":
                group.series[key] = values * point["depth"]
        found[group.variant] = group
    return found, {name: KINDS[group.point["loss"]] for name, group in found.items()}


def over_axis(at_points, **options):
    """Before it is laid out."""
    return lookup.resolve("comparisons", "over_axis").draw(
        at_points[0],
        statistics={"confidence": 0.9, "interpolation_accuracy": 0.995},
        losses=at_points[1],
        **options,
    )


def test_over_axis_shows_the_tables_values_where_they_belong(at_points):
    drawn = over_axis(
        at_points, panel="rate", colour="label_noise", at={"loss": "mse", "width": 16}
    )
    bracket, loss, error = (drawn.axes[i : i + 2] for i in (0, 2, 4))
    assert loss[0].get_ylabel() == "test mean squared error"
    assert [place.get_title() for place in bracket] == ["rate 0.1", "rate 0.5"]
    group = at_points[0]["mlp+depth=3+loss=mse+rate=0.5"]
    line = loss[1].lines[1]  # of the second label noise
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    expected = stats.centre(ladder.metric(group, "test_loss")[1, 1, -1])
    assert line.get_ydata()[-1] == pytest.approx(expected)
    lower = next(one for one in bracket[1].lines[2:] if one.get_linestyle() == "--")
    best = stats.geometric_mean(ladder.bracket(group, "l2")[0][1, 1, -1])
    assert lower.get_ydata()[-1] == pytest.approx(best)
    wrong = stats.mean(ladder.test_error(group)[1, 1, -1])
    assert error[1].lines[1].get_ydata()[-1] == pytest.approx(wrong)
    assert "width 16" in drawn._suptitle.get_text()
    assert "48 models" in drawn._suptitle.get_text()  # 3 depths, 2 rates, 2 noises, 4 seeds


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"x": "epoch", "at": {"rate": 0.1}},
        {"x": "num_parameters", "colour": "loss", "at": {"depth": 2, "rate": 0.5}},
        {"x": "label_noise", "colour": "width", "panel": "depth",
         "at": {"loss": "ce", "rate": 0.1}},
    ],
    ids=str,
)  # fmt: skip
def test_over_axis_clips_nothing_and_keeps_losses_apart(at_points, options):
    drawn = over_axis(at_points, **options)
    style.fit(drawn)
    drawn.draw_without_rendering()
    renderer = drawn.canvas.get_renderer()
    width, height = drawn.get_size_inches()
    whole = drawn.get_tightbbox(renderer)
    assert min(whole.x0, whole.y0) >= -0.01
    assert whole.x1 <= width + 0.01
    assert whole.y1 <= height + 0.01
    labels = [axes.get_ylabel() for axes in drawn.axes if "test" in axes.get_ylabel()]
    kinds = {"test cross entropy (nats)", "test mean squared error", "test error"}
    assert set(labels) == kinds - ({"test mean squared error"} if "ce" in str(options) else set())


def test_over_axis_joins_points_in_the_order_of_x_whatever_the_configurations(at_points):
    backwards = {name: at_points[0][name] for name in reversed(at_points[0])}
    drawn = over_axis((backwards, at_points[1]), at={"loss": "ce", "rate": 0.1})
    lines = [line for place in drawn.axes for line in place.lines]
    assert len(lines) > 6
    for line in lines:
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])


@pytest.mark.parametrize("negative", [False, True])
def test_over_axis_draws_constants_and_losses_over_logarithms_where_they_have_one(
    at_points, negative
):
    found = {
        name: replace(
            group,
            series={
                key: values * (2 - group.point["depth"])
                if negative and key.quantity == "test_loss"
                else values
                for key, values in group.series.items()
            },
        )
        for name, group in at_points[0].items()
    }
    drawn = over_axis((found, at_points[1]), panel="rate", at={"loss": "ce"})
    scales = [axes.get_yscale() for axes in drawn.axes]
    assert scales == ["log"] * 2 + ["linear" if negative else "log"] * 2 + ["linear"] * 2


@pytest.mark.parametrize("comparison", ["over_width", "over_epochs"])
def test_losses_of_different_kinds_have_axes_of_their_own(comparison, at_points):
    drawn = lookup.resolve("comparisons", comparison).draw(
        at_points[0],
        statistics={"confidence": 0.9, "interpolation_accuracy": 0.995},
        losses=at_points[1],
    )
    style.fit(drawn)
    drawn.draw_without_rendering()
    for name in ("test cross entropy (nats)", "test mean squared error"):
        (axes,) = [place for place in drawn.axes if place.get_ylabel() == name]
        assert len([line for line in axes.lines if len(line.get_xdata()) > 1]) == len(POINTS) // 2
    whole = drawn.get_tightbbox(drawn.canvas.get_renderer())
    assert whole.x0 >= -0.01
    assert whole.x1 <= style.WIDTH + 0.01


def test_slopes_have_a_row_for_each_axis_of_numbers_at_each_value_of_the_others(at_points):
    drawn = lookup.resolve("comparisons", "slopes").draw(
        at_points[0],
        statistics={"confidence": 0.9, "interpolation_accuracy": 0.995},
        losses=at_points[1],
    )
    style.fit(drawn)
    drawn.draw_without_rendering()
    titles = [axes.get_title() for axes in drawn.axes[::3]]
    assert titles[:2] == ["ce, rate 0.1, noise 0 %", "mse, rate 0.1, noise 0 %"]
    assert len(titles) == 5  # of 4 over depth and 6 over the rate
    line = drawn.axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    # Every value is multiplied by its depth, so all exponents are 1 where nothing scatters.
    marker = drawn.axes[2].lines[0]
    assert marker.get_xdata()[0] == pytest.approx(1, abs=0.1)
    said = {text.get_text().replace("\n", " ") for axes in drawn.axes for text in axes.texts}
    assert "no fit: 2 points, a fit needs 3" in said


def test_effective_complexity_is_the_largest_number_that_is_fitted():
    """Width w fits up to 8 w points without noise, half as many with it."""
    found = {}
    for size in (500, 64, 128, 256):
        rows = synthetic_study.make(
            widths=(4, 16, 64), noises=(0.0, 0.2), epochs=(0, 100), point={"num_train": size}
        )
        group = groups.group_of(
            rows, dataset="mnist1d", architecture=groups.group_names(rows)[0][1]
        )
        key = next(k for k in group.series if k.quantity == "train_accuracy")
        fitted = size <= 8 * np.outer(group.width, [1.0, 0.5])
        group.series[key][:] = np.where(fitted, 0.95, 0.5)[:, :, None, None]
        found[group.variant] = group
    drawn = lookup.resolve("comparisons", "effective_complexity").draw(
        found,
        statistics={"confidence": 0.9, "interpolation_accuracy": 0.995},
        losses=dict.fromkeys(found, "cross_entropy"),
    )
    style.fit(drawn)
    drawn.draw_without_rendering()
    left, right = drawn.axes
    clean, noisy = left.lines[0], left.lines[3]
    np.testing.assert_array_equal(clean.get_ydata(), [np.nan, 128, 500])
    np.testing.assert_array_equal(noisy.get_ydata(), [np.nan, 64, 256])
    assert left.lines[2].get_ydata().tolist() == [500]  # the largest of all: a triangle
    assert left.collections[0].get_segments()[0][:, 1].tolist() == [128, 256]
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [64, 128, 256, 500])
    rings = [line.get_xdata() for line in right.lines if len(np.atleast_1d(line.get_xdata())) == 1]
    np.testing.assert_array_equal(np.ravel(rings), [64, 256])

"""Figures of further quantities draw the numbers of the table, and say what was not measured."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic_study

from lipdescent.analysis import groups
from lipdescent.analysis.groups import Series
from lipdescent.plugins import lookup

STATISTICS = {"confidence": 0.9, "interpolation_accuracy": 0.995}
SHAPE = (6, 3, 3, 3)


def drawn(figure, loss="cross_entropy", *, scatter=0.0, **series):
    """The synthetic study with further series, constants all of them."""
    rows = synthetic_study.make(scatter=scatter)
    group = groups.group_of(rows, dataset="mnist1d", architecture="mlp")
    more = {Series(*key): np.full(SHAPE, value) for key, value in series.get("more", {}).items()}
    group = replace(group, series=group.series | more)
    return lookup.resolve("figures", figure).draw(group, statistics=STATISTICS, loss=loss)


def curves(axes):
    """Lines over the widths: not the mark of as many parameters as samples, at one place."""
    return [line for line in axes.lines if len(np.unique(line.get_xdata())) > 1]


def texts(figure):
    return [text.get_text().replace("\n", " ") for axes in figure.axes for text in axes.texts]


def test_jacobian_norms_draw_means_and_the_outermost_quantiles():
    more = {
        ("jacobian_norm_mean", "metric", "l2", split): v
        for split, v in (("train", 7.0), ("test", 6.0))
    }
    more |= {(f"jacobian_norm_q{q}", "metric", "l2", "train"): float(q) for q in (5, 50, 95)}
    figure = drawn("jacobian_norms", more=more)
    train, test = curves(figure.axes[0])
    assert set(train.get_ydata().round(9)) == {7.0}
    assert set(test.get_ydata().round(9)) == {6.0}
    quantiles = figure.axes[0].collections[1].get_paths()[0].vertices[:, 1]
    assert {5.0, 95.0} == set(quantiles.round(9))
    assert "quantiles 5 to 95 %" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_right_and_wrong_have_lines_of_their_own():
    more = {("jacobian_norm_mean_right", "metric", "l2", "test"): 3.0}
    more |= {("jacobian_norm_mean_wrong", "metric", "l2", "test"): 4.0}
    more |= {("jacobian_norm_loss_pearson", "metric", "l2", "train"): -0.25}
    figure = drawn("right_wrong", more=more)
    assert [line.get_ydata()[0] for line in curves(figure.axes[0])] == pytest.approx([3.0, 4.0])
    assert figure.axes[2].lines[0].get_ydata()[0] == -0.25
    assert "not measured: quantities has no jacobian_points" in texts(drawn("right_wrong"))


def test_a_histogram_stacks_the_shares_and_counts_points_without_a_slope():
    name = "jacobian_norm_share_{}@{}"
    shares = {("right", "1..2"): 0.5, ("wrong", "1..2"): 0.2, ("right", "2..4"): 0.2,
              ("wrong", "0..0"): 0.1}  # fmt: skip
    more = {(name.format(*key), "metric", "l2", "test"): v for key, v in shares.items()}
    figure = drawn("jacobian_histogram", more=more)
    bars = [(b.get_x(), b.get_y(), b.get_height()) for b in figure.axes[0].patches]
    assert bars == [pytest.approx(bar) for bar in ((1, 0, 0.5), (1, 0.5, 0.2), (2, 0, 0.2))]
    assert figure.axes[0].get_title().endswith("10 % have norm 0")
    assert "not measured: quantities has no jacobian_points" in texts(drawn("jacobian_histogram"))


def test_lines_of_a_histogram_hold_the_constants_of_all_seeds():
    """Its points are those of all seeds: a mean's upper bound may lie below some of them."""
    more = {("jacobian_norm_share_right@1..2", "metric", "l2", "test"): 1.0}
    place = drawn("jacobian_histogram", more=more, scatter=0.3).axes[0]
    frame = synthetic_study.make(scatter=0.3).to_pandas()
    last = frame[(frame.width == 4) & (frame.label_noise == 0) & (frame.epoch == 100)]
    last = last[last.norm == "l2"].pivot_table(index="seed", columns="quantity", values="value")
    lower, upper = last["lower_jacobian"], last[["upper_lipsdp", "upper_layer_product"]].min(axis=1)
    assert len({*upper}) == 3
    # Best lower bounds are of both splits, of which a pivot takes the mean: .8 and .7 of it.
    expected = [lower.min() / 0.75 * 0.8, upper.max()]
    assert [line.get_xdata()[0] for line in place.lines] == pytest.approx(expected)


def test_parameters_draw_what_was_measured():
    more = {("distance_from_init", "metric", "l2", ""): 2.0}
    more |= {("hessian_largest_eigenvalue", "metric", "l2", "train"): -3.0}
    figure = drawn("parameters", more=more)
    assert len(figure.axes) == 4
    for place, value in zip(figure.axes[::2], (2.0, -3.0), strict=True):
        assert place.lines[0].get_ydata() == pytest.approx([value] * 6)


def test_early_stopping_takes_the_least_loss_of_every_network():
    figure = drawn("early_stopping")
    last, best = (line.get_ydata() for line in figure.axes[0].lines[:2])
    truth = np.array([5 * synthetic_study.hump(width, 16) for width in synthetic_study.WIDTHS])
    np.testing.assert_allclose(last, truth)
    np.testing.assert_allclose(best, 0.1 * truth)  # the losses grow from epoch 0 on
    assert figure.axes[2].lines[0].get_ydata() == pytest.approx([0] * 6)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("cross_entropy", "error and variance add up for the squared loss only"),
        ("mean_squared_error", "not measured: quantities has no bias_variance"),
    ],
)
def test_where_bias_and_variance_cannot_be_told_it_is_said_why(loss, said):
    assert set(texts(drawn("bias_variance", loss=loss))) == {said}


def test_ensembles_stand_beside_the_plain_mean_of_their_members():
    expected = {"loss": {"softmax": 1.5, "logits": 1.25}, "error": {"softmax": 0.3, "logits": 0.2}}
    more = {
        (f"ensemble_{what}_of_mean_{of}", "metric", "", "test"): value
        for what, values in expected.items()
        for of, value in values.items()
    }
    figure = drawn("ensemble", more=more, scatter=0.3)
    assert len(figure.axes) == 4
    loss, _, error, _ = figure.axes
    frame = synthetic_study.make(scatter=0.3).to_pandas()
    last = frame[(frame.quantity == "test_loss") & (frame.label_noise == 0) & (frame.epoch == 100)]
    means = last.groupby("width").value.mean()
    assert loss.lines[0].get_ydata() == pytest.approx(means.to_numpy())
    for axes, values in ((loss, expected["loss"]), (error, expected["error"])):
        assert [line.get_ydata()[0] for line in curves(axes)[1:]] == list(values.values())
    assert "not measured: quantities has no ensemble" in texts(drawn("ensemble"))


def test_the_linearisation_stands_beside_the_network_without_the_start():
    more = {("jacobian_norm_mean", "metric", "l2", "train"): 6.0}
    more |= {(f"linearised_jacobian_norm_{what}", "metric", "l2", "train"): value
             for what, value in (("max", 5.0), ("mean", 4.0))}  # fmt: skip
    more |= {("linearised_relative_error", "metric", "l2", split): value
             for split, value in (("train", 0.5), ("test", 0.0))}  # fmt: skip
    figure = drawn("linearised", more=more)
    norms, _, error, _ = figure.axes
    assert [set(line.get_ydata().round(9)) for line in norms.lines[1:]] == [{6.0}, {5.0}, {4.0}]
    assert [line.get_linestyle() for line in norms.lines] == ["-", "-", "--", "--"]
    assert [set(line.get_ydata()) for line in error.lines] == [{0.5}]  # 0 has no logarithm
    assert "not measured: quantities has no linearised" in texts(drawn("linearised"))

"""Every figure of whole and of degenerate studies: drawn, readable, nothing clipped."""

from functools import cache

import numpy as np
import printed
import pytest
import synthetic_study
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lipdescent.analysis import groups
from lipdescent.figures import _style as style
from lipdescent.plugins import lookup
from lipdescent.storage import table

FIGURES = lookup.known("figures")
LOWER = tuple(bound for bound in synthetic_study.BOUNDS if bound[1] == "lower")
UPPER = tuple(bound for bound in synthetic_study.BOUNDS if bound[1] == "upper")
ATTENTION = {
    "bounds": (("lower_jacobian", "estimate", "l2", "train", 0.8),),
    "not_applicable": ("upper_layer_product",),
}
MANY = tuple(
    (f"lower_jacobian@{points}", "lower", "l2", "train", 0.4 + 0.05 * place)
    for place, points in enumerate(
        ("gaussian_noise", "convex_combinations", "data_train_and_test", "attacked_points", "grid",
         "saved_points", "all_of_them_together")
    )
)  # fmt: skip
# One width, and one seed and noise, are tried with every bound in one_of_each; with several of all
# else where one side is missing, which attention and no_bound try with several of each.
STUDIES = {
    "whole": {},
    "one_of_each": {"widths": (16,), "seeds": (3,), "noises": (0.0,), "epochs": (0,)},
    "no_upper_one_width": {"bounds": LOWER, "widths": (16,)},
    "no_lower_one_seed_one_noise": {"bounds": UPPER, "seeds": (0,), "noises": (0.2,)},
    "no_bound": {"bounds": ()},
    "attention": ATTENTION,
    "large_grid": {
        "widths": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128, 256, 4096),
        "epochs": (*range(0, 40, 2), 20_000),
        "seeds": (0, 1),
    },
    "all_diverged": {
        "widths": (4, 8, 16),
        "noises": (0.0,),
        "seeds": (0,),
        "diverged": ((4, 0.0, 0), (8, 0.0, 0), (16, 0.0, 0)),
    },
    # The longest heading above the highest legend.
    "many_bounds_diverged": {
        "bounds": synthetic_study.BOUNDS + MANY,
        "diverged": ((128, 0.2, 1), (128, 0.4, 0), (128, 0.4, 1), (128, 0.4, 2)),
    },
}
# Figures that no bound enters: drawn of one of the studies that differ in bounds alone.
WITHOUT_BOUNDS = {"bias_variance", "early_stopping", "ensemble", "parameters"}
OF_BOUNDS = {"no_bound", "attention"}
# Nothing is drawn where a side is missing, whatever the reason.
OF_BRACKETS = {"bound_gap", "linearised"}
# A curve or more for each bound; of all others many_bounds_diverged has what the whole study has.
OF_EVERY_BOUND = {"alignment", "bound_ladder", "slopes"}
# Of quantities that no study here has: they say so in any. With them: test_quantities.py.
UNMEASURED = {
    "bias_variance", "ensemble", "jacobian_histogram", "jacobian_norms", "parameters",
    "right_wrong",
}  # fmt: skip
SAYING_SO = {"many_bounds_diverged", "all_diverged"}
DRAWN = [
    (figure, study)
    for figure in FIGURES
    for study in STUDIES
    if not (figure in WITHOUT_BOUNDS and study in OF_BOUNDS - {"no_bound"})
    if figure not in UNMEASURED or study in SAYING_SO
    if figure in OF_EVERY_BOUND or study != "whole"
    if figure not in OF_BRACKETS or study != "attention"
]


@cache
def group(study: str) -> groups.Group:
    rows = synthetic_study.make(**STUDIES[study])
    return groups.group_of(rows, dataset="mnist1d", architecture="mlp")


@cache
def drawn_study(figure: str, study: str) -> Figure:
    """Figures of the studies above, each drawn once, as plot.py draws it."""
    drawn = unfitted(figure, group(study))
    style.fit(drawn)
    drawn.draw_without_rendering()
    return drawn


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """They take a GiB, and tests behind these make forks of this process."""
    yield
    drawn_study.cache_clear()
    group.cache_clear()


def draw(figure: str, rows) -> Figure:
    """The figure of a table, before it is laid out."""
    return unfitted(figure, groups.group_of(rows, dataset="mnist1d", architecture="mlp"))


def unfitted(figure: str, group: groups.Group, *, level: float = 0.995) -> Figure:
    statistics = {"bootstrap": 50, "confidence": 0.9, "interpolation_accuracy": level}
    made = lookup.resolve("figures", figure).draw
    return made(group, statistics=statistics, loss="cross_entropy")


@pytest.mark.parametrize(("figure", "study"), DRAWN)
def test_figure_is_drawn_and_nothing_is_clipped_or_covered(figure, study):
    drawn = drawn_study(figure, study)
    assert drawn.get_size_inches()[0] == style.WIDTH
    printed.check(drawn)
    printed.check_room(drawn)
    printed.check_legend(drawn)


@pytest.mark.parametrize("figure", sorted(UNMEASURED))
def test_every_panel_says_what_was_not_measured(figure):
    drawn = drawn_study(figure, "many_bounds_diverged")
    assert all(axes.texts for axes in drawn.axes if axes.get_label() != "<colorbar>")


@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_drawn_is_told_apart_without_colour(figure):
    printed.check_without_colour(unfitted(figure, group("whole")))


SAME = [(figure, "whole", "no_bound") for figure in sorted(WITHOUT_BOUNDS)]
SAME += [(figure, "attention", "no_bound") for figure in sorted(OF_BRACKETS)]


@pytest.mark.parametrize(("figure", "one", "other"), SAME)
def test_a_figure_that_is_drawn_of_one_study_alone_is_the_same_of_the_other(figure, one, other):
    one, other = (printed.contents(unfitted(figure, group(study))) for study in (one, other))
    assert one == other


def test_files_are_of_exact_size_with_true_type_fonts_and_reproducible(tmp_path):
    rows = synthetic_study.make(seeds=(0, 1), epochs=(0, 100))
    for name in ("first", "again"):
        drawn = draw("alignment", rows)
        style.save(drawn, *(tmp_path / f"{name}.{kind}" for kind in ("pdf", "png")))
    first = (tmp_path / "first.pdf").read_bytes()
    assert b"/Type3" not in first
    assert b"/FontFile2" in first
    assert first.startswith(b"%PDF")
    with Image.open(tmp_path / "first.png") as image:
        assert image.size == tuple(np.round(drawn.get_size_inches() * style.DPI))
        assert image.info["dpi"][0] == pytest.approx(style.DPI, abs=0.1)
    assert (tmp_path / "again.pdf").read_bytes() == first
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "first.png").read_bytes()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("figure", FIGURES)
def test_axes_are_named_and_diverged_models_counted(figure):
    drawn = drawn_study(figure, "many_bounds_diverged")
    assert "4 diverged models left out" in drawn.get_suptitle()
    panels = [axes for axes in drawn.axes if axes.get_label() != "<colorbar>"]
    bottom = min(round(axes.get_position().y0, 2) for axes in panels)
    assert all(axes.get_xlabel() for axes in panels if round(axes.get_position().y0, 2) == bottom)
    left = min(round(axes.get_position().x0, 2) for axes in panels)
    assert all(axes.get_ylabel() for axes in panels if round(axes.get_position().x0, 2) == left)


def test_double_descent_draws_the_means_and_marks_the_threshold():
    drawn = draw("double_descent", synthetic_study.make(scatter=0))
    drawn.draw_without_rendering()  # the second axis is as long as the first
    error, test_loss = drawn.axes[:2]
    expected = [0.5 * synthetic_study.hump(w, 16) for w in synthetic_study.WIDTHS]
    np.testing.assert_allclose(error.lines[0].get_ydata(), expected, rtol=1e-12)
    clean = test_loss.lines[0]
    expected = [5 * synthetic_study.hump(w, 16) for w in synthetic_study.WIDTHS]
    np.testing.assert_allclose(clean.get_ydata(), expected, rtol=1e-12)
    rings = [line for line in test_loss.lines if line.get_markerfacecolor() == "none"]
    assert [ring.get_xdata()[0] for ring in rings] == [16, 32, 32]
    lower, upper = (drawn.axes[place].lines[0].get_ydata() for place in (3, 4))
    np.testing.assert_allclose(upper / lower, 1.25 / 0.8)
    for axes in drawn.axes:  # 50 parameters a unit, 1600 training points
        (equal,) = [line for line in axes.lines if line.get_gid() == "p=n"]
        np.testing.assert_allclose(equal.get_xdata(), 32)
    (chance,) = [line for line in test_loss.lines if line.get_gid() == "chance"]
    np.testing.assert_allclose(chance.get_ydata(), np.log(10))
    stopped = next(line for line in error.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(stopped.get_ydata(), 0.1 * np.array(error.lines[0].get_ydata()))
    below = drawn.axes[3].child_axes[0]
    assert below.get_xlabel() == "parameters / sample"
    share = below.transData.inverted().transform(drawn.axes[3].transData.transform((64, 20)))[0]
    assert share == pytest.approx(2)


@pytest.mark.parametrize("study", ["no_upper_one_width", "no_lower_one_seed_one_noise", "no_bound"])
def test_a_missing_bound_is_said_in_the_figure(study):
    drawn = drawn_study("double_descent", study)
    said = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert any("needs a lower and" in text for text in said)
    assert any("none in this study" in text for text in said)


@pytest.mark.parametrize(
    "figure", ["double_descent", "label_noise", "bound_ladder", "alignment", "bound_gap"]
)
def test_a_figure_says_that_all_models_diverged(figure):
    drawn = drawn_study(figure, "all_diverged")
    said = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert said
    assert set(said) == {"all models diverged"}


def test_levels_differ_in_lightness_and_by_their_marker():
    looks = style.level_looks([0.4, 0.0, 0.2])
    colours = [looks[level]["color"][:3] for level in (0.0, 0.2, 0.4)]
    light = [np.dot(colour, (0.2126, 0.7152, 0.0722)) for colour in colours]
    assert light[0] < light[1] < light[2] < 0.8
    assert len({look["marker"] for look in looks.values()}) == 3


@pytest.mark.parametrize("figure", ["double_descent", "epoch_wise", "label_noise", "epoch_curves"])
def test_where_nothing_is_proved_the_estimate_is_shown_by_that_name(figure):
    drawn = drawn_study(figure, "attention")
    texts = [text.get_text().replace("\n", " ") for text in drawn.findobj(Text)]
    assert any("estimate from below" in text for text in texts)
    assert not any("lower Lipschitz bound" in text for text in texts)
    if figure != "epoch_curves":
        assert any("not applicable to these networks" in text for text in texts)


def test_epoch_curves_are_of_the_smallest_critical_and_largest_width():
    drawn = draw("epoch_curves", synthetic_study.make(scatter=0, epochs=(0, 10, 100)))
    titles = [axes.get_title() for axes in drawn.axes[:3]]
    assert titles == ["width 4 (smallest)", "width 16 (critical)", "width 128 (largest)"]
    time = np.array([0.1, 0.19, 1.0])
    for place, factor in ((1, 0.5), (4, 5.0)):
        clean = drawn.axes[place].lines[0]
        np.testing.assert_allclose(clean.get_ydata(), factor * time, rtol=1e-12)
    lower, upper = drawn.axes[10].lines[:2]
    np.testing.assert_allclose(lower.get_ydata(), 40 * 0.8 * time, rtol=1e-12)
    np.testing.assert_allclose(upper.get_ydata(), 40 * 1.25 * time, rtol=1e-12)
    best = [line.get_xdata()[0] for line in drawn.axes[4].lines if line.get_gid() == "best"]
    assert best == [0, 0]
    rows = synthetic_study.make(scatter=0, epochs=(0, 10, 100)).to_pandas()
    at_ten = (rows["epoch"] == 10) & (rows["quantity"] == "test_loss")
    rows.loc[at_ten, "value"] *= 20  # now every curve has its peak at epoch 10
    columns = {name: rows[name].to_numpy() for name in rows}
    drawn = draw("epoch_curves", table.from_columns(len(rows), **columns))
    assert rings_over_epochs(drawn) == []  # three seeds show no peak


WIDTHS_OF = {
    "epoch_curves": ["width 4 (smallest)", "width 128 (largest)"],
    "bound_gap": ["epoch 100", "width 128 (largest)"],
    "jacobian_norms": ["epoch 100", "width 128 (largest)"],
}


@pytest.mark.parametrize("figure", WIDTHS_OF)
def test_no_width_is_called_critical_where_none_interpolates(figure):
    drawn = unfitted(figure, group("whole"), level=1.1)
    titles = [axes.get_title() for axes in drawn.axes if axes.get_title()]
    assert titles == WIDTHS_OF[figure]


def test_a_width_that_is_critical_and_largest_has_one_panel():
    some = synthetic_study.make(widths=(4, 8, 16))
    drawn = draw("bound_gap", some)
    titles = [axes.get_title() for axes in drawn.axes if axes.get_title()]
    assert titles == ["epoch 100", "width 16 (critical and largest)"]


def test_intervals_end_where_values_do():
    """Of ratios that are no less than 1, of shares that are no more."""
    rows = synthetic_study.make(seeds=range(5), noises=(0.0,), scatter=0).to_pandas()
    apart = np.exp([0.0, 0.0, 0.0, 0.0, 1.0])[rows["seed"].to_numpy()]
    tight = (rows["quantity"] == "upper_lipsdp") & (rows["norm"] == "l2")
    rows.loc[tight, "value"] *= 0.8 / 1.25 * apart[tight]
    fitted = rows["quantity"] == "train_accuracy"
    rows.loc[fitted, "value"] = 1 - 0.1 * (apart[fitted] > 2)
    columns = {name: rows[name].to_numpy() for name in rows}
    changed = table.from_columns(len(rows), **columns)
    gaps, curves = draw("bound_gap", changed), draw("double_descent", changed)
    ends = [bands(axes) for axes in (gaps.axes[0], curves.axes[2])]
    assert min(ends[0]) == 1  # and the values are more: Student's t goes below
    assert max(ends[1]) == 1


def bands(axes) -> list[float]:
    """Heights of the edges of every band."""
    return [
        y for band in axes.collections for path in band.get_paths() for y in path.vertices[:, 1]
    ]


def test_heat_maps_name_as_many_columns_as_there_is_room_for():
    epochs = (0, 1, 3, 8, 20, 50, 120, 300)
    drawn = draw("epoch_wise", synthetic_study.make(epochs=epochs))
    named = [text.get_text() for text in drawn.axes[4].get_xticklabels() if text.get_text()]
    assert len(named) >= 5
    assert {"0", "300"} <= set(named) <= {str(epoch) for epoch in epochs}
    assert len(drawn.axes[4].get_xticks()) == len(epochs)


def rings_over_epochs(drawn):
    lines = [line for axes in drawn.axes[3:6] for line in axes.lines]
    return [line.get_xdata()[0] for line in lines if line.get_markerfacecolor() == "none"]


def test_epoch_curves_ring_peaks_that_the_seeds_show_and_no_noise():
    rows = synthetic_study.make(epochs=(0, 1, 10, 100), seeds=tuple(range(6))).to_pandas()
    loss = rows["quantity"] == "test_loss"
    columns = {name: rows[name].to_numpy() for name in rows}
    noise = np.exp(0.3 * np.random.default_rng(0).normal(size=loss.sum()))
    rows.loc[loss, "value"] = noise
    columns["value"] = rows["value"].to_numpy()
    drawn = draw("epoch_curves", table.from_columns(len(rows), **columns))
    curves = [line for axes in drawn.axes[3:6] for line in axes.lines[:3]]
    highest = [line.get_ydata().argmax() for line in curves]
    assert any(place in (1, 2) for place in highest)  # this had a ring before
    assert rings_over_epochs(drawn) == []
    rows.loc[loss & (rows["epoch"] == 10), "value"] *= 20
    columns["value"] = rows["value"].to_numpy()
    drawn = draw("epoch_curves", table.from_columns(len(rows), **columns))
    assert rings_over_epochs(drawn) == [10] * 9

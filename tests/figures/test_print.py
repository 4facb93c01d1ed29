"""Figures at the size they are printed at: settings that stay, widths, fonts, numbers in cells."""

import matplotlib
import numpy as np
import printed
import pytest
import synthetic_study
from matplotlib.text import Text

from lipdescent.analysis import groups, labels
from lipdescent.figures import _heat_maps as heat_maps
from lipdescent.figures import _style as style
from lipdescent.figures import bound_ladder, double_descent, epoch_wise, label_noise
from lipdescent.plugins import lookup
from lipdescent.study import print_checks

OPTIONS = {
    "statistics": {"confidence": 0.9, "interpolation_accuracy": 0.995},
    "loss": "cross_entropy",
}


def group_of(**options):
    study = synthetic_study.make(**options)
    return groups.group_of(study, dataset="mnist1d", architecture="mlp")


def test_settings_are_as_before_when_a_figure_is_printed():
    matplotlib.rcParams["lines.linewidth"] = 7.0
    before = printed.settings()
    with style.printed(width=7, font_size=9, font="DejaVu Serif"):
        assert matplotlib.rcParams["lines.linewidth"] != 7
        figure = double_descent.draw(group_of(epochs=(0, 9), seeds=(0, 1)), **OPTIONS)
    assert printed.settings() == before
    assert figure.get_size_inches()[0] == 7
    found = [text for text in figure.findobj(Text) if text.get_text()]
    assert {text.get_fontsize() for text in found} == {8, 9}
    assert {text.get_fontfamily()[0] for text in found} == {"DejaVu Serif"}


@pytest.mark.parametrize(
    ("figure", "size"),
    [("double_descent", 7), ("epoch_wise", 10), ("slopes", 7), ("jacobian_norms", 10)],
)
def test_the_narrowest_figure_that_is_allowed_has_room_for_its_type(figure, size):
    with style.printed(width=print_checks.INCHES_PER_POINT * size, font_size=size):
        drawn = lookup.resolve("figures", figure).draw(group_of(epochs=(0, 1, 10, 100)), **OPTIONS)
        style.fit(drawn)
        drawn.canvas.draw()
    assert min(t.get_fontsize() for t in drawn.findobj(Text) if t.get_text()) == max(7, size - 1)
    printed.check_room(drawn)


def test_small_heat_maps_have_their_values_in_their_cells_and_one_scale_for_both_bounds():
    group = group_of(scatter=0, noises=(0.0, 0.2))
    drawn = label_noise.draw(group, **OPTIONS)
    error, _, lower, upper = drawn.axes  # and no colour bar
    told = {(*text.get_position(), text.get_text()) for text in error.texts}
    expected = [0.5 * synthetic_study.hump(width, 16) for width in synthetic_study.WIDTHS]
    assert {(0, row, f"{value:.2f}") for row, value in enumerate(expected)} <= told
    assert lower.collections[0].get_clim() == upper.collections[0].get_clim()
    large = group_of(scatter=0, widths=range(1, 40), noises=np.linspace(0, 0.9, 10).tolist())
    drawn = label_noise.draw(large, **OPTIONS)
    assert not any(axes.texts for axes in drawn.axes)
    assert [axes.get_label() for axes in drawn.axes].count("<colorbar>") == 3


def dots(axes):
    return [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if line.get_marker() == "o" and line.get_markerfacecolor() == heat_maps.PEAK["color"]
    ]


def test_a_peak_is_marked_where_the_seeds_show_one_and_nowhere_in_noise():
    group = group_of(seeds=range(6), noises=(0.0, 0.2), epochs=(0, 100))
    assert dots(epoch_wise.draw(group, **OPTIONS).axes[1]) == [(0, 2), (1, 2)]  # width 16
    flat = np.random.default_rng(0).uniform(1, 2, group.diverged.shape)
    largest = flat.mean(-1).argmax(0)
    assert ((largest > 0) & (largest < len(group.width) - 1)).any()  # these had a dot before
    noise = {key: flat if key.quantity == "test_loss" else v for key, v in group.series.items()}
    group.series.update(noise)
    assert not dots(epoch_wise.draw(group, **OPTIONS).axes[1])


def test_a_bound_far_above_all_others_does_not_squeeze_them():
    bounds = (
        ("lower_jacobian", "lower", "linf", "train", 0.8),
        ("upper_lipsdp", "upper", "linf", "", 1.25),
        ("upper_layer_product", "upper", "linf", "", 100.0),
    )
    drawn = bound_ladder.draw(group_of(bounds=bounds, scatter=0), **OPTIONS)
    above, below = drawn.axes[0], drawn.axes[3]
    assert above.get_label() == bound_ladder.UPPER_PART
    assert above.get_ylim()[0] > below.get_ylim()[1]
    low, high = below.get_ylim()
    spread = (synthetic_study.hump(16, 16) * 1.25) / (synthetic_study.hump(128, 16) * 0.8)
    assert high / low < 2 * spread
    near = (*bounds[:2], ("upper_layer_product", "upper", "linf", "", 3.0))
    drawn = bound_ladder.draw(group_of(bounds=near, scatter=0), **OPTIONS)
    assert not any(axes.get_label() == bound_ladder.UPPER_PART for axes in drawn.axes)


def test_bands_that_lie_on_each_other_keep_their_edges():
    group = group_of()
    (band, *_) = double_descent.draw(group, **OPTIONS).axes[1].collections
    assert band.get_facecolor()[0, -1] <= 0.1
    assert band.get_edgecolor()[0, -1] >= 0.5
    assert band.get_linewidth()[0] > 0


@pytest.mark.parametrize(
    ("units", "name"),
    [
        ((), "width"),
        (("",), "width"),
        (("units",), "width (units)"),
        (("units", "channels", "units"), "width (units, channels)"),
    ],
)
def test_the_unit_of_a_width_is_named(units, name):
    assert labels.width_name(*units) == name
    assert labels.axis_name("width", *units) == name

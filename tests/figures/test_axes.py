"""Axes over numbers: where they are logarithmic, and that no value is hidden."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from lipdescent.figures import _axes
from lipdescent.figures import _style as style


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0, 0.0001, 0.001, 0.01], "symlog"),
        ([0.001, 0.1], "log"),
        ([0, 1], "linear"),
        ([0, 1, 2, 4], "linear"),
        ([0.1, 0.2, 0.3], "linear"),
        ([-1, 0, 100], "linear"),
    ],
)
def test_numbers_far_apart_are_apart_on_their_axis(values, scale):
    axes = Figure().subplots()
    values = np.array(values, dtype=float)
    _axes.number_axis(axes, values)
    assert axes.get_xscale() == scale
    left, right = axes.get_xlim()
    assert left < values[0]
    assert values[-1] < right
    if scale == "symlog":
        places = axes.transData.transform([(value, 0) for value in values])[:, 0]
        assert np.diff(places).min() > 0.1 * (places[-1] - places[0])
        assert {values[0], values[1], values[-1]} <= set(axes.get_xticks())


@pytest.mark.parametrize("values", [[1.5e20, 4e31], [1e-3, 2e21], [1e-306, 1e308], [3e-25, 4e-25]])
def test_values_of_all_sizes_are_named_by_round_numbers(values):
    """As the upper bounds of transformers."""
    axes = Figure().subplots()
    axes.plot(values)
    _axes.log_values(axes)
    low, high = axes.get_ylim()
    assert low <= max(values[0], _axes.SMALLEST)
    assert min(values[1], _axes.LARGEST) <= high
    ticks = axes.get_yticks()
    assert 2 <= len(ticks) <= 8
    assert all(
        low <= tick <= high and float(f"{tick:.1e}") == pytest.approx(tick) for tick in ticks
    )
    assert np.ptp(np.log(ticks)) > 0.6 * np.ptp(np.log([low, high]))


def test_a_long_title_goes_on_in_lines_of_about_one_length():
    """Parentheses and the second of two parts below the first; a number stays with its unit."""
    lines = {
        "width 4096, label noise 20 %": ["width 4096,", "label noise 20 %"],
        "a lower bound (logits, norm)": ["a lower bound", "(logits, norm)"],
        "with the loss at a fitted scale": ["with the loss at", "a fitted scale"],
        "some words and then 20 %": ["some words", "and then 20 %"],
    }
    figure, axes = style.new_figure(1, 4, height=2)
    for place, title in zip(axes[0], lines, strict=True):
        place.set_title(title)
    style.fit(figure)
    found = [place.get_title().split("\n") for place in axes[0]]
    assert found == list(lines.values())

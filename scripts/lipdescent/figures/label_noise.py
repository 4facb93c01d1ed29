"""Test error, test loss and both Lipschitz bounds over width and label noise, at the last epoch.

Heat maps of the mean over seeds, a geometric one but of errors, colours on a log scale. Bounds are
the best certified ones in l2, or the largest estimate where nothing is proved from below. White
dots: the width with the largest value at that label noise, where it is inside of the grid. Black
line: the first width whose mean train accuracy, on the labels trained on, reaches the interpolation
accuracy (99.5 % unless configured otherwise). Dotted: as many parameters as training samples, p =
n. Diverged models are left out and counted in the heading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    panels, absent = drawing.outcomes_and_bounds(group, loss)
    accuracy = stats.mean(ladder.metric(group, "train_accuracy")[:, :, -1])
    percent = 100 * np.asarray(group.label_noise)
    figure, axes = style.new_figure(1, 4, width=style.TWO_COLUMNS, height=2.7, sharey=True)
    for place, (name, values) in zip(axes[0], panels.items(), strict=True):
        means = drawing.mean_of(name)[0](values[:, :, -1])
        norm = drawing.common_log_norm(means)
        empty = _axes.why_empty(group.diverged[:, :, -1], absent.get(name, ""))
        drawing.heat_map(place, means, percent, group.width, norm=norm, empty=empty)
        drawing.peak_marks(place, means)
        drawing.boundary(place, accuracy >= statistics["interpolation_accuracy"])
        drawing.equality_row(place, group)
        place.set_title(drawing.short_title(name))
        place.set_xlabel("label noise (%)")
        drawing.colour_bar(figure, place, norm)
    axes[0, 0].set_ylabel(labels.WIDTH)
    style.legend(
        figure,
        [drawing.peak_key(), drawing.key(color="black"), drawing.key(**drawing.EQUALITY)],
        ["largest value of the noise level", "interpolation threshold", "p = n"],
        columns=3,
    )
    style.heading(figure, group, f"epoch {group.epoch[-1]}")
    return figure

"""Test error, test loss and both Lipschitz bounds over width and label noise, at the last epoch.

Heat maps of the mean over seeds, a geometric one but of errors, colours on a log scale, one for
both bounds; where there is room the values stand in their cells. Bounds are the best certified ones
in l2, or the largest estimate where nothing is proved from below. White dots: a peak over width at
that label noise that is more than noise: the seeds show, with the same confidence for each level, a
rise to it and a fall from it to the largest width; fewer than four seeds show none. Black line: the
first width whose mean train accuracy, on the labels trained on, reaches the interpolation accuracy
(99.5 % unless configured otherwise). Dotted: as many parameters as training samples, p = n.
Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _heat_maps as heat_maps
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    panels, absent = drawing.outcomes_and_bounds(group, loss)
    accuracy = stats.mean(ladder.metric(group, "train_accuracy")[:, :, -1])
    outcomes = drawing.outcomes(group, loss)
    bounds = [stats.centre(v[:, :, -1]) for name, v in panels.items() if name not in outcomes]
    percent = 100 * np.asarray(group.label_noise)
    figure, axes = style.new_figure(1, 4, height=3, sharey=True)
    numbers = heat_maps.has_room(axes[0, 0], percent, group.width)
    for place, (name, values) in zip(axes[0], panels.items(), strict=True):
        means = drawing.mean_of(name)[0](values[:, :, -1])
        norm = heat_maps.common_log_norm(means, *(bounds if name not in outcomes else []))
        heat_maps.heat_map(
            place, means, percent, group.width, norm=norm,
            empty=absent.get(name, ""), diverged=group.diverged[:, :, -1],
        )  # fmt: skip
        heat_maps.peak_marks(place, values[:, :, -1], statistics["confidence"], aside=numbers)
        if numbers:
            heat_maps.cell_numbers(place, means, norm)
        heat_maps.boundary(place, accuracy >= statistics["interpolation_accuracy"])
        heat_maps.equality_row(place, group)
        place.set_title(drawing.short_title(name))
        place.set_xlabel("label noise (%)")
        if not numbers and name in outcomes:
            heat_maps.colour_bar(figure, place, norm, most=4)
    if not numbers:
        heat_maps.colour_bar(figure, axes[0, 2:].tolist(), norm, most=8)
    axes[0, 0].set_ylabel(labels.width_name(group.width_unit))
    style.legend(figure, heat_maps.KEYS, columns=3)
    style.heading(figure, group, f"epoch {group.epoch[-1]}")
    return figure

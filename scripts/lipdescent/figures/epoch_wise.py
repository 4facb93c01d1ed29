"""Test error, test loss and both Lipschitz bounds over width and training epoch.

Heat maps of the mean over seeds, a geometric one but of errors, colours on a log scale that a
column shares, both bounds one and the same; rows are the least and the most label noise. Bounds are
the best certified ones in l2, or the largest estimate where nothing is proved from below. White
dots: a peak over width at that epoch that is more than noise: the seeds show, with the same
confidence for each epoch, a rise to it and a fall from it to the largest width; fewer than four
seeds show none. Black line: the first width whose mean
train accuracy, on the labels trained on, reaches the interpolation accuracy (99.5 % unless
configured otherwise) by that epoch; where there is none, no width does. Orange line: the epoch with
the least mean test loss of that width. Dotted: as many parameters as training samples, p = n. Along
a row time passes, along a column networks grow; which peaks over epochs are more than noise is in
epoch_curves. Diverged models are left out and counted in the heading.
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
    bounds = list(panels.values())[2:]
    best = stats.centre(ladder.metric(group, "test_loss"))
    accuracy = stats.mean(ladder.metric(group, "train_accuracy"))
    rows = group.noise_ends
    figure, axes = style.new_figure(
        len(rows), 4, height=0.6 + 1.9 * len(rows), sharex=True, sharey=True
    )
    for column, (name, values) in enumerate(panels.items()):
        means = drawing.mean_of(name)[0](values)
        if column != 3:  # both sides of the bracket have one scale
            shown = means if column < 2 else np.stack([*map(stats.centre, bounds)])
            norm = heat_maps.common_log_norm(shown[..., rows, :])
        for place, noise in zip(axes[:, column], rows, strict=True):
            heat_maps.heat_map(
                place, means[:, noise], group.epoch, group.width, norm=norm,
                empty=absent.get(name, ""), diverged=group.diverged[:, noise],
            )  # fmt: skip
            heat_maps.peak_marks(place, values[:, noise], statistics["confidence"])
            heat_maps.boundary(place, accuracy[:, noise] >= statistics["interpolation_accuracy"])
            heat_maps.least_line(place, best[:, noise])
            heat_maps.equality_row(place, group)
        axes[0, column].set_title(drawing.short_title(name))
        axes[-1, column].set_xlabel("epoch")
        if column != 2:
            whose = axes[:, column] if column < 2 else axes[:, 2:].ravel().tolist()
            heat_maps.colour_bar(figure, whose, norm, most=4 if column < 2 else 8)
    for place, noise in zip(axes[:, 0], rows, strict=True):
        level = labels.noise_name(group.label_noise[noise])
        place.set_ylabel(f"label noise {level}\n{labels.width_name(group.width_unit)}")
    style.legend(figure, heat_maps.KEYS, columns=4)
    style.heading(figure, group)
    return figure

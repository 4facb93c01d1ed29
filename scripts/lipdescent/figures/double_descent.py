"""Losses, accuracy and Lipschitz bounds over width, at the last epoch.

Top: test loss, train loss and train accuracy, the latter two on the labels trained on, noisy ones
included. Bottom: the best certified lower and the best certified upper bound on the Lipschitz
constant in l2 (logits per unit of input), and the certified bracket between the two for the least
and the most label noise (dashed: lower, solid: upper): the true constants, in geometric mean over
seeds, lie inside. Where nothing is proved from below, as for attention, the largest estimate is
shown, by that name. Lines are means over seeds, geometric ones but of accuracies and of losses that
can be negative; bands are Student's t intervals of these means (95 % unless configured otherwise),
with fewer than four seeds the range over them: the heading says which. A ring marks the
interpolation threshold: the first width whose mean train accuracy reaches the dashed line (99.5 %
unless configured otherwise). Whether a curve has a peak beyond noise is in the findings. Diverged
models are left out and counted in the heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    accuracy = ladder.metric(group, "train_accuracy")
    bounded, absent = drawing.loss_and_bounds(group, loss)
    (test_name, test_loss), *bounds = bounded.items()
    panels = {
        test_name: test_loss,
        labels.loss_name("train", loss): ladder.metric(group, "train_loss"),
        "train accuracy": accuracy,
    } | dict(bounds)
    colours, level = style.noise_colours(group.label_noise), statistics["interpolation_accuracy"]
    mean_accuracy = stats.mean(accuracy[:, :, -1]).T
    threshold = stats.first_reaching(mean_accuracy, group.width, level=level)
    figure, axes = style.new_figure(2, 3, width=style.TWO_COLUMNS, height=4.3, sharex=True)
    for place, (name, values) in zip(axes.flat, panels.items(), strict=False):
        place.set_ylabel(name)
        if not np.isfinite(values[:, :, -1]).any():
            empty = _axes.why_empty(group.diverged[:, :, -1], absent.get(name, ""))
            _axes.say_nothing_here(place, empty)
            continue
        estimated = stats.mean_estimate if values is accuracy else stats.centre_estimate
        whole = estimated(values[:, :, -1], confidence=statistics["confidence"])
        for noise, colour in enumerate(colours.values()):
            y = stats.pick(whole, np.s_[:, noise])
            drawing.curve(place, group.width, y, color=colour)
            drawing.ring(place, group.width, y.value, threshold[noise], colour)
        if values is accuracy:
            place.axhline(level, color=style.GREY, linestyle="--", lw=0.7)
        else:
            _axes.log_values(place)
    _draw_bracket(axes[1], group, list(colours.values()))
    for place in axes.flat:
        _axes.width_axis(place, group.width)
    for place in axes[1]:
        place.set_xlabel(labels.WIDTH)
    drawing.noise_legend(figure, colours, {"interpolation threshold": drawing.ring_key()})
    band = stats.band_name(len(group.seed), statistics["confidence"])
    style.heading(figure, group, f"epoch {group.epoch[-1]}", band)
    return figure


def _draw_bracket(row: Sequence[Axes], group: Group, colours: Sequence[tuple]) -> None:
    """The bracket in the last place, over the range that the two sides beside it take."""
    last = row[-1]
    last.set_ylabel(f"certified bracket ({labels.NORMS['l2']})")
    lower, upper = (stats.geometric_mean(side[:, :, -1]) for side in ladder.bracket(group, "l2"))
    if not np.isfinite(lower).any():
        nothing = _axes.why_empty(group.diverged[:, :, -1], _axes.NO_BRACKET)
        _axes.say_nothing_here(last, nothing)
        return
    for noise in sorted({0, len(colours) - 1}):
        sides = lower[:, noise], upper[:, noise]
        drawing.bracket(last, group.width, *sides, colour=colours[noise])
    _axes.log_values(*row)

"""Losses, accuracy and Lipschitz bounds over width, at the last epoch.

Top: test loss, train loss and train accuracy, the latter two on the labels trained on, noisy ones
included. Bottom: the best certified lower and the best certified upper bound on the Lipschitz
constant in l2 (logits per unit of input), and the certified bracket between the two for the least
and the most label noise (dashed: lower, solid: upper): the true constants, averaged over seeds, lie
inside. Where nothing is proved from below, as for attention, the largest estimate is shown, by that
name. Lines are means over seeds, geometric ones but of accuracies and of losses that can be
negative; bands are Student's t intervals of these means (95 % unless configured otherwise), with
fewer than four seeds the range over them: the heading says which. A ring marks the interpolation
threshold: the first width whose mean train accuracy reaches the dashed line (99.5 % unless
configured otherwise). Whether a curve has a peak beyond noise is in the findings. Diverged models
are left out and counted in the heading.
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
    accuracy = ladder.metric(group, "train_accuracy")
    panels = {
        labels.loss_name("test", loss): ladder.metric(group, "test_loss"),
        labels.loss_name("train", loss): ladder.metric(group, "train_loss"),
        "train accuracy": accuracy,
    }
    sides = ladder.sides(group, "l2")
    panels |= {labels.bound_name(side, "l2"): values for side, values in sides.items()}
    absent = {labels.bound_name(side, "l2"): ladder.absence(group, side) for side in sides}
    colours = style.noise_colours(group.label_noise)
    threshold = stats.first_reaching(
        stats.mean(accuracy[:, :, -1]).T, group.width, level=statistics["interpolation_accuracy"]
    )
    figure, axes = style.new_figure(2, 3, width=style.TWO_COLUMNS, height=4.3, sharex=True)
    brackets, diverged = [], group.diverged[:, :, -1]
    for place, (name, values) in zip(axes.flat, panels.items(), strict=False):
        place.set_ylabel(name)
        if not np.isfinite(values[:, :, -1]).any():
            _axes.say_nothing_here(place, _axes.why_empty(diverged, absent.get(name, "")))
            continue
        estimated = stats.mean_estimate if values is accuracy else stats.centre_estimate
        whole = estimated(values[:, :, -1], confidence=statistics["confidence"])
        for noise, level in enumerate(group.label_noise):
            y = stats.pick(whole, np.s_[:, noise])
            drawing.curve(place, group.width, y, color=colours[level])
            drawing.ring(place, group.width, y.value, threshold[noise], colours[level])
        if values is accuracy:
            place.axhline(
                statistics["interpolation_accuracy"], color=style.GREY, linestyle="--", lw=0.7
            )
        else:
            brackets += [place] if place in axes[1] else []
            _axes.log_values(place)

    last = axes[1, 2]
    last.set_ylabel(f"certified bracket ({labels.NORMS['l2']})")
    lower, upper = (stats.geometric_mean(side[:, :, -1]) for side in ladder.bracket(group, "l2"))
    if np.isfinite(lower).any():
        for noise in sorted({0, len(group.label_noise) - 1}):
            colour = colours[group.label_noise[noise]]
            drawing.bracket(last, group.width, lower[:, noise], upper[:, noise], colour=colour)
        _axes.log_values(*brackets, last)
    else:
        _axes.say_nothing_here(last, _axes.why_empty(diverged, "needs a lower and\nan upper bound"))

    for place in axes.flat:
        _axes.width_axis(place, group.width)
    for place in axes[1]:
        place.set_xlabel(labels.WIDTH)
    handles = [drawing.key(color=colours[level], marker="o") for level in group.label_noise]
    names = [labels.noise_name(level) for level in group.label_noise]
    style.legend(
        figure,
        [drawing.key(linestyle=""), *handles, drawing.ring_key()],
        ["label noise", *names, "interpolation threshold"],
        columns=len(names) + 2,
    )
    band = stats.band_name(len(group.seed), statistics["confidence"])
    style.heading(figure, group, f"epoch {group.epoch[-1]}", band)
    return figure

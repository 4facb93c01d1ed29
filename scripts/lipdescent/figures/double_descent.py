"""Errors, losses, accuracy and Lipschitz bounds over width, at the last epoch.

Top: test error, the share of test points that are classified wrongly; test loss; train accuracy on
the labels trained on, noisy ones included. Bottom: the best certified lower and the best certified
upper bound on the Lipschitz constant in l2 (logits per unit of input), and the certified bracket
between the two for the least and the most label noise (dashed: lower, solid: upper): the true
constants, in geometric mean over seeds, lie inside. Where nothing is proved from below, as for
attention, the largest estimate is shown, by that name. Lines are means over seeds, geometric ones
but of errors, accuracies and of losses that can be negative; bands are Student's t intervals of
these means (95 % unless configured otherwise), with fewer than four seeds the range over them: the
heading says which. Short dashes, for the least and the most label noise: the same networks at the
checkpoint with the least test loss (chosen on the very test points, so it is what perfect early
stopping could reach). A ring marks the interpolation threshold: the first width whose mean train
accuracy reaches the dashed line (99.5 % unless configured otherwise); p = n: as many parameters as
training samples; chance: a guess that takes all classes alike. Whether a curve has a peak beyond
noise is in the findings. Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import early_stopping, labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    accuracy = ladder.metric(group, "train_accuracy")
    bounded, absent = drawing.outcomes_and_bounds(group, loss)
    outcomes, chances = drawing.outcomes(group, loss), drawing.chances(group, loss)
    bounds = {name: values for name, values in bounded.items() if name not in outcomes}
    panels = outcomes | {"train accuracy": accuracy} | bounds
    looks, level = style.level_looks(group.label_noise), statistics["interpolation_accuracy"]
    mean_accuracy = stats.mean(accuracy[:, :, -1]).T
    threshold = stats.first_reaching(mean_accuracy, group.width, level=level)
    figure, axes = style.new_figure(2, 3, height=4.6, sharex=True)
    for place, (name, values) in zip(axes.flat, panels.items(), strict=False):
        place.set_ylabel(name)
        if not np.isfinite(values[:, :, -1]).any():
            _axes.say_nothing_here(place, absent.get(name, ""), diverged=group.diverged[:, :, -1])
            continue
        whole = drawing.mean_of(name)[1](values[:, :, -1], confidence=statistics["confidence"])
        for noise, look in enumerate(looks.values()):
            y = stats.pick(whole, np.s_[:, noise])
            drawing.curve(place, group.width, y, **look)
            drawing.ring(place, group.width, y.value, threshold[noise], look["color"])
        if name in outcomes:
            _draw_best(place, group, name, values, list(looks.values()))
        if values is accuracy:
            drawing.level_line(place, level)
        elif name != labels.ERROR:
            _axes.log_values(place)
        drawing.chance_line(place, chances.get(name))
    _draw_bracket(axes[1], group, list(looks.values()))
    drawing.over_width(axes.flat, group)
    drawing.noise_legend(figure, looks)
    style.heading(figure, group, f"epoch {group.epoch[-1]}", confidence=statistics["confidence"])
    return figure


def _draw_best(
    axes: Axes, group: Group, name: str, values: Array, looks: Sequence[Mapping[str, Any]]
) -> None:
    """The mean at each network's own best checkpoint, for the least and the most label noise."""
    if len(group.epoch) < 2:
        return
    best = early_stopping.best_epoch(ladder.metric(group, "test_loss"))
    stopped = drawing.mean_of(name)[0](early_stopping.at(values, best))
    for noise in group.noise_ends:
        axes.plot(
            group.width, stopped[:, noise], gid="stopped", **drawing.BEST | dict(looks[noise])
        )


def _draw_bracket(row: Sequence[Axes], group: Group, looks: Sequence[Mapping]) -> None:
    """The bracket in the last place, over the range that the two sides beside it take."""
    last = row[-1]
    last.set_ylabel(labels.constant_name("certified bracket", "l2"))
    lower, upper = (stats.geometric_mean(side[:, :, -1]) for side in ladder.bracket(group, "l2"))
    if not np.isfinite(lower).any():
        _axes.say_nothing_here(last, _axes.NO_BRACKET, diverged=group.diverged[:, :, -1])
        return
    for noise in group.noise_ends:
        sides = lower[:, noise], upper[:, noise]
        drawing.bracket(last, group.width, *sides, look=looks[noise])
    _axes.log_values(*row)

"""Errors, losses and Lipschitz bounds over training, for up to three widths.

Columns: the smallest width, the critical one and the largest. Critical is the first width whose
mean train accuracy, at the last epoch, on the labels trained on and with the least label noise,
reaches the interpolation accuracy (99.5 % unless configured otherwise); where none does, there is
no such column. Rows: test error; test loss; train loss on the labels trained on; and the certified
bracket of the Lipschitz constant in l2 (logits per unit of input) between the best lower bound
(dashed) and the best upper bound (solid), for the least and the most label noise; where there is no
bracket but an estimate from below, as for attention, the estimate alone. Lines are geometric means
over seeds (plain ones of losses that can be negative); bands in the upper rows are Student's t
intervals of these means (95 % unless configured otherwise), with fewer than four seeds the range
over them: the heading says which. Vertical lines, one per label noise: the best epoch, of the least
mean test loss; chance: a guess that takes all classes alike. A ring marks a peak over epochs: the
seeds show, with the same confidence for each curve, a rise to it and a fall from it to the last
epoch; fewer than four seeds show none. Diverged models are left out and counted in the heading.
"""

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
    outcomes, chances = drawing.outcomes(group, loss), drawing.chances(group, loss)
    train = {labels.loss_name("train", loss): ladder.metric(group, "train_loss")}
    columns = ladder.telling_widths(group, statistics["interpolation_accuracy"], smallest=True)
    best = stats.centre(ladder.metric(group, "test_loss"))
    confidence, looks = statistics["confidence"], style.level_looks(group.label_noise)
    figure, axes = style.new_figure(4, len(columns), height=7.2, sharex=True, sharey="row")
    for row, (name, values) in zip(axes, (outcomes | train).items(), strict=False):
        row[0].set_ylabel(name)
        for place, width in zip(row, columns, strict=True):
            whole = drawing.mean_of(name)[1](values[width], confidence=confidence)
            for noise, level in enumerate(group.label_noise):
                y = stats.pick(whole, noise)
                drawing.curve(place, group.epoch, y, **looks[level])
                peak = drawing.peak(values[width, noise], confidence) if name in outcomes else -1
                if peak >= 0:
                    at, colour = group.epoch[peak], looks[level]["color"]
                    drawing.ring(place, group.epoch, y.value, at, colour, gid="peak")
        if name != labels.ERROR:
            _axes.log_values(*row)
        for place in row:
            drawing.chance_line(place, chances.get(name))
    _draw_brackets(axes[3], group, list(columns), looks)
    for place, (width, role) in zip(axes[0], columns.items(), strict=True):
        place.set_title(f"width {group.width[width]} ({role})")
    for place in axes.flat:
        _axes.epoch_axis(place, group.epoch)
    for column, width in zip(axes.T, columns, strict=True):
        drawing.best_epochs(column, group, best[width], list(looks.values()))
    for place in axes[3]:
        place.set_xlabel("epoch")
    drawing.noise_legend(figure, looks)
    style.heading(figure, group, confidence=confidence)
    return figure


def _draw_brackets(row: Sequence[Axes], group: Group, widths: Sequence[int], looks: dict) -> None:
    """Bracket in l2, or the estimate, of least and most label noise; or why there is none."""
    lower, upper = (stats.geometric_mean(side) for side in ladder.bracket(group, "l2"))
    estimate = stats.geometric_mean(ladder.best(group, "estimate", "l2"))
    name = labels.constant_name("certified bracket", "l2")
    if not np.isfinite(lower).any() and np.isfinite(estimate).any():
        name, lower, upper = labels.bound_name("estimate", "l2"), estimate, estimate
    row[0].set_ylabel(name)
    for place, width in zip(row, widths, strict=True):
        if not np.isfinite(lower).any():
            _axes.say_nothing_here(place, _axes.NO_BRACKET)
            continue
        for noise in group.noise_ends:
            sides = lower[width, noise], upper[width, noise]
            drawing.bracket(place, group.epoch, *sides, look=looks[group.label_noise[noise]])
    _axes.log_values(*row)

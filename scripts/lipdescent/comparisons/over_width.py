"""All architectures over width, at the last epoch; columns from the least to the most label noise.

Train accuracy on the labels trained on, noisy ones included; test error, the share of test points
that are classified wrongly; test loss (each architecture's own training loss: with a temperature
tau, the cross-entropy of tau times the logits), losses of different kinds in rows of their own; the
certified bracket on the Lipschitz constant in l2 (dashed: best lower, solid: best upper bound; the
true constants, in geometric mean over seeds, lie between); and, where certificates were measured,
the mean l2 radius within which the labels trained on are certain, wrong ones counted as 0: the
margin relative to the constant. Lines are means over seeds, geometric ones but of accuracies,
errors and of losses that can be negative; bands are Student's t intervals of these means (95 %
unless configured otherwise), with fewer than four seeds the range over them: the heading says
which. A ring marks the interpolation threshold: the first width whose mean train accuracy reaches
the dashed line (99.5 % unless configured otherwise). Diverged models are left out and counted in
the heading.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group, Series
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style

BRACKET = labels.constant_name("certified bracket", "l2")


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    looks, first = side_by_side.styles(groups), next(iter(groups.values()))
    apart = side_by_side.losses_apart(losses)
    panels = {
        "train accuracy": Series("train_accuracy", "metric", "", "train"),
        labels.ERROR: Series("test_accuracy", "metric", "", "test"),
        **dict.fromkeys(apart, Series("test_loss", "metric", "", "test")),
        BRACKET: None,
        "mean certified\nradius (train)": Series("mean_certified_radius", "metric", "l2", "train"),
    }
    panels = {
        title: series
        for title, series in panels.items()
        if series is None or any(series in group.series for group in groups.values())
    }
    noises = side_by_side.spread(len(first.label_noise))
    figure, axes = style.new_figure(
        len(panels), len(noises), height=0.8 + 1.6 * len(panels), sharex=True, sharey="row"
    )
    for name, group in groups.items():
        for column, noise in zip(axes.T, noises, strict=True):
            # Not the losses of other kinds.
            own = {t: what for t, what in panels.items() if name in apart.get(t, [name])}
            rows = [place for place, t in zip(column, panels, strict=True) if t in own]
            _draw_group(rows, list(own.values()), group, noise, looks[name], statistics)
    for row, title in zip(axes, panels, strict=True):
        row[0].set_ylabel(title)
        if not any(place.lines for place in row):
            for place in row:
                _axes.say_nothing_here(place, _axes.NO_BRACKET)
        elif title not in ("train accuracy", labels.ERROR):
            _axes.log_values(*row)
    level = statistics["interpolation_accuracy"]
    for column, noise in zip(axes.T, noises, strict=True):
        drawing.level_line(column[0], level)
        column[0].set_title(f"label noise {labels.noise_name(first.label_noise[noise])}")
        column[-1].set_xlabel(side_by_side.width_name(groups))
    for place in axes.flat:
        _axes.width_axis(place, first.width)
    side_by_side.legend(figure, looks, drawing.MARKS)
    epoch = f"epoch {first.epoch[-1]}"
    side_by_side.heading(figure, groups, epoch, confidence=statistics["confidence"])
    return figure


def _draw_group(
    column: Sequence[Axes],
    panels: Sequence[Series | None],
    group: Group,
    noise: int,
    look: Mapping[str, str],
    statistics: Mapping[str, Any],
) -> None:
    """One architecture at one label noise: a series per panel, the bracket where it is None."""
    accuracy = stats.mean(ladder.metric(group, "train_accuracy")[:, noise, -1])
    level = statistics["interpolation_accuracy"]
    fitted = stats.first_reaching(accuracy, group.width, level=level)
    for place, series in zip(column, panels, strict=True):
        if series is None:
            lower, upper = (
                stats.geometric_mean(side[:, noise, -1]) for side in ladder.bracket(group, "l2")
            )
            if np.isfinite([lower, upper]).any():
                drawing.bracket(place, group.width, lower, upper, look=look)
                drawing.ring(place, group.width, upper, fitted, look["color"])
        elif series in group.series:
            plain = series.quantity in ("train_accuracy", "test_accuracy")
            estimated = stats.share_estimate if plain else stats.centre_estimate
            values = group.series[series][:, noise, -1]
            values = 1 - values if series.quantity == "test_accuracy" else values
            y = estimated(values, confidence=statistics["confidence"])
            drawing.curve(place, group.width, y, **look)
            drawing.ring(place, group.width, y.value, fitted, look["color"])

"""What stopping at the best checkpoint would have given, over width.

For the least and the most label noise. Left: test loss at the last epoch (solid, filled marks) and
the smallest over the checkpoints of each network (dashed, hollow marks). Middle: test error (1 -
accuracy), at the last epoch and at the checkpoint with the least test loss. Right: the epoch of
that checkpoint. The best checkpoint is chosen on the very test points it is judged by, so the
dashed lines are what perfect early stopping could reach, not what a validation set would. Lines are
means over seeds (geometric ones of losses, and of epochs + 1), bands Student's t intervals of these
means (95 % unless configured otherwise), with fewer than four seeds the range over them: the
heading says which. Dotted: as many parameters as training samples, p = n. Diverged models are left
out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import early_stopping, labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Estimate
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

# How the lines at the best checkpoint differ from those of the same label noise at the last epoch.
STOPPED: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white"}


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    confidence, losses = statistics["confidence"], ladder.metric(group, "test_loss")
    error = 1 - ladder.metric(group, "test_accuracy")
    best = early_stopping.best_epoch(losses)
    figure, ((left, middle, right),) = style.new_figure(1, 3, height=3.1)
    pairs = {left: (losses, stats.centre_estimate), middle: (error, stats.share_estimate)}
    levels = {noise: group.label_noise[noise] for noise in group.noise_ends}
    looks = style.level_looks(group.label_noise)
    for noise, level in levels.items():
        for place, (values, estimated) in pairs.items():
            last, stopped = values[:, noise, -1], early_stopping.at(values, best)[:, noise]
            for shown, how in ((last, {}), (stopped, STOPPED)):
                look = looks[level] | how
                drawing.mean_curve(
                    place, group.width, shown, confidence=confidence, estimated=estimated, **look
                )
        epochs = early_stopping.positions(best, group.epoch)[:, noise]
        if np.isfinite(epochs).any():
            y = stats.mean_estimate(epochs + 1, confidence=confidence, geometric=True)
            y = Estimate(*(part - 1 for part in y))
            y = stats.within(y, group.epoch[0], group.epoch[-1])
            drawing.curve(right, group.width, y, **looks[level] | STOPPED)
    left.set_ylabel(labels.loss_name("test", loss))
    middle.set_ylabel("test error")
    right.set_ylabel("epoch of the least test loss")
    panels = (left, middle, right)
    for place in panels:
        if not place.lines:
            _axes.say_nothing_here(place, "all models diverged")
    if left.lines:
        _axes.log_values(left)
        _axes.epoch_values(right, group.epoch)
    drawing.over_width(panels, group)
    entries = {f"label noise {labels.noise_name(n)}": looks[n] for n in levels.values()}
    for name, how in (("last epoch", {}), ("best checkpoint", STOPPED)):
        entries[name] = {"color": "black", "marker": "o"} | how
    drawing.legend(figure, entries, columns=5)
    style.heading(figure, group, confidence=confidence)
    return figure

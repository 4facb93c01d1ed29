"""Bias and variance over seeds of the test outputs, squared error, at the last epoch.

Columns: the least and the most label noise. Top: the squared error (summed over the classes, over
the test points), mean over seeds, is exactly the sum of the error of the seeds' mean output
("bias", which holds the labels' own noise too) and of the mean squared distance from it
("variance", over these seeds); the band of the error is Student's t interval of its mean (95 %
unless configured otherwise), with fewer than four seeds the range over them: the heading says
which. Bottom: the variance and what Lipschitz constants say of it. Solid: bounds that hold, with
certified upper bounds of the seeds' constants: the form of Khromov & Singh (2024) with the root
mean square of the seeds' bounds and one of their mean output, and a sharper one of ours. Dotted:
the paper's plug-in, lower bounds in their place, which bounds nothing. Upright dots: as many
parameters as training samples, p = n. Seeds differ in whatever the
study draws by them: weights, batches, label noise. Diverged models are left out and counted in the
heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import bias_variance, labels
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

LOOKS = {
    "squared error": {"color": "black", "marker": "o", "gid": "error"},
    "bias": {"color": style.OKABE_ITO[0], "marker": "s"},
    "variance": {"color": style.OKABE_ITO[1], "marker": "^"},
    "variance, paper's form (certified)": {"color": style.OKABE_ITO[3], "marker": "D"},
    "variance, sharper form (certified)": {"color": style.OKABE_ITO[2], "marker": "v"},
    "paper's plug-in (no bound)": {"color": style.GREY, "marker": "x", "linestyle": ":"},
}


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    found, noises = bias_variance.parts(group), group.noise_ends
    figure, axes = style.new_figure(2, len(noises), height=4.4, sharex=True, sharey="row")
    for column, noise in zip(axes.T, noises, strict=True):
        level = labels.noise_name(group.label_noise[noise])
        column[0].set_title(f"label noise {level}")
        if found is None or not np.isfinite(found.variance[:, noise, -1]).any():
            for place in column:
                _axes.say_nothing_here(place, _why(group, loss), diverged=group.diverged[:, :, -1])
            continue
        error = stats.mean_estimate(
            found.each_error[:, noise, -1], confidence=statistics["confidence"]
        )
        drawing.curve(column[0], group.width, error, **LOOKS["squared error"])
        lines = zip(
            (column[0], column[0], column[1], column[1], column[1], column[1]),
            ("bias", "variance", "variance", *list(LOOKS)[3:]),
            (found.bias, found.variance, found.variance,
             found.certified, found.sharper, found.plug_in),
            strict=True,
        )  # fmt: skip
        for place, name, values in lines:
            place.plot(group.width, values[:, noise, -1], **LOOKS[name])
    for row, name in zip(axes, ("squared test error", "variance and its bounds"), strict=True):
        row[0].set_ylabel(name)
        _axes.log_values(*row)
    drawing.over_width(axes.flat, group)
    drawing.legend(figure, LOOKS, columns=3)
    style.heading(figure, group, f"epoch {group.epoch[-1]}", confidence=statistics["confidence"])
    return figure


def _why(group: Group, loss: str) -> str:
    """What a panel without values says, unless all models diverged."""
    if len(group.seed) < 2:
        return "one seed has no variance"
    if loss != "mean_squared_error":
        return "error and variance\nadd up for the\nsquared loss only"
    return "not measured: quantities\nhas no bias_variance"

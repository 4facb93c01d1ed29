"""The ensemble over seeds against its members, over width, at the last epoch.

Columns: the least and the most label noise. Top: test cross-entropy; bottom: test error, the share
of test points that are classified wrongly. Black: mean over the seeds' networks (a plain one, which
neither ensemble's loss exceeds, by Jensen's inequality; no such thing holds of errors); bands are
Student's t intervals of these means (95 % unless configured otherwise), with fewer than four seeds
the range over them: the heading says which. Coloured: one predictor that takes the mean of the
seeds' probabilities, and one that takes the mean of their logits; each is a single value of all
these seeds, so it has no band. Upright dots: as many parameters as training samples, p = n. Seeds
differ in whatever the study draws by them: weights, batches, label noise. Diverged models are left
out, of the ensembles too, and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group, Series
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

LOOKS = {
    "one network, mean over seeds": {"color": "black", "marker": "o", "gid": "one"},
    "ensemble, mean of probabilities": {"color": style.OKABE_ITO[0], "marker": "s"},
    "ensemble, mean of logits": {"color": style.OKABE_ITO[1], "marker": "^", "linestyle": "--"},
}
MEANS = ("softmax", "logits")


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    noises, nothing = group.noise_ends, np.full(group.diverged.shape, np.nan)
    figure, axes = style.new_figure(2, len(noises), height=4.4, sharex=True, sharey="row")
    rows = {
        "loss": ladder.metric(group, "test_loss"),
        "error": 1 - ladder.metric(group, "test_accuracy"),
    }
    absent = "not measured: quantities\nhas no ensemble"
    for column, noise in zip(axes.T, noises, strict=True):
        column[0].set_title(f"label noise {labels.noise_name(group.label_noise[noise])}")
        for place, (what, own) in zip(column, rows.items(), strict=True):
            keys = [Series(f"ensemble_{what}_of_mean_{of}", "metric", "", "test") for of in MEANS]
            each = [group.series.get(key, nothing)[:, noise, -1] for key in keys]
            if not np.isfinite(each).any():
                _axes.say_nothing_here(place, absent, diverged=group.diverged[:, noise, -1])
                continue
            estimated = stats.share_estimate if what == "error" else stats.mean_estimate
            y = estimated(own[:, noise, -1], confidence=statistics["confidence"])
            looks = list(LOOKS.values())
            drawing.curve(place, group.width, y, **looks[0])
            for values, look in zip(each, looks[1:], strict=True):
                place.plot(group.width, np.fmax.reduce(values, axis=-1), **look)  # shared by seeds
    axes[0, 0].set_ylabel(labels.loss_name("test", loss))
    axes[1, 0].set_ylabel("test error")
    _axes.log_values(*axes[0])
    drawing.over_width(axes.flat, group)
    drawing.legend(figure, LOOKS, columns=3)
    style.heading(figure, group, f"epoch {group.epoch[-1]}", confidence=statistics["confidence"])
    return figure

"""The Jacobian norm over the data, from its mean to the bounds on the Lipschitz constant.

Rows: the least and the most label noise. Left: over width at the last epoch; then over the training
epoch at the critical width (the first whose mean train accuracy, in the end and with the least
label noise, reaches the interpolation accuracy), if there is one, and at the largest. Dotted: as
many parameters as training samples, p = n. Solid blue: the mean over the training points of the l2
operator norm of the Jacobian at a point (logits per unit of input), dashed, hollow squares: over
the test points; blue region: the outermost quantiles over the training points, where the study
measured some. Grey: the certified bracket between the largest lower and the least upper bound.
Lines are geometric means over seeds, bands of the solid lines Student's t intervals of these means
(95 % unless configured otherwise), with fewer than four seeds the range over them: the heading says
which. Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group, Series
from lipdescent.analysis.statistics import Array, Axis
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

BLUE = style.OKABE_ITO[0]
HOLLOW: dict[str, Any] = {"marker": "s", "markersize": 5, "markerfacecolor": "none"}
KEYS: dict[str, dict[str, Any]] = {
    "mean, training points": {"color": BLUE, "marker": "o"},
    "mean, test points": {"color": BLUE, "linestyle": "--", **HOLLOW},
}
QUANTILES = {"color": BLUE, "linewidth": 5, "alpha": 0.15}
BRACKET = {"color": "0.8", "linewidth": 5}


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    noises = group.noise_ends
    columns = drawing.over_width_and_epochs(group, statistics["interpolation_accuracy"])
    figure, axes = style.new_figure(
        len(noises), len(columns), height=0.9 + 1.9 * len(noises),
        sharex="col", sharey=True,
    )  # fmt: skip
    for row, noise in zip(axes, noises, strict=True):
        for place, (title, (width, epoch, x)) in zip(row, columns.items(), strict=True):
            _panel(place, group, (width, noise, epoch), x, statistics["confidence"])
            if noise == noises[0]:
                place.set_title(title)
        level = labels.noise_name(group.label_noise[noise])
        name = labels.constant_name("norm or bound", "l2")
        row[0].set_ylabel(f"label noise {level}\n{name}")
    drawing.over_epochs(axes[:, 1:], group)
    _axes.log_values(*axes.flat)
    drawing.over_width(axes[:, 0], group)
    entries = dict(KEYS)
    if quantiles := _quantiles(group):
        entries[f"quantiles {quantiles[0][0]} to {quantiles[-1][0]} %"] = QUANTILES
    entries["certified bracket"] = BRACKET
    drawing.legend(figure, entries, columns=4)
    style.heading(figure, group, confidence=statistics["confidence"])
    return figure


def _panel(place: Axes, group: Group, index: tuple, x: Axis, confidence: float) -> None:
    lower, upper = (stats.geometric_mean(side[index]) for side in ladder.bracket(group, "l2"))
    if np.isfinite(lower).any():
        place.fill_between(x, lower, upper, color="0.8", linewidth=0.6)
    quantiles = [stats.geometric_mean(values[index]) for _, values in _quantiles(group)]
    if quantiles:
        place.fill_between(x, quantiles[0], quantiles[-1], color=BLUE, alpha=0.15, linewidth=0)
    for split, look in zip(("train", "test"), KEYS.values(), strict=True):
        values = group.series.get(Series("jacobian_norm_mean", "metric", "l2", split))
        if values is None or not np.isfinite(values[index]).any():
            continue
        whole = stats.centre_estimate(values[index], confidence=confidence)
        if split == "train":
            drawing.curve(place, x, whole, **look)
        else:
            place.plot(x, whole.value, **look)
    if not place.lines:
        absent = "no Jacobian norm\nin this study"
        _axes.say_nothing_here(place, absent, diverged=group.diverged[index])


def _quantiles(group: Group) -> list[tuple[str, Array]]:
    """(percent, values) of the training points, the smallest and the largest; none without two."""
    prefix = "jacobian_norm_q"
    found = {
        key.quantity.removeprefix(prefix): values
        for key, values in group.series.items()
        if key.quantity.startswith(prefix) and (key.norm, key.split) == ("l2", "train")
    }
    ordered = sorted(found.items(), key=lambda item: float(item[0]))
    return [ordered[0], ordered[-1]] if len(ordered) > 1 else []

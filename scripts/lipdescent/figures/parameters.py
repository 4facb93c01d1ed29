"""Where training leads in the space of parameters: how far, how fast, and how curved it is there.

Rows: what the study measured of the l2 distance from the initial parameters; the length of the way
over the checkpoints (that of the training itself is at least as long); the norm of the gradient of
the mean training loss, and the largest eigenvalue of its Hessian (an estimate from below, by
Lanczos), both with the labels trained on. Columns: over width at the last epoch; over the epoch at
the largest width. Lines are geometric means over seeds (plain ones where a value is negative),
bands Student's t intervals of these means (95 % unless configured otherwise), with fewer than four
seeds the range over them: the heading says which. Dotted: as many parameters as training samples, p
= n. Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group, Series
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

NORM = labels.NORMS["l2"]
# Of all parameters as one vector.
ROWS = {
    f"distance\nfrom init ({NORM})": Series("distance_from_init", "metric", "l2", ""),
    f"path length ({NORM})": Series("path_length", "metric", "l2", ""),
    f"gradient norm ({NORM})": Series("parameter_gradient_norm", "metric", "l2", "train"),
    "largest Hessian\neigenvalue": Series("hessian_largest_eigenvalue", "metric", "l2", "train"),
}


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    rows = {name: group.series[key] for name, key in ROWS.items() if key in group.series}
    rows = rows or {next(iter(ROWS)): np.full(group.diverged.shape, np.nan)}
    figure, axes = style.new_figure(
        len(rows), 2, height=0.9 + 1.5 * len(rows), sharex="col",
        sharey="row",
    )  # fmt: skip
    looks = style.level_looks(group.label_noise)
    for (name, values), row in zip(rows.items(), axes, strict=True):
        values = np.where(values == 0, np.nan, values)  # at epoch 0 nothing has moved
        row[0].set_ylabel(name)
        for place, x, shown in (
            (row[0], group.width, values[:, :, -1].swapaxes(0, 1)),
            (row[1], group.epoch, values[-1]),
        ):
            for curves, look in zip(shown, looks.values(), strict=True):
                drawing.mean_curve(place, x, curves, confidence=statistics["confidence"], **look)
            if not place.lines:
                diverged = group.diverged[:, :, -1]
                _axes.say_nothing_here(place, "not in this study", diverged=diverged)
        _axes.epoch_axis(row[1], group.epoch)
        if stats.has_logarithm(values):
            _axes.log_values(*row)
    axes[0, 0].set_title(f"epoch {group.epoch[-1]}")
    axes[0, 1].set_title(f"width {group.width[-1]}")
    drawing.over_width(axes[:, 0], group)
    axes[-1, 1].set_xlabel("epoch")
    entries = {f"label noise {labels.noise_name(level)}": look for level, look in looks.items()}
    drawing.legend(figure, entries, columns=5)
    style.heading(figure, group, confidence=statistics["confidence"])
    return figure

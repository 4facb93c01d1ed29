"""The network and its linearisation at initialisation, over the epoch, at the largest width.

Columns: the least and the most label noise. Top: largest and mean l2 operator norm of the Jacobian
over the training points, of the network (solid) and of its linearisation in the parameters at their
initial values (dashed), which moves in the features of the initialisation alone; estimates, not
bounds of any constant. Bottom: root mean square of the difference of their outputs, over that of
the network's outputs, at training and test points: at 1 the linearisation says nothing of the
network. Lines are geometric means over seeds, bands Student's t intervals of these means (95 %
unless configured otherwise), with fewer than four seeds the range over them: the heading says
which. Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels
from lipdescent.analysis.groups import Group, Series
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

LARGEST, MEAN = ({"color": style.OKABE_ITO[k], "marker": m} for k, m in ((0, "o"), (1, "s")))
DASHED = {"linestyle": "--"}
# Row -> name of the line -> what it shows.
ROWS: dict[str, dict[str, tuple[Series, dict[str, Any]]]] = {
    "Jacobian norm": {
        "largest": (Series("lower_jacobian", "lower", "l2", "train"), LARGEST),
        "mean": (Series("jacobian_norm_mean", "metric", "l2", "train"), MEAN),
        "largest, linearised": (
            Series("linearised_jacobian_norm_max", "metric", "l2", "train"), LARGEST | DASHED),
        "mean, linearised": (
            Series("linearised_jacobian_norm_mean", "metric", "l2", "train"), MEAN | DASHED),
    },
    "relative difference": {
        f"difference, {split} points": (
            Series("linearised_relative_error", "metric", "l2", split),
            {"color": style.OKABE_ITO[place], "marker": marker},
        )
        for split, place, marker in (("train", 2, "^"), ("test", 3, "D"))
    },
}  # fmt: skip


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    noises = group.noise_ends
    figure, axes = style.new_figure(2, len(noises), height=4.4, sharex=True, sharey="row")
    for column, noise in zip(axes.T, noises, strict=True):
        column[0].set_title(f"label noise {labels.noise_name(group.label_noise[noise])}")
        column[1].set_xlabel("epoch")
        for place, lines in zip(column, ROWS.values(), strict=True):
            for name, (key, look) in lines.items():
                found = group.series.get(key, np.full(group.diverged.shape, np.nan))[-1, noise]
                found = np.where(found > 0, found, np.nan)  # at the start nothing has moved
                drawing.mean_curve(
                    place, group.epoch, found,
                    confidence=statistics["confidence"], gid=name, **look,
                )  # fmt: skip
            if not place.lines:
                absent = "not measured: quantities\nhas no linearised"
                _axes.say_nothing_here(place, absent, diverged=group.diverged[-1, noise])
            _axes.epoch_axis(place, group.epoch)
    for row, name in zip(axes, ROWS, strict=True):
        of_constants = name == next(iter(ROWS))
        row[0].set_ylabel(labels.constant_name(name, "l2") if of_constants else name)
        _axes.log_values(*row)
    looks = {n: lines[n][1] | {"gid": n} for lines in ROWS.values() for n in lines}
    style.legend(figure, looks, columns=4)
    style.heading(figure, group, f"width {group.width[-1]}", confidence=statistics["confidence"])
    return figure

"""Power laws over the study's further axes of numbers: exponents of the bounds, the mean Jacobian
norm and the true constant.

A row for each axis at each value of the others (of more than five rows both ends and three
between), at the largest width and the last epoch. Left and middle, for the least and the most label
noise: geometric means over seeds in l2 (markers; the mean Jacobian norm is over the training
points) and lines by least squares through their logarithms; a value of 0 has none and is left out.
All lines of a panel start together: at the value in the configuration (statistics.fit_from), or
else at the first one from which every curve stays within a factor 1.1 of its line, with at least
three points. Right: the exponents (least noise filled, most noise hollow) with Student's t
intervals of their means over seeds (95 % unless configured otherwise), with fewer than four seeds
the range over them: the heading says which. Black bars: what the brackets prove of the true
constant over the same range, thick of its exponent by least squares, thin of its average exponent
between the two ends; both are means over the seeds measured here, and need no power law to hold.
Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels, point_slopes
from lipdescent.analysis.groups import Group
from lipdescent.analysis.slopes import Panel
from lipdescent.figures import _axes, _power_laws
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style

MAX_ROWS = 5


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    found = point_slopes.panels(list(groups.values()), norm="l2", options=statistics)
    rows = _power_laws.rows(found)
    rows = [rows[place] for place in side_by_side.spread(len(rows), most=MAX_ROWS)] if rows else []
    looks = _power_laws.looks(groups.values())
    height = 0.9 + 1.75 * max(len(rows), 1)
    figure, axes = style.new_figure(max(len(rows), 1), 3, height=height)
    if not rows:
        for place in axes[0]:
            _axes.say_nothing_here(place, "no further axis\nof numbers")
            place.set_xticks([])
    diverged = np.array([group.diverged.all() for group in groups.values()])
    for row, panels in zip(axes, rows, strict=False):
        title = partial(_where, found=found)
        _power_laws.draw_row(row, panels, looks, title=title, diverged=diverged)
    _power_laws.legend(figure, looks)
    first = next(iter(groups.values()))
    told = [labels.place_name(name, getattr(first, name)[-1].item()) for name in ("width", "epoch")]
    side_by_side.heading(figure, groups, *told, confidence=statistics["confidence"], drawn="bars")
    return figure


def _where(panel: Panel, found: list[Panel]) -> str:
    """The values of what differs from panel to panel, and the label noise."""
    same = set.intersection(*(set(each.at.items()) for each in found))
    parts = [
        labels.place_name(name, value)
        for name, value in panel.at.items()
        if (name, value) not in same and name != "label_noise"
    ]
    return ", ".join([*parts, f"noise {labels.noise_name(float(panel.at['label_noise']))}"])

"""How closely each Lipschitz bound follows the test loss over width, at the last epoch.

Spearman's and Kendall's (tau-b) rank correlation, over all widths, between the bound and the test
loss of the networks of one seed; 1: both rise and fall together. One marker per bound: the median
over seeds, with the range over seeds as a bar. Bounds are in l2. Diverged models are left out and
counted in the heading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    test_loss = ladder.metric(group, "test_loss")[:, :, -1]
    rungs, styles = ladder.rungs(group, "l2"), style.rung_styles(ladder.all_rungs(group))
    positions, diverged = np.arange(len(group.label_noise)), group.diverged[:, :, -1]
    figure, axes = style.new_figure(1, 2, width=style.TWO_COLUMNS, height=2.6, sharey=True)
    measures = {
        "Spearman's rank correlation": stats.spearman,
        "Kendall's rank correlation": stats.kendall,
    }
    for place, (name, correlation) in zip(axes[0], measures.items(), strict=True):
        for shift, (rung, values) in zip(drawing.shifts(len(rungs)), rungs.items(), strict=True):
            y = stats.correlation_over_width(correlation, values[:, :, -1], test_loss)
            drawing.points(place, positions + shift, y, **styles[rung])
        place.set_title(name)
        place.set_xlabel("label noise (%)")
        place.set_xticks(positions, [f"{100 * level:g}" for level in group.label_noise])
        place.set_xlim(-0.6, len(positions) - 0.4)
        place.axhline(0, color=style.GREY, lw=0.6)
        if not rungs or diverged.all():
            _axes.say_nothing_here(place, _axes.why_empty(diverged, "no bound in this study"))
        elif len(group.width) < stats.MIN_POINTS:
            _axes.say_nothing_here(place, f"needs {stats.MIN_POINTS} widths")
    lowest = min(place.dataLim.y0 for place in axes[0])
    axes[0, 0].set_ylim(min(lowest, 0.0) - 0.08, 1.08)
    axes[0, 0].set_ylabel("with the test loss, over width")
    handles = [drawing.key(**styles[rung] | {"linestyle": ""}) for rung in rungs]
    style.legend(figure, handles, [labels.rung_name(rung) for rung in rungs], columns=5)
    style.heading(figure, group, style.count(len(group.width), "width"), f"epoch {group.epoch[-1]}")
    return figure

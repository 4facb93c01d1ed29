"""How closely each Lipschitz bound follows the test error and the test loss over width, in the end.

Spearman's rank correlation, over all widths at the last epoch, between a bound and what the panel
names, of the networks of one seed; 1: both rise and fall together. One marker per bound: the median
over seeds, with the range over seeds as a bar. Bounds are in l2. The logits' scale moves a bound
and the test loss alike, and no prediction: the last panel is the test cross-entropy at a fitted
scale, of each network's logits times the number that is best on one half of the test points, judged
on the other half, both ways. What the bounds follow there and in the test error is not scale.
Diverged models are left out and counted in the heading.
"""

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
from lipdescent.jobs.words import counted


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    followed = drawing.outcomes(group, loss) | {labels.CALIBRATED: ladder.calibrated_loss(group)}
    rungs, styles = ladder.rungs(group, "l2"), style.rung_styles(ladder.all_rungs(group))
    positions, diverged = np.arange(len(group.label_noise)), group.diverged[:, :, -1]
    figure, axes = style.new_figure(1, 3, height=2.6, sharey=True)
    for place, (name, values) in zip(axes[0], followed.items(), strict=True):
        for shift, (rung, bound) in zip(drawing.shifts(len(rungs)), rungs.items(), strict=True):
            y = stats.correlation_over_width(stats.spearman, bound[:, :, -1], values[:, :, -1])
            drawing.points(place, positions + shift, y, **styles[rung])
        place.set_title(f"with the {name.partition(' (')[0]}")  # ranks have no unit
        place.set_xlabel("label noise (%)")
        place.set_xticks(positions, [f"{100 * level:g}" for level in group.label_noise])
        place.set_xlim(-0.6, len(positions) - 0.4)
        place.axhline(0, color=style.GREY, lw=0.6)
        if not rungs or diverged.all():
            _axes.say_nothing_here(place, "no bound in this study", diverged=diverged)
        elif len(group.width) < stats.MIN_POINTS:
            _axes.say_nothing_here(place, f"needs {stats.MIN_POINTS} widths")
        elif not np.isfinite(values).any():
            _axes.say_nothing_here(place, "not measured", ticks=True)
    lowest = min(place.dataLim.y0 for place in axes[0])
    axes[0, 0].set_ylim(min(lowest, 0.0) - 0.08, 1.08)
    axes[0, 0].set_ylabel("Spearman's rank correlation\nover width")
    entries = {labels.rung_name(rung): styles[rung] | {"linestyle": ""} for rung in rungs}
    style.legend(figure, entries, columns=5)
    style.heading(figure, group, counted(len(group.width), "width"), f"epoch {group.epoch[-1]}")
    return figure

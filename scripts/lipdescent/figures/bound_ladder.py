"""Every Lipschitz bound of the study over width, at the last epoch.

Solid lines: certified upper bounds; dashed: certified lower bounds, the largest over all the data
they were taken on; dotted: estimates, whose rounding is not proved. The true constants, averaged
over seeds, lie in the grey region between the best of each. One row per norm, columns from the
least to the most label noise. Lines are geometric means over seeds; bands are Student's t intervals
of these means (95 % unless configured otherwise), with fewer than four seeds the range over them:
the heading says which. Dotted: as many parameters as training samples, p = n. Diverged models are
left out and counted in the heading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    rungs = ladder.all_rungs(group)
    styles, norms = style.rung_styles(rungs), ladder.norms(group) or ["l2"]
    last = len(group.label_noise) - 1
    noises = sorted({0, last // 2, last})
    figure, axes = style.new_figure(
        len(norms),
        len(noises),
        width=style.TWO_COLUMNS,
        height=0.8 + 2.0 * len(norms),
        sharex=True,
        sharey="row",
    )
    for row, norm in zip(axes, norms, strict=True):
        row[0].set_ylabel(f"Lipschitz bound ({labels.NORMS[norm]})")
        lower, upper = (
            stats.geometric_mean(side[:, :, -1]) for side in ladder.bracket(group, norm)
        )
        for place, noise in zip(row, noises, strict=True):
            place.fill_between(group.width, lower[:, noise], upper[:, noise], color="0.88", lw=0)
            for rung, values in ladder.rungs(group, norm).items():
                y = stats.centre_estimate(values[:, noise, -1], confidence=statistics["confidence"])
                drawing.curve(place, group.width, y, **styles[rung])
            diverged = group.diverged[:, noise, -1]
            if not rungs or diverged.all():
                _axes.say_nothing_here(place, _axes.why_empty(diverged, "no bound in this study"))
        if rungs:
            _axes.log_values(*row)
    for place, noise in zip(axes[0], noises, strict=True):
        place.set_title(f"label noise {labels.noise_name(group.label_noise[noise])}")
    for place in axes[-1]:
        place.set_xlabel(labels.WIDTH)
    for place in axes.flat:
        _axes.width_axis(place, group.width)
    handles = [drawing.key(**styles[rung]) for rung in rungs]
    names = [labels.rung_name(rung) for rung in rungs]
    drawing.equality_legend(figure, group, axes.flat, handles, names, columns=5)
    band = stats.band_name(len(group.seed), statistics["confidence"])
    style.heading(figure, group, f"epoch {group.epoch[-1]}", band)
    return figure

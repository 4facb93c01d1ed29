"""How far each certified upper bound lies above the best certified lower bound.

Upper bound over best lower bound; 1 would be the exact constant. Left: against width at the last
epoch. Then: against the training epoch, at the critical width (the first whose mean train accuracy,
in the end and with the least label noise, reaches the interpolation accuracy), if there is one, and
at the largest width. One row per norm. Lines are geometric means over seeds of the ratio, solid for
the least and dashed for the most label noise; bands are Student's t intervals of these means (95 %
unless configured otherwise), cut at 1, below which no ratio lies; with fewer than four seeds the
range over them: the heading says which. Dotted: as many parameters as training samples, p = n.
Diverged models are left out and counted in the heading.
"""

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
    confidence = statistics["confidence"]
    columns = drawing.over_width_and_epochs(group, statistics["interpolation_accuracy"])
    gaps = {norm: ladder.gaps(group, norm) for norm in ladder.norms(group)}
    gaps = {norm: found for norm, found in gaps.items() if found} or {"l2": {}}
    styles = style.rung_styles(ladder.all_rungs(group))
    noises = dict(zip(group.noise_ends, ("-", "--"), strict=False))
    figure, axes = style.new_figure(
        len(gaps), len(columns), height=0.8 + 1.7 * len(gaps), sharex="col", sharey="row"
    )
    for row, (norm, ratios) in zip(axes, gaps.items(), strict=True):
        row[0].set_ylabel(f"upper bound / best lower bound ({labels.NORMS[norm]})")
        for rung, ratio in ratios.items():
            y = stats.within(stats.centre_estimate(ratio, confidence=confidence), 1.0)
            for noise, dash in noises.items():
                look = styles[rung] | {"linestyle": dash}
                for place, (width, epoch, x) in zip(row, columns.values(), strict=True):
                    drawing.curve(place, x, stats.pick(y, (width, noise, epoch)), **look)
        if ratios:
            if group.diverged[:, list(noises), -1].all():
                _axes.say_nothing_here(row[0], "all models diverged")
            _axes.log_values(*row)
        else:
            for place in row:
                _axes.say_nothing_here(place, _axes.NO_BRACKET)
    drawing.over_width(axes[:, 0], group)
    drawing.over_epochs(axes[:, 1:], group)
    for place, title in zip(axes[0], columns, strict=True):
        place.set_title(title)
    entries = {labels.rung_name(rung): styles[rung] for ratios in gaps.values() for rung in ratios}
    for noise, dash in noises.items():
        level = labels.noise_name(group.label_noise[noise])
        entries[f"label noise {level}"] = {"color": "black", "linestyle": dash}
    drawing.legend(figure, entries, columns=5)
    style.heading(figure, group, confidence=confidence)
    return figure

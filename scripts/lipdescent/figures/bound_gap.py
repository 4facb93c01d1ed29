"""How far each certified upper bound lies above the best certified lower bound.

Upper bound over best lower bound; 1 would be the exact constant. Left: against width at the last
epoch. Middle and right: against the training epoch, at the critical width (the first whose mean
train accuracy, in the end and with the least label noise, reaches the interpolation accuracy; the
largest if none does) and at the largest width. One row per norm. Lines are geometric means over
seeds of the ratio, solid for the least and dashed for the most label noise; bands are Student's t
intervals of these means (95 % unless configured otherwise), with fewer than four seeds the range
over them: the heading says which. Dotted: as many parameters as training samples, p = n. Diverged
models are left out and counted in the heading.
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
    middle = ladder.critical_width(group, statistics["interpolation_accuracy"])
    gaps = {norm: ladder.gaps(group, norm) for norm in ladder.norms(group)}
    gaps = {norm: found for norm, found in gaps.items() if found} or {"l2": {}}
    styles = style.rung_styles(ladder.all_rungs(group))
    noises = dict(zip(group.noise_ends, ("-", "--"), strict=False))
    figure, axes = style.new_figure(
        len(gaps), 3, height=0.8 + 1.7 * len(gaps), sharex="col", sharey="row"
    )
    for row, (norm, ratios) in zip(axes, gaps.items(), strict=True):
        row[0].set_ylabel(f"upper bound / best lower bound ({labels.NORMS[norm]})")
        for rung, ratio in ratios.items():
            y = stats.centre_estimate(ratio, confidence=statistics["confidence"])
            for noise, dash in noises.items():
                look = styles[rung] | {"linestyle": dash}
                drawing.curve(row[0], group.width, stats.pick(y, np.s_[:, noise, -1]), **look)
                for place, width in zip(row[1:], (middle, -1), strict=True):
                    drawing.curve(place, group.epoch, stats.pick(y, np.s_[width, noise]), **look)
        if ratios:
            if group.diverged[:, list(noises), -1].all():
                _axes.say_nothing_here(row[0], "all models diverged")
            _axes.log_values(*row)
        else:
            for place in row:
                _axes.say_nothing_here(place, _axes.NO_BRACKET)
    drawing.over_width(axes[:, 0], group)
    for row in axes:
        for place in row[1:]:
            _axes.epoch_axis(place, group.epoch)
    axes[0, 0].set_title(f"epoch {group.epoch[-1]}")
    for column, width in zip((1, 2), group.width[[middle, -1]], strict=True):
        axes[-1, column].set_xlabel("epoch")
        axes[0, column].set_title(f"width {width}")
    entries = {labels.rung_name(rung): styles[rung] for ratios in gaps.values() for rung in ratios}
    for noise, dash in noises.items():
        level = labels.noise_name(group.label_noise[noise])
        entries[f"label noise {level}"] = {"color": "black", "linestyle": dash}
    drawing.equality_legend(figure, axes[:, 0], entries, columns=5)
    style.heading(figure, group, confidence=statistics["confidence"])
    return figure

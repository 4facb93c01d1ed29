"""Every Lipschitz bound of the study over width, at the last epoch.

Solid lines: certified upper bounds; dashed: certified lower bounds, the largest over all the data
they were taken on; dotted: estimates, whose rounding is not proved. The true constants, averaged
over seeds, lie in the grey region between the best of each. One row per norm, columns from the
least to the most label noise. Lines are geometric means over seeds; bands are Student's t intervals
of these means (95 % unless configured otherwise), with fewer than four seeds the range over them:
the heading says which. Where a bound lies far above all others, the axis is broken (two strokes)
and goes on at its values. Dotted: as many parameters as training samples, p = n. Diverged models
are left out and counted in the heading.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group, Rung
from lipdescent.analysis.statistics import Estimate
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

FAR = 4.0  # a bound so many times above all others has a part of the axis of its own
STROKES: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 6, "linestyle": "",
                           "color": "black", "markeredgewidth": 0.7, "clip_on": False}  # fmt: skip
BRACKET: dict[str, Any] = {"color": "0.88", "linewidth": 5}
UPPER_PART = "<upper part>"  # its values are named at the part below
Curves = dict[Rung, Estimate]


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    last = len(group.label_noise) - 1
    noises = sorted({0, last // 2, last})
    rows = _rows(group, noises, statistics["confidence"])
    heights = [2.0 if base else 0.6 for _, _, base in rows]
    figure, axes = style.new_figure(
        len(rows),
        len(noises),
        height=1.2 + sum(heights),
        sharex=True,
        sharey="row",
        height_ratios=heights,
    )
    rungs = ladder.all_rungs(group)
    styles = style.rung_styles(rungs)
    for row, (norm, curves, base) in zip(axes, rows, strict=True):
        for column, (place, noise) in enumerate(zip(row, noises, strict=True)):
            if base:
                _bracket(place, group, norm, noise)
            for rung, y in curves.items():
                drawing.curve(place, group.width, stats.pick(y, np.s_[:, column]), **styles[rung])
            diverged = group.diverged[:, noise, -1]
            if not rungs or diverged.all():
                _axes.say_nothing_here(place, "no bound in this study", diverged=diverged)
        if rungs:
            _axes.log_values(*row)
        if base:
            row[0].set_ylabel(labels.constant_name("Lipschitz bound", norm))
    for above, below, (_, _, base) in zip(axes, axes[1:], rows, strict=False):
        if not base:
            _break(above, below)
    for place, noise in zip(axes[0], noises, strict=True):
        place.set_title(f"label noise {labels.noise_name(group.label_noise[noise])}")
    drawing.over_width(axes.flat, group)
    entries = {labels.rung_name(rung): styles[rung] for rung in rungs}
    entries["certified bracket"] = BRACKET
    drawing.legend(figure, entries, columns=5)
    style.heading(figure, group, f"epoch {group.epoch[-1]}", confidence=statistics["confidence"])
    return figure


def _rows(group: Group, noises: list[int], confidence: float) -> list[tuple[str, Curves, bool]]:
    """Norm, its curves (W, noises), and whether the bracket is among them: a row of panels each."""
    rows = []
    for norm in ladder.norms(group) or ["l2"]:
        curves = {
            rung: stats.centre_estimate(values[:, noises, -1], confidence=confidence)
            for rung, values in ladder.rungs(group, norm).items()
        }
        far = _far(curves)
        if far:
            rows.append((norm, {rung: curves[rung] for rung in far}, False))
        rows.append((norm, {rung: y for rung, y in curves.items() if rung not in far}, True))
    return rows


def _far(curves: Curves) -> list[Rung]:
    """Bounds whose least value is far above the largest of all the others, the best upper one."""
    there = {rung: y.value for rung, y in curves.items() if np.isfinite(y.value).any()}
    ordered = sorted(there, key=lambda rung: np.nanmax(there[rung]))
    for place in range(1, len(ordered)):
        below, above = ordered[:place], ordered[place:]
        bounded = any(rung.direction == "upper" for rung in below)
        highest = max(np.nanmax(there[rung]) for rung in below)
        if bounded and min(np.nanmin(there[rung]) for rung in above) / FAR > highest > 0:
            return above
    return []


def _bracket(place: Axes, group: Group, norm: str, noise: int) -> None:
    """Grey, between the best bounds of both sides."""
    lower, upper = (
        stats.geometric_mean(side[:, noise, -1]) for side in ladder.bracket(group, norm)
    )
    if np.isfinite(lower).any():
        place.fill_between(group.width, lower, upper, color=BRACKET["color"], lw=0)


def _break(above: Iterable[Axes], below: Iterable[Axes]) -> None:
    """Two strokes where the axis is broken, and no line between the parts."""
    for high, low in zip(above, below, strict=True):
        high.spines["bottom"].set_visible(False)
        high.tick_params(bottom=False)
        high.set_label(UPPER_PART)
        high.plot(0, 0, transform=high.transAxes, **STROKES)
        low.plot(0, 1, transform=low.transAxes, **STROKES)

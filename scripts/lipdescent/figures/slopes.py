"""Power laws: straight lines in log-log plots of every bound and the mean Jacobian norm, and the
exponent of the true constant.

Rows: over the training epoch at the first width that interpolates with the least label noise and at
the largest width; over width at the last epoch. Left and middle, for the least and the most label
noise: geometric means over seeds in l2 (markers; the mean Jacobian norm is over the training
points) and lines by least squares through their logarithms. All lines of a panel start together: at
the value in the configuration (statistics.fit_from), or else at the first one from which every
curve stays within a factor 1.1 of its line, with at least three points. Right: the exponents (least
noise filled, most noise hollow) with Student's t intervals of their means over seeds (95 % unless
configured otherwise), with fewer than four seeds the range over them: the heading says which. Black
bars: what the brackets prove of the true constant over the same range, thick of its exponent by
least squares, thin of its average exponent between the two ends; both are means over the seeds
trained here, and need no power law to hold. Diverged models are left out and counted in the
heading.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder, slopes
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.slopes import Panel
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

JACOBIAN = {"color": "#777777", "marker": "*", "linestyle": "-."}
CONSTANT = "true constant (proved)"


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    del loss
    rungs = style.rung_styles(ladder.all_rungs(group))
    looks = {
        name: JACOBIAN if rung is None else rungs[rung]
        for name, rung in slopes.names(group, "l2").items()
    }
    rows = _rows(group, statistics)
    figure, axes = style.new_figure(
        len(rows), 3, width=style.TWO_COLUMNS, height=0.9 + 1.75 * len(rows)
    )
    for row, panels in zip(axes, rows, strict=True):
        for place, panel in zip(row, panels, strict=False):
            _curves(place, panel, looks, _axes.why_empty(group.diverged, panel.reason))
            place.set_title(_where(panel))
            place.set_xlabel(labels.WIDTH if panel.axis == "width" else panel.axis)
        if len(panels) == 1:
            _axes.say_nothing_here(row[1], "one level\nof label noise")
            row[1].set_xticks([])
        _axes.log_values(*(place for place in row[:2] if place.lines))
        row[0].set_ylabel(f"bound or norm ({labels.NORMS['l2']})")
        _exponents(row[2], panels, looks)
    for place in axes[-1, :2]:
        if not place.get_xlabel():
            place.set_xlabel(labels.WIDTH)
    handles = [drawing.key(**look) for look in looks.values()]
    proved = drawing.key(color="black", linewidth=3, alpha=0.6)
    style.legend(figure, [*handles, proved], [*looks, CONSTANT], columns=4)
    band = stats.band_name(len(group.seed), statistics["confidence"])
    style.heading(figure, group, band.replace("bands", "bars"))
    return figure


def _rows(group: Group, statistics: Mapping[str, Any]) -> list[list[Panel]]:
    """Panels that differ in label noise alone, together."""
    rows: dict[tuple, list[Panel]] = {}
    for axis in slopes.OVER:
        for panel in slopes.panels(group, axis, norm="l2", options=statistics):
            rest = {name: value for name, value in panel.at.items() if name != "label_noise"}
            rows.setdefault((axis, *rest.items()), []).append(panel)
    return list(rows.values())


def _where(panel: Panel) -> str:
    other = "epoch" if panel.axis == "width" else "width"
    noise = labels.noise_name(panel.at["label_noise"])
    return f"{other} {panel.at[other]}, label noise {noise}"


def _curves(place: Axes, panel: Panel, looks: Mapping[str, dict], empty: str) -> None:
    """Means over seeds and their lines."""
    seen = False
    for name, values in panel.curves.items():
        mean = stats.geometric_mean(np.where(values > 0, values, np.nan))
        if np.isfinite(mean).any():
            seen = True
            style_of_points = looks[name] | {"linestyle": "", "markersize": 3.5, "alpha": 0.8}
            place.plot(panel.x, mean, **style_of_points)
    if len(panel.x):
        _axes.width_axis(place, panel.x)
    if panel.start is None:
        if seen:
            said = textwrap.fill(f"no fit: {empty}", 34)
            place.text(0.02, 0.98, said, fontsize=6, color=style.GREY, va="top",
                       transform=place.transAxes)  # fmt: skip
        else:
            _axes.say_nothing_here(place, empty)
        return
    x = panel.x[panel.start :]
    for name, fit in panel.fits.items():
        logs = np.log(panel.curves[name][panel.start :, panel.seeds]).mean(-1)
        line = logs.mean() + fit.exponent.value * (np.log(x) - np.log(x).mean())
        look = {key: looks[name][key] for key in ("color", "linestyle")}
        place.plot(x, np.exp(line), **look)


def _exponents(place: Axes, panels: Sequence[Panel], looks: Mapping[str, dict]) -> None:
    """Exponents with their intervals, and what is proved of the constant's."""
    names, fills = list(looks), ("full", "none")
    shown = [panel for panel in panels if panel.fits]
    if not shown:
        _axes.say_nothing_here(place, "no fit")
        place.set_xticks([])
    for shift, fill, panel in zip((0.16, -0.16), fills, panels, strict=False):
        for name, fit in panel.fits.items():
            y = len(names) - names.index(name) + shift
            look = {"color": looks[name]["color"], "marker": looks[name]["marker"]}
            place.plot(fit.exponent.value, y, fillstyle=fill, markersize=4.5, **look)
            place.hlines(y, fit.exponent.low, fit.exponent.high, color=look["color"], lw=1)
        for which, width in (("least_squares", 3.5), ("average", 1.2)):
            proved = panel.constant and panel.constant[which]
            if proved and np.isfinite(proved.low):
                alpha = 0.6 if fill == "full" else 0.35
                place.hlines(shift * 1.3, proved.low, proved.high, color="black", lw=width,
                             alpha=alpha)  # fmt: skip
    if shown:
        place.set_ylim(-0.7, len(names) + 0.7)
        place.axvline(0, color=style.GREY, lw=0.6)
        place.margins(x=0.12)
        place.locator_params(axis="x", nbins=5)
    place.set_yticks([])
    place.set_xlabel("exponent")
    place.set_title(f"over {panels[0].axis}{_range(panels)}")


def _range(panels: Sequence[Panel]) -> str:
    """From where to where, if that is the same with both levels of noise."""
    ends = {(panel.x[panel.start], panel.x[-1]) for panel in panels if panel.start is not None}
    return " {:g} to {:g}".format(*ends.pop()) if len(ends) == 1 else ""

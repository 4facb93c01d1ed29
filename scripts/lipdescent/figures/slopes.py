"""Power laws: straight lines in log-log plots of every bound and the mean Jacobian norm, and the
exponent of the true constant.

Rows: over the training epoch at the critical width (the first whose mean train accuracy, in the end
and with the least label noise, reaches the interpolation accuracy), if there is one, and at the
largest width; over width at the last epoch. Left and middle, for the least and the most label
noise: geometric means over seeds in l2 (markers; the mean Jacobian norm is over the training
points) and lines by least squares through their logarithms. All lines of a panel start together: at
the value in the configuration (statistics.fit_from), or else at the first one from which every
curve stays within a factor 1.1 of its line, with at least three points. Right: the exponents (least
noise filled, most noise hollow) with Student's t intervals of their means over seeds (95 % unless
configured otherwise), with fewer than four seeds the range over them: the heading says which. Black
bars: what the brackets prove of the true constant over the same range, thick of its exponent by
least squares, thin of its average exponent between the two ends; both are means over the seeds
measured here, and need no power law to hold. Dotted: as many parameters as training samples, p = n.
Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from lipdescent.analysis import labels, slopes
from lipdescent.analysis.groups import Group
from lipdescent.analysis.slopes import Panel
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _power_laws
from lipdescent.figures import _style as style


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    looks = _power_laws.looks([group])
    rows = _power_laws.rows(
        panel
        for axis in slopes.OVER
        for panel in slopes.panels(group, axis, norm="l2", options=statistics)
    )
    figure, axes = style.new_figure(len(rows), 3, height=0.9 + 1.75 * len(rows))
    for row, panels in zip(axes, rows, strict=True):
        _power_laws.draw_row(
            row, panels, looks, title=_where, unit=group.width_unit, diverged=group.diverged
        )
    widths = [
        place
        for row, panels in zip(axes, rows, strict=True)
        for place, panel in zip(row, panels, strict=False)
        if panel.axis == "width" and place.lines
    ]
    drawing.over_width(widths, group)
    _power_laws.legend(figure, looks)
    style.heading(figure, group, confidence=statistics["confidence"], drawn="bars")
    return figure


def _where(panel: Panel) -> str:
    other = "epoch" if panel.axis == "width" else "width"
    noise = labels.noise_name(float(panel.at["label_noise"]))
    return f"{other} {panel.at[other]}, noise {noise}"

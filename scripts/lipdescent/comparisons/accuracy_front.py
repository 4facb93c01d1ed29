"""Test accuracy against certified accuracy, a line for each architecture along its further axis.

At the last epoch, for the largest width and the least label noise, on the test points that were
certified, one panel for each l2 radius (at most three: both ends and one between). Solid, filled:
certified accuracy, the share of points whose label provably stands within the radius; hollow,
dashed: accuracy under projected gradient descent (PGD) of that radius, an upper bound on the true
robust accuracy, which lies between the two. Points are means over seeds, bars Student's t intervals
of these means (95 % unless configured otherwise), with fewer than four seeds the range over them:
the heading says which. Both ends of a line have the value of its axis. Diverged models are left out
and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.comparisons._lines import first_axis, lines
from lipdescent.figures import _axes
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style
from lipdescent.figures._names_at_points import name_point

NORM = "l2"
# Kind of accuracy -> how its line looks.
KINDS: dict[str, dict[str, Any]] = {
    "certified_accuracy": {"linestyle": "-"},
    "pgd_accuracy": {"linestyle": "--", "linewidth": 0.7, "markerfacecolor": "white"},
}


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    drawn = lines(groups)
    looks = side_by_side.styles(drawn)
    radii = [radius for radius in _radii(groups) if radius]
    radii = [radii[place] for place in side_by_side.spread(len(radii))] if radii else []
    figure, axes = style.new_figure(1, max(1, len(radii)), height=3.0, sharey=True)
    for place, radius in zip(axes[0], radii, strict=False):
        for name, line in drawn.items():
            _draw_line(place, line, radius, looks[name], statistics["confidence"])
        place.set_xlabel(f"accuracy within radius {radius:g} ({labels.NORMS[NORM]})")
        place.margins(0.1, 0.1)
    if not radii:
        _axes.say_nothing_here(axes[0, 0], "no certificates\nin this study")
        axes[0, 0].set_xlabel("accuracy within a radius")
    axes[0, 0].set_ylabel("test accuracy")
    black = {"color": "black", "marker": "o"}
    kinds = zip(("certified", "under PGD"), KINDS.values(), strict=True)
    side_by_side.legend(figure, looks, {name: black | look for name, look in kinds})
    first = next(iter(groups.values()))
    noise = labels.noise_name(first.label_noise[0])
    told = f"width {first.width[-1]}", f"label noise {noise}", f"epoch {first.epoch[-1]}"
    side_by_side.heading(figure, groups, *told, confidence=statistics["confidence"])
    return figure


def _radii(groups: Mapping[str, Group]) -> list[float]:
    """All radii at which some group was certified."""
    known = (side_by_side.over_radius(g, "certified_accuracy", NORM) for g in groups.values())
    return sorted({radius for found in known for radius in found})


def _draw_line(
    place: Axes, line: list[Group], radius: float, look: dict[str, Any], confidence: float
) -> None:
    """Both kinds of accuracy within ``radius`` (x) and the accuracy at 0 (y) of every group."""
    for kind, dashes in KINDS.items():
        found = [side_by_side.over_radius(group, kind, NORM) for group in line]
        shown = [(g, f) for g, f in zip(line, found, strict=True) if radius in f and 0 in f]
        if not shown:
            continue
        at = [np.stack([f[r][-1, 0, -1] for _, f in shown]) for r in (radius, 0.0)]
        x, y = (stats.share_estimate(values, confidence=confidence) for values in at)
        place.plot(x.value, y.value, **look | dashes)
        if kind == "certified_accuracy":
            place.hlines(y.value, x.low, x.high, color=look["color"], linewidth=0.7)
            place.vlines(x.value, y.low, y.high, color=look["color"], linewidth=0.7)
            _name_ends(place, [group for group, _ in shown], x.value, y.value, look["color"])


def _name_ends(place: Axes, line: list[Group], x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """The axis's value beside the first and the last point."""
    axis = first_axis(line[0])
    if axis is None:
        return
    for end in (0, -1):
        name = labels.place_name(axis, line[end].point[axis])
        name_point(place, x[end], y[end], name, colour=colour, size=style.small())

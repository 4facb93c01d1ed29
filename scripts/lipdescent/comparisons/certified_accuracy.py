"""Accuracy under perturbations of growing radius, all architectures, at the last epoch.

Solid: certified accuracy, the share of test points whose label provably stands within the radius;
dashed: accuracy under projected gradient descent (PGD) of that radius, an upper bound on the true
robust accuracy, which lies between. One row per norm, columns over width, or, where there is one
width and one further axis, over the values of that axis (of more than five both ends and three
between); the least label noise.
Lines are means over seeds, bands Student's t intervals of the mean (95 % unless configured
otherwise), with fewer than four seeds the range over them: the heading says which. Diverged models
are left out and counted in the heading.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style

MAX_PANELS = 5


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    first = next(iter(groups.values()))
    panels = _panels(groups)
    looks = side_by_side.styles(dict.fromkeys(name for _, shown in panels for name in shown))
    kinds = {"certified_accuracy": "-", "pgd_accuracy": "--"}
    every = list(itertools.product(groups.values(), kinds))
    norms = [n for n in labels.NORMS if any(side_by_side.over_radius(*one, n) for one in every)]
    figure, axes = style.new_figure(
        len(norms or ["l2"]),
        len(panels),
        height=0.9 + 1.9 * len(norms or ["l2"]),
        sharex="row",
        sharey=True,
    )
    for row, norm in zip(axes, norms, strict=False):
        for place, (_, shown) in zip(row, panels, strict=True):
            for (name, (group, width)), kind in itertools.product(shown.items(), kinds):
                found = side_by_side.over_radius(group, kind, norm)
                if not found:
                    continue
                values = np.stack([accuracy[width, 0, -1] for accuracy in found.values()])
                y = stats.share_estimate(values, confidence=statistics["confidence"])
                look = looks[name] | {"linestyle": kinds[kind]}
                drawing.curve(place, np.array(list(found)), y, **look)
    for row, norm in zip(axes, norms or ["l2"], strict=True):
        row[0].set_ylabel("test accuracy")
        for place in row:
            place.set_xlabel(f"radius ({labels.NORMS[norm]})")
            if not norms:
                _axes.say_nothing_here(place, "no certificates\nin this study")
    for place, (title, _) in zip(axes[0], panels, strict=True):
        place.set_title(title)
    axes[0, 0].set_ylim(bottom=-0.01)
    kinds_of = zip(("certified", "under PGD"), kinds.values(), strict=True)
    keys = {name: {"color": "black", "linestyle": dash} for name, dash in kinds_of}
    side_by_side.legend(figure, looks, keys)
    noise = labels.noise_name(first.label_noise[0])
    told = f"label noise {noise}", f"epoch {first.epoch[-1]}"
    side_by_side.heading(figure, groups, *told, confidence=statistics["confidence"])
    return figure


def _panels(groups: Mapping[str, Group]) -> list[tuple[str, dict[str, tuple[Group, int]]]]:
    """Title of every column, and what it shows: name -> group and place of its width."""
    first = next(iter(groups.values()))
    points = [group.point for group in groups.values()]
    axes = {axis for point in points for axis in point}
    if len(first.width) == 1 and len(axes) == 1 and all(points):
        (axis,) = axes
        values = list(dict.fromkeys(point[axis] for point in points))
        shown = [values[place] for place in side_by_side.spread(len(values), most=MAX_PANELS)]
        return [
            (
                labels.place_name(axis, value),
                {g.architecture: (g, 0) for g in groups.values() if g.point[axis] == value},
            )
            for value in shown
        ]
    return [
        (f"width {first.width[width]}", {name: (group, width) for name, group in groups.items()})
        for width in side_by_side.spread(len(first.width))
    ]

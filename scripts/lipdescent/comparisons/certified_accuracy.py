"""Accuracy under perturbations of growing radius, all architectures, at the last epoch.

Solid: certified accuracy, the share of test points whose label provably stands within the radius;
dashed: accuracy under projected gradient descent (PGD) of that radius, an upper bound on the true
robust accuracy, which lies between. One row per norm, columns over width; the least label noise.
Lines are means over seeds, bands Student's t intervals of the mean (95 % unless configured
otherwise), with fewer than four seeds the range over them: the heading says which. Diverged models
are left out and counted in the heading.
"""

from __future__ import annotations

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


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    looks, first = side_by_side.styles(groups), next(iter(groups.values()))
    kinds = {"certified_accuracy": "-", "pgd_accuracy": "--"}
    curves = {
        (name, norm, kind): side_by_side.over_radius(group, kind, norm)
        for name, group in groups.items()
        for norm in labels.NORMS
        for kind in kinds
    }
    curves = {key: found for key, found in curves.items() if found}
    norms = [norm for norm in labels.NORMS if any(key[1] == norm for key in curves)] or ["l2"]
    widths = side_by_side.spread(len(first.width))
    figure, axes = style.new_figure(
        len(norms),
        len(widths),
        height=0.9 + 1.9 * len(norms),
        sharex="row",
        sharey=True,
    )
    for (name, norm, kind), found in curves.items():
        _group, radii = groups[name], np.array(list(found))
        for place, width in zip(axes[norms.index(norm)], widths, strict=True):
            values = np.stack([accuracy[width, 0, -1] for accuracy in found.values()])
            y = stats.mean_estimate(values, confidence=statistics["confidence"])
            drawing.curve(place, radii, y, **looks[name] | {"linestyle": kinds[kind]})
    for row, norm in zip(axes, norms, strict=True):
        row[0].set_ylabel("test accuracy")
        for place in row:
            place.set_xlabel(f"radius ({labels.NORMS[norm]})")
            if not curves:
                _axes.say_nothing_here(place, "no certificates\nin this study")
    for place, width in zip(axes[0], widths, strict=True):
        place.set_title(f"width {first.width[width]}")
    axes[0, 0].set_ylim(bottom=-0.01)
    dashes = {"certified": "-", "under PGD": "--"}
    keys = {label: drawing.key(color="black", linestyle=dash) for label, dash in dashes.items()}
    side_by_side.legend(figure, looks, keys)
    noise = labels.noise_name(first.label_noise[0])
    band = stats.band_name(len(first.seed), statistics["confidence"])
    side_by_side.heading(figure, groups, f"label noise {noise}", f"epoch {first.epoch[-1]}", band)
    return figure

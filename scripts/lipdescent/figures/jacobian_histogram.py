"""How the Jacobian norm is distributed over the test points, at the last epoch.

Columns: the smallest width, the critical one (the first whose mean train accuracy, in the end and
with the least label noise, reaches the interpolation accuracy), if there is one, and the largest;
rows: the least and the most label noise. Steps: share of the test points in each bin of the l2
operator norm of the Jacobian, equal bins of its logarithm; blue: classified rightly, orange and
hatched, on top of it: wrongly. Shares are plain means over seeds. Lines: the Lipschitz constants of
all seeds lie between the smallest of their best certified lower bounds (dashed) and the largest of
their best certified upper bounds (solid), beyond which no point has a norm, though its bin may
reach. Points with norm 0 are counted in the title. Diverged models are left out and counted in the
heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lipdescent.analysis import labels, ladder
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.figures import _axes
from lipdescent.figures import _style as style

FILLS: dict[str, dict[str, Any]] = {
    "right": {"facecolor": (style.OKABE_ITO[0], 0.6), "gid": "right"},
    "wrong": {"facecolor": (style.OKABE_ITO[1], 0.4), "hatch": "/////", "gid": "wrong"},
}
SIDES: dict[str, dict[str, Any]] = {
    "best lower bound": {"color": "black", "linestyle": "--", "gid": "least lower"},
    "best upper bound": {"color": "black", "linestyle": "-", "gid": "largest upper"},
}
SPLIT = "test"


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    noises = group.noise_ends
    widths = ladder.telling_widths(group, statistics["interpolation_accuracy"], smallest=True)
    figure, axes = style.new_figure(
        len(noises), len(widths), height=0.9 + 1.7 * len(noises),
        sharex=True, sharey=True,
    )  # fmt: skip
    bins = _bins(group)
    for row, noise in zip(axes, noises, strict=True):
        for place, width in zip(row, widths, strict=True):
            index = (width, noise, -1)
            level = labels.noise_name(group.label_noise[noise])
            place.set_title(f"width {group.width[width]}, label noise {level}")
            if not bins or group.diverged[index].all():
                absent = "not measured: quantities\nhas no jacobian_points"
                _axes.say_nothing_here(place, absent, diverged=group.diverged[index])
                place.set_xticks([])
            else:
                _histogram(place, group, bins, index)
        row[0].set_ylabel("share of the test points")
    for place in axes[-1]:
        place.set_xlabel(labels.constant_name("Jacobian norm", "l2"))
    if drawn := [place for place in axes.flat if place.patches]:
        bars = [bar for place in drawn for bar in place.patches]
        low, high = min(b.get_x() for b in bars), max(b.get_x() + b.get_width() for b in bars)
        ticks = _axes.log_ticks(low, high)
        for place in drawn:
            _axes.width_axis(place, np.array([low, high]))
            place.set_xticks(ticks, labels=[_axes.short(tick) for tick in ticks])
            place.set_ylim(bottom=0)
    fills = {name: Patch(linewidth=0, **fill) for name, fill in FILLS.items()}
    style.legend(figure, {**fills, **SIDES}, columns=4)
    style.heading(figure, group, f"epoch {group.epoch[-1]}")
    return figure


def _bins(group: Group) -> dict[tuple[float, float], dict[str, Array]]:
    """(low, high) -> "right" and "wrong" -> shares (W, N, E, S), in the order of the norm."""
    found: dict[tuple[float, float], dict[str, Array]] = {}
    for key, values in group.series.items():
        name, _, edges = key.quantity.partition("@")
        if key.split == SPLIT and name.startswith("jacobian_norm_share_"):
            low, high = map(float, edges.split(".."))
            kind = name.removeprefix("jacobian_norm_share_")
            found.setdefault((low, high), {})[kind] = values
    return dict(sorted(found.items()))


def _histogram(place: Axes, group: Group, bins: Mapping, index: tuple) -> None:
    """Right ones below, wrong ones on top of them; a bin that a stack lacks has none."""
    zero, sound = 0.0, ~group.diverged[index]
    for (low, high), kinds in bins.items():
        below = 0.0
        for kind, fill in FILLS.items():
            shares = np.nan_to_num(kinds[kind][index]) if kind in kinds else sound * 0.0
            share = float(shares[sound].mean())
            if high == 0:
                zero += share
            elif share:
                place.bar(low, share, width=high - low, bottom=below, align="edge", linewidth=0,
                          **fill)  # fmt: skip
                below += share
    if zero:
        place.set_title(f"{place.get_title()}\n{100 * zero:.3g} % have norm 0")
    lower, upper = (side[index][sound] for side in ladder.bracket(group, "l2"))
    for value, look in zip((lower.min(), upper.max()), SIDES.values(), strict=True):
        if np.isfinite(value):
            place.axvline(float(value), lw=0.8, **look)

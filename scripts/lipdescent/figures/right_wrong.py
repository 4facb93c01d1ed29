"""Jacobian norms at points that are classified rightly and wrongly, over width, at the last epoch.

Columns: the least and the most label noise. Top: mean l2 operator norm of the Jacobian over the
points that a model classifies rightly and over those that it does not; solid: training points, by
the labels trained on; dashed: test points. A mean over few points, as of wrong training points of
networks that interpolate, is one all the same; where there are none there is no value. Bottom: rank
correlation (Spearman) and linear correlation (Pearson) between norm and loss over the points, where
the study measured them. Dotted: as many parameters as training samples, p = n. Lines are means over
seeds (geometric ones of norms), bands Student's t intervals of these means (95 % unless configured
otherwise), with fewer than four seeds the range over them: the heading says which. Diverged models
are left out and counted in the heading.
"""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group, Series
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

SPLITS = {"train": "-", "test": "--"}
NORMS = {
    "right": ("jacobian_norm_mean_right", {"color": style.OKABE_ITO[0], "marker": "o"}),
    "wrong": ("jacobian_norm_mean_wrong", {"color": style.OKABE_ITO[1], "marker": "s"}),
}
CORRELATIONS = {
    "Spearman": ("jacobian_norm_loss_spearman", {"color": style.OKABE_ITO[2], "marker": "^"}),
    "Pearson": ("jacobian_norm_loss_pearson", {"color": style.OKABE_ITO[3], "marker": "D"}),
}


def draw(group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
    """See the module: its docstring is the caption."""
    noises = group.noise_ends
    figure, axes = style.new_figure(2, len(noises), height=4.2, sharex=True, sharey="row")
    rows = (
        (NORMS, stats.centre_estimate, "needs lower_jacobian\namong the bounds"),
        (
            CORRELATIONS,
            stats.correlation_estimate,
            "not measured: quantities\nhas no jacobian_points",
        ),
    )
    for column, noise in zip(axes.T, noises, strict=True):
        for place, (what, estimated, absent) in zip(column, rows, strict=True):
            _curves(place, group, noise, what, estimated, statistics["confidence"])
            if not place.lines:
                _axes.say_nothing_here(place, absent, diverged=group.diverged[:, noise, -1])
        column[0].set_title(f"label noise {labels.noise_name(group.label_noise[noise])}")
    axes[0, 0].set_ylabel(labels.constant_name("mean Jacobian norm", "l2"))
    axes[1, 0].set_ylabel("correlation of norm and loss")
    _axes.log_values(*axes[0])
    for place in axes[1]:
        if place.lines:
            place.axhline(0, color=style.GREY, lw=0.6)
    looks = {name: look for name, (_, look) in (NORMS | CORRELATIONS).items()}
    looks |= {f"{split} points": {"color": "black", "linestyle": d} for split, d in SPLITS.items()}
    drawing.over_width(axes.flat, group)
    drawing.legend(figure, looks, columns=6)
    style.heading(figure, group, f"epoch {group.epoch[-1]}", confidence=statistics["confidence"])
    return figure


def _curves(
    place: Axes,
    group: Group,
    noise: int,
    what: Mapping[str, tuple[str, dict]],
    estimated: Callable,
    confidence: float,
) -> None:
    """Every quantity of both splits that the study has."""
    for quantity, look in what.values():
        for split, dash in SPLITS.items():
            values = group.series.get(Series(quantity, "metric", "l2", split))
            if values is not None:
                how = look | {"linestyle": dash}
                shown = values[:, noise, -1]
                drawing.mean_curve(
                    place, group.width, shown, confidence=confidence, estimated=estimated, **how
                )

"""What the experiments' figures share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis.statistics import Array
from lipdescent.figures._axes import log_values, say_nothing_here, width_axis
from lipdescent.figures._names_at_points import name_point
from lipdescent.figures._style import GREY, legend, look, new_figure, small

__all__ = [
    "GREY",
    "key_of",
    "log_values",
    "look",
    "name_point",
    "panels",
    "say_nothing_here",
    "small",
    "steps_axis",
    "strips",
    "width_axis",
]


def panels(count: int, *, height: float = 2.4, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the printed width with ``count`` panels side by side."""
    figure, axes = new_figure(1, count, height=height, **options)
    return figure, list(axes[0])


def key_of(figure: Figure, *panels: Axes, columns: int = 6) -> None:
    """One legend below all panels, of what some of them show."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        entries |= zip(names, handles, strict=True)
    legend(figure, entries, columns=columns)


def steps_axis(axis: Axes, steps: Array, name: str) -> None:
    """x are training steps from 0 on, logarithmic from 10 on; those that were looked at."""
    axis.set_xscale("symlog", linthresh=10)
    axis.set_xlim(left=0)
    axis.set_xticks(steps, [f"{step:g}" for step in steps])
    axis.set_xlabel(name)


def strips(axis: Axes, rows: Mapping[str, Array], *, named: bool = True, **shown: Any) -> None:
    """Images (n, height, width) side by side, a row for each name, which stands beside it."""
    whole = np.vstack([np.hstack(list(images)) for images in rows.values()])
    axis.imshow(whole, interpolation="nearest", **shown)
    axis.set(xticks=[], yticks=[])
    at: dict[str, Any] = {"transform": axis.transAxes, "fontsize": small()}
    for i, name in enumerate(rows if named else ()):
        axis.text(-0.02, 1 - (i + 0.5) / len(rows), name, ha="right", va="center", **at)
    axis.tick_params(length=0)
    axis.grid(visible=False)

"""What the experiments' figures share."""

from __future__ import annotations

from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.figures._axes import log_values, say_nothing_here, width_axis
from lipdescent.figures._names_at_points import name_point
from lipdescent.figures._style import GREY, MARKERS, OKABE_ITO, legend, new_figure, small

__all__ = [
    "GREY",
    "key_of",
    "log_values",
    "look",
    "name_point",
    "panels",
    "say_nothing_here",
    "small",
    "width_axis",
]


def panels(count: int, *, height: float = 2.4, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the printed width with ``count`` panels side by side."""
    figure, axes = new_figure(1, count, height=height, **options)
    return figure, list(axes[0])


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the ``index``-th kind."""
    return {"color": OKABE_ITO[index % len(OKABE_ITO)], "marker": MARKERS[index % len(MARKERS)]}


def key_of(figure: Figure, *panels: Axes, columns: int = 6) -> None:
    """One legend below all panels, of what some of them show."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        entries |= zip(names, handles, strict=True)
    legend(figure, entries, columns=columns)

"""What every figure keeps at the size it is printed at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from lipdescent.figures._drawing import MARKS
from lipdescent.figures._heat_maps import KEYS
from lipdescent.figures.bound_ladder import UPPER_PART

LEAST_BETWEEN = 3  # points between names side by side, about a space
BARE = ("", "None", "none", None)  # markers of a line without any


def settings() -> dict[str, Any]:
    """Matplotlib's, but for the backend, which it chooses when it is first asked for."""
    return {key: value for key, value in matplotlib.rcParams.items() if key != "backend"}


def contents(figure: Figure) -> str:
    """A digest of all that is drawn: figures that agree in it look the same once laid out."""
    told: list[Any] = [figure.get_size_inches().tolist()]
    for artist in figure.findobj():
        about: list[Any] = [type(artist).__name__, artist.get_visible(), artist.get_gid()]
        if isinstance(artist, Axes):
            about += [artist.get_label(), artist.get_xlim(), artist.get_ylim()]
            about += [artist.get_xscale(), artist.get_yscale(), artist.get_position().bounds]
        if isinstance(artist, Text):
            about += [artist.get_text(), artist.get_position(), artist.get_rotation()]
            about += [artist.get_fontsize(), artist.get_color(), artist.get_horizontalalignment()]
        if isinstance(artist, Line2D):
            about += [np.asarray(artist.get_xydata()).tolist(), artist.get_linestyle()]
            about += [artist.get_color(), artist.get_linewidth(), artist.get_alpha()]
            about += [artist.get_marker(), artist.get_markersize(), artist.get_markerfacecolor()]
        if isinstance(artist, Collection):
            about += [path.vertices.tolist() for path in artist.get_paths()]
            about += [artist.get_array(), artist.get_clim(), artist.get_linestyle()]
            about += [artist.get_facecolor().tolist(), artist.get_edgecolor().tolist()]
        if isinstance(artist, Patch):
            about += [artist.get_path().vertices.tolist(), artist.get_facecolor()]
        told.append(about)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def check(figure: Figure) -> None:
    """Of the printed width, no text below 7 pt, and every axis that has numbers has a name.

    Indices in formulas are smaller than their text, as in all typesetting.
    """
    assert figure.get_size_inches()[0] == matplotlib.rcParams["figure.figsize"][0]
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert {text.get_text() for text in shown if text.get_fontsize() < 7} == set()
    for axes in _panels(figure):
        for axis in (axes.xaxis, axes.yaxis):
            numbers = [text.get_text() for text in axis.get_ticklabels() if text.get_visible()]
            if axis.get_visible() and any(numbers):
                where = f"{axis.axis_name} axis of {axes.title.get_text()!r}, {numbers}"
                assert axis.get_label_text(), f"{where} has no name"


def _panels(figure: Figure) -> list[Axes]:
    """Panels and second axes; a colour bar is named by its panel, a part of an axis by the rest."""
    elsewhere = ("<colorbar>", UPPER_PART)
    found = [axes for axes in figure.axes if axes.get_label() not in elsewhere]
    return found + [child for axes in found for child in axes.child_axes]


def check_room(drawn: Figure) -> None:
    """Nothing is clipped, no name covers another, no legend a panel."""
    renderer = drawn.canvas.get_renderer()
    width, height = drawn.get_size_inches()
    whole = drawn.get_tightbbox(renderer)
    assert whole.x0 >= -0.01, "clipped on the left"
    assert whole.y0 >= -0.01, "clipped at the bottom"
    assert whole.x1 <= width + 0.01, "clipped on the right"
    assert whole.y1 <= height + 0.01, "clipped at the top"
    for legend in drawn.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in drawn.axes)
    for axes in drawn.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = _tick_boxes(axis, renderer)
            assert not any(a.overlaps(b) for a, b in pairwise(boxes)), (
                f"tick labels of {axes.get_title() or axes.get_ylabel()} run into each other"
            )

    between = renderer.points_to_pixels(LEAST_BETWEEN)
    boxes = [(text, box.padded(between / 2, 0)) for text, box in _names(drawn, renderer)]
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} runs into {other!r}"


def _names(drawn: Figure, renderer: Any) -> Iterator[tuple[str, Any]]:
    """Titles, names of axes: text and box."""
    for axes in [*drawn.axes, *(child for one in drawn.axes for child in one.child_axes)]:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            if text.get_text() and text.get_visible():
                yield text.get_text(), text.get_window_extent(renderer)


def _tick_boxes(axis: Any, renderer: Any) -> list:
    low, high = sorted(axis.get_view_interval())
    places = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    shown = [label for place, label in places if low <= place <= high and label.get_text()]
    return [label.get_window_extent(renderer) for label in shown if label.get_visible()]


def check_legend(figure: Figure) -> None:
    """Everything in a legend is drawn: marks by their group id, a colour as a colour.

    Black stands for curves of any colour.
    """
    names, colours = set(), set()
    for axes in figure.axes:
        lines = [line for line in axes.lines if np.isfinite(line.get_ydata()).any()]
        regions = [region for region in axes.collections if region.get_paths()]
        names |= {artist.get_gid() for artist in (*lines, *regions, *axes.patches)}
        colours |= {to_hex(line.get_color()) for line in lines}
        for region in regions:
            colours |= {to_hex(c) for c in (*region.get_facecolor(), *region.get_edgecolor())}
    for legend in figure.legends:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            name = text.get_text()
            called = {marks[name]["gid"] for marks in (MARKS, KEYS) if name in marks}
            if called:
                assert called & names, f"{name} is not drawn"
            elif isinstance(handle, Line2D) and to_hex(handle.get_color()) != "#000000":
                assert to_hex(handle.get_color()) in colours, f"{name} is not drawn"


def check_without_colour(figure: Figure) -> None:
    """Curves of one panel differ in marker, dash or filling, as on grey paper; not in colour alone.

    A line without markers belongs to the marked points of its colour.
    """
    for axes in figure.axes:
        curves = [line for line in axes.lines if len(line.get_xdata()) > 1]
        marked = {to_hex(c.get_color()) for c in axes.lines if c.get_marker() not in BARE}
        found: dict[tuple, set[str]] = {}
        for line in curves:
            colour, bare = to_hex(line.get_color()), line.get_marker() in BARE
            if bare and colour in marked:
                continue
            hollow = not bare and to_hex(line.get_markerfacecolor()) != colour
            kind = line.get_marker(), line.get_linestyle(), hollow, line.get_gid()
            found.setdefault(kind, set()).add(colour)
        assert all(len(colours) == 1 for colours in found.values()), (axes.get_ylabel(), found)

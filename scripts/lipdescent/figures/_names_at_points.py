"""Names beside points, placed where they cover neither curves nor each other."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

BESIDE = "beside a point"  # gid of a name that :func:`place` moves
DISTANCES = (5, 9, 14, 20, 27)  # of a name from its point, points
DIRECTIONS = 12
AROUND = 1.5  # a name is kept from other names and from curves by so many points
STEP = 2.0  # between the places of a curve that a name must not cover, pixels
# What a name costs: on another one, per pixel out of its panel, nearer to another point than to its
# own, per place of a curve below it.
ON_ANOTHER, OUTSIDE, ASTRAY, ON_CURVE = 1e4, 1e2, 1e2, 10.0


def name_point(axes: Axes, x: float, y: float, name: str, *, colour: Any, size: float) -> None:
    """A name for the point, with a thin line to it; :func:`place` finds its place."""
    axes.annotate(
        name,
        (x, y),
        (0, DISTANCES[0]),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=colour,
        gid=BESIDE,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0},
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
    )


def place(figure: Figure, renderer: RendererBase) -> None:
    """Move every name to where it costs least, one after the other; after the layout."""
    for axes in figure.axes:
        names = [t for t in axes.texts if isinstance(t, Annotation) and t.get_gid() == BESIDE]
        points = [at for line in axes.lines for at in _pixels(line)] if names else []
        curves = np.concatenate([np.empty((0, 2)), *(_curves(axes) if names else ())])
        taken: list[Bbox] = []
        for name in names:
            places = list(_places(name, renderer))
            costs = [_cost(name, at, renderer, (curves, np.array(points)), taken) for at in places]
            name.set_position(places[int(np.argmin(costs))])
            taken.append(_box(name, renderer))


def _curves(axes: Axes) -> Iterator[np.ndarray]:
    """Places in pixels (P, 2) along the curves of a panel, close to each other."""
    for line in axes.lines:
        at = _pixels(line)
        for first, last in itertools.pairwise(at):
            count = max(2, int(math.dist(first, last) / STEP))
            yield np.linspace(first, last, count)
        yield at


def _pixels(line: Line2D) -> np.ndarray:
    """The points of a line in pixels (P, 2)."""
    at = line.get_transform().transform(np.column_stack(line.get_data(orig=False)))
    return np.asarray(at[np.isfinite(at).all(axis=1)])


def _places(name: Annotation, renderer: RendererBase) -> Iterator[tuple[float, float]]:
    """Offsets of the name's middle, points: nearest first, above and below before the sides."""
    box, unit = _box(name, renderer), float(renderer.points_to_pixels(1.0))  # type: ignore[arg-type]
    width, height = box.width / unit / 2, box.height / unit / 2
    for distance in DISTANCES:
        for turn in range(DIRECTIONS):
            angle = math.pi / 2 + (turn + 1) // 2 * (-1) ** turn * 2 * math.pi / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            yield (distance * across + width * across, distance * up + height * up)


def _cost(
    name: Annotation,
    at: tuple[float, float],
    renderer: RendererBase,
    drawn: tuple[np.ndarray, np.ndarray],
    taken: list[Bbox],
) -> float:
    """Of the name at an offset; ``drawn`` are places along the curves, and the curves' points."""
    curves, points = drawn
    name.set_position(at)
    box, panel = _box(name, renderer), name.axes.get_window_extent(renderer)  # type: ignore[union-attr]
    out = sum(
        max(0.0, by)
        for by in (panel.x0 - box.x0, box.x1 - panel.x1, panel.y0 - box.y0, box.y1 - panel.y1)
    )
    around = box.padded(float(renderer.points_to_pixels(AROUND)))  # type: ignore[arg-type]
    covered = ((curves > around.min) & (curves < around.max)).all(axis=1).sum()
    others = sum(around.overlaps(other) for other in taken)
    own = name.axes.transData.transform(name.xy)  # type: ignore[union-attr]
    away = np.hypot(*np.maximum(np.maximum(box.min - points, points - box.max), 0).T)
    mine = np.hypot(*(points - own).T) < STEP
    astray = bool(len(away[~mine])) and away[~mine].min() < 1.5 * away[mine].min(initial=np.inf)
    return (
        OUTSIDE * out
        + ON_CURVE * float(covered)
        + ON_ANOTHER * others
        + ASTRAY * astray
        + math.hypot(*at)
    )


def _box(name: Annotation, renderer: RendererBase) -> Bbox:
    """Of the letters alone, without the line to the point."""
    name.update_positions(renderer)
    return Text.get_window_extent(name, renderer)

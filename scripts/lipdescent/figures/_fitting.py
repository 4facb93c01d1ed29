"""Titles and names of axes on as many lines as their panels have room for."""

import re
from collections.abc import Iterator
from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from lipdescent.figures import _names_at_points

ROOM = 1.08  # of the width: there is space between panels, but between titles there is to be some


def fit(figure: Figure) -> None:
    """Break titles and names of axes that are longer than the side of the panel they stand at.

    Then place the names beside points. The layout is final once a look at it breaks nothing: it is
    half of what drawing costs, and another pass moves panels by a tenth of a pixel.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    heading = getattr(figure, "_suptitle", None)
    if heading is not None:
        _break(heading, 0.98 * figure.bbox.width, renderer)
    for _ in range(2):  # a name on two lines takes room from the panels beside it
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        broken = [_break_names(axes, renderer) for axes in _all(figure)]
        if not any(broken):
            figure.set_layout_engine("none")
            break
    _names_at_points.place(figure, renderer)


def _all(figure: Figure) -> Iterator[Any]:
    """Panels and second axes."""
    for axes in figure.axes:
        yield axes
        yield from axes.child_axes


def _break_names(axes: Any, renderer: RendererBase) -> bool:
    """Whether a title or a name of a panel's axes was broken."""
    if axes.get_label() == "<colorbar>":
        return False
    box = axes.get_window_extent(renderer)
    broken = (
        _break(axes.title, box.width, renderer),
        _break(axes.xaxis.label, ROOM * box.width, renderer),
        _break(axes.yaxis.label, box.height, renderer),
    )
    return any(broken)


def _break(text: Text, room: float, renderer: RendererBase) -> bool:
    """Lines of a text that are longer than ``room`` pixels go on in another one, between words.

    Whether there was any.
    """
    before = text.get_text()
    lines = before.split("\n")
    # A unit in parentheses goes below what has it, the second of two parts below the first.
    for gap in (r" (?=\()", r"(?<=,) (?![^(]*\))"):
        lines = [
            part
            for line in lines
            for part in (
                re.split(gap, line)
                if len(re.findall(gap, line)) == 1 and _width(text, line, renderer) > room
                else [line]
            )
        ]
    broken = "\n".join(part for line in lines for part in _parts(text, line, room, renderer))
    text.set_text(broken)
    return broken != before


def _parts(text: Text, line: str, room: float, renderer: RendererBase) -> list[str]:
    """A line on as few as there is room for, of about one length."""
    if _width(text, line, renderer) <= room:
        return [line]
    found = _filled(text, line, room, renderer)
    for share in (0.9, 0.8, 0.7, 0.6, 0.5):
        even = _filled(text, line, share * room, renderer)
        if len(found) == 1 or len(even) > len(found):
            break
        found = even
    return found


def _filled(text: Text, line: str, room: float, renderer: RendererBase) -> list[str]:
    """Each with as many words as there is room for."""
    lines = [""]
    for word in re.split(" (?!%)", line):  # a number and its unit stay together
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and _width(text, longer, renderer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _width(text: Text, line: str, renderer: RendererBase) -> float:
    """Of one line in the font of ``text``, pixels."""
    shown = Text(0, 0, line, fontproperties=text.get_fontproperties())
    figure = text.get_figure(root=True)
    assert figure is not None
    shown.set_figure(figure)
    return float(shown.get_window_extent(renderer).width)

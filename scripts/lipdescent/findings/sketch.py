"""A small figure of a sentence, as SVG inside of a page: curves on logarithmic axes."""

import math
from collections.abc import Callable
from html import escape

from lipdescent.findings.words import Facts

WIDTH, HEIGHT, MARGIN = 150, 64, 6


def svg(sketch: Facts, *, label: str) -> str:
    """Every curve from its least to its largest value; lower and upper bounds share one scale.

    A logarithmic one, unless a value is not positive. ``label`` is read out in place of the figure.
    """
    curves: dict[str, list[float | None]] = sketch["curves"]
    across = _scale([math.log1p(x) for x in sketch["x"]], MARGIN, WIDTH - MARGIN)
    shared = [n for n in curves if n.partition(", ")[0] in ("lower", "upper")]
    parts = []
    if sketch["mark"] is not None:
        mark = across(math.log1p(sketch["mark"]))
        parts.append(f'<line class="mark" x1="{mark}" x2="{mark}" y1="2" y2="{HEIGHT - 2}"/>')
    for name, values in curves.items():
        together = shared if name in shared else [name]
        found = [v for n in together for v in curves[n] if v is not None]
        if not found:
            continue
        at: Callable[[float], float] = math.log if min(found) > 0 else float
        up = _scale([at(v) for v in found], HEIGHT - MARGIN, MARGIN)
        points = [
            f"{across(math.log1p(x))},{up(at(v))}"
            for x, v in zip(sketch["x"], values, strict=True)
            if v is not None
        ]
        parts.append(
            f'<polyline class="{_class(name)}" points="{" ".join(points)}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def legend(sketch: Facts) -> dict[str, str]:
    """What is drawn -> the class of its line: ``bracket in l2`` for both sides of one."""
    found = {}
    for name in sketch["curves"]:
        side, _, norm = name.partition(", ")
        other = {"lower": "upper", "upper": "lower"}.get(side)
        both = f"{other}, {norm}" in sketch["curves"]
        told = name if other is None else f"{'bracket' if both else f'{side} bound'} in {norm}"
        found[told] = _class(name)
    return found


def key(sketch: Facts) -> str:
    """The legend as HTML, a piece of each line before its name."""
    lines = (
        f'<span class="key"><svg viewBox="0 0 22 6" aria-hidden="true">'
        f'<polyline class="{kind}" points="1,3 21,3"/></svg> {escape(name)}</span>'
        for name, kind in legend(sketch).items()
    )
    return f"{', '.join(lines)} over {escape(sketch['over'])}"


def _class(name: str) -> str:
    """Of a curve's line, for the style of the page."""
    kind = name.split(",")[0].replace(" ", "-")
    return f"{kind} least" if name.endswith("(least noise)") else kind


def _scale(values: list[float], low: float, high: float) -> Callable[[float], float]:
    """From the least and the largest value to ``low`` and ``high``."""
    first, last = min(values), max(values)
    span = (last - first) or 1.0
    return lambda value: round(low + (high - low) * (value - first) / span, 1)

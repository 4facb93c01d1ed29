"""A small figure of a sentence, as SVG inside of a page: curves on logarithmic axes."""

from __future__ import annotations

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
        at = math.log if min(found) > 0 else float
        up = _scale([at(v) for v in found], HEIGHT - MARGIN, MARGIN)
        points = [
            f"{across(math.log1p(x))},{up(at(v))}"
            for x, v in zip(sketch["x"], values, strict=True)
            if v is not None
        ]
        kind = name.split(",")[0].replace(" ", "-")
        least = " least" if name.endswith("(least noise)") else ""
        parts.append(
            f'<polyline class="{kind}{least}" points="{" ".join(points)}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def legend(sketch: Facts) -> list[str]:
    """What is drawn: ``bracket in l2`` for both sides of one."""
    found = []
    for name in sketch["curves"]:
        side, _, norm = name.partition(", ")
        other = {"lower": "upper", "upper": "lower"}.get(side)
        both = f"{other}, {norm}" in sketch["curves"]
        found.append(
            name if other is None else f"{'bracket' if both else f'{side} bound'} in {norm}"
        )
    return list(dict.fromkeys(found))


def _scale(values: list[float], low: float, high: float) -> Callable[[float], float]:
    """From the least and the largest value to ``low`` and ``high``."""
    first, last = min(values), max(values)
    span = (last - first) or 1.0
    return lambda value: round(low + (high - low) * (value - first) / span, 1)

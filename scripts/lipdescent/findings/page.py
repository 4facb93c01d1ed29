"""Findings as Markdown and as one HTML page, from the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Heading(NamedTuple):
    """A heading of level 1, 2, ..."""

    level: int
    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Points(NamedTuple):
    """A list of sentences."""

    items: Sequence[str]


class Table(NamedTuple):
    """Rows of cells below a header; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


Block = Heading | Text | Points | Table

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1.2rem; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .87rem; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 1.5px solid #888; vertical-align: bottom; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
li { margin: .25rem 0; }
"""


def markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"{'#' * level} {text}")
            case Text(text):
                parts.append(text)
            case Points(items):
                parts.append("\n".join(f"- {item}" for item in items))
            case Table(header, rows):
                align = ["---", *["---:"] * (len(header) - 1)]
                lines = [header, align, *rows]
                parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def html(blocks: Sequence[Block], *, title: str) -> str:
    """Blocks as one self-contained page."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"<h{level}>{escape(text)}</h{level}>")
            case Text(text):
                parts.append(f"<p>{escape(text)}</p>")
            case Points(items):
                inner = "\n".join(f"<li>{escape(item)}</li>" for item in items)
                parts.append(f"<ul>\n{inner}\n</ul>")
            case Table(header, rows):
                head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
                body = "\n".join(
                    "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                    for row in rows
                )
                parts.append(
                    f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
                    f"<tbody>\n{body}\n</tbody>\n</table></div>"
                )
    inner = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n{inner}\n</body>\n</html>\n"
    )

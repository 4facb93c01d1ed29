"""Findings as Markdown and as one HTML page, from the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple, TypeAlias

from lipdescent.findings.sketch import key, legend, svg
from lipdescent.findings.words import Facts


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
    """Rows of cells below a header; the first column names the row, the caption the table."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Short(NamedTuple):
    """Sentences with badges and a small figure, as :mod:`findings.in_short` makes them."""

    items: Sequence[Facts]


class Fold(NamedTuple):
    """Blocks that a reader unfolds."""

    summary: str
    blocks: Sequence[Block]


Block: TypeAlias = Heading | Text | Points | Table | Short | Fold

# On paper all is unfolded, and a table's words wrap in place of leaving the sheet.
CSS = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #666; --line: #ddd;
        --proved: #0b6e4f; --seen: #1f5fa8; --undecided: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #16181b; --soft: #a5a5a5;
        --line: #3a3d42; --proved: #5fd3a5; --seen: #82b7f5; --undecided: #b0b0b0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .87rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
         font-weight: 400; }
thead th { border-bottom: 1.5px solid var(--soft); vertical-align: bottom; font-weight: 600; }
th:first-child { text-align: left; }
tbody th, td { white-space: nowrap; font-variant-numeric: tabular-nums; }
li { margin: .25rem 0; }
.short { list-style: none; padding: 0; }
.short li { display: grid; grid-template-columns: 9.5rem 1fr; gap: 1rem; align-items: center;
            padding: .6rem 0; border-bottom: 1px solid var(--line); }
.short .bare { display: block; }
.short p { margin: .1rem 0; font-size: 1.05rem; }
.short small { color: var(--soft); }
.badge { font-size: .75rem; border: 1px solid currentColor; border-radius: .8rem;
         padding: 0 .5rem; margin-right: .3rem; }
.proved { color: var(--proved); } .seen { color: var(--seen); }
.undecided { color: var(--undecided); }
svg { width: 100%; max-width: 9.5rem; height: auto; }
polyline { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.lower { stroke-dasharray: 4 2; } .least { stroke: var(--soft); }
.test-error { stroke: var(--seen); } .test-loss { stroke: #d55e00; stroke-dasharray: 7 2 1.5 2; }
.key { white-space: nowrap; } .key svg { width: 1.7rem; height: .5rem; }
.mark { stroke: var(--soft); stroke-dasharray: 1 2; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0; }
@media (max-width: 40rem) { body { padding: 0 .7rem; margin: 1rem auto; }
  .short li { grid-template-columns: 1fr; gap: .3rem; } }
@page { size: A4; margin: 12mm; }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --proved: #075;
    --seen: #125; --undecided: #555; }
  body { max-width: none; margin: 0; padding: 0; font-size: 9pt; }
  details::details-content { content-visibility: visible; }
  .wide { overflow: visible; } table { font-size: 6.8pt; width: 100%; }
  tbody th, td { white-space: normal; } th, td { padding: .15rem .25rem; }
  tr, .short li { break-inside: avoid; } thead { break-inside: avoid; }
  h2, h3, summary, caption, thead, thead + tbody tr:first-child { break-after: avoid; } }
"""
UNFOLD = (
    "addEventListener('beforeprint', () => document.querySelectorAll('details')"
    ".forEach(one => one.open = true));"
)


def markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown."""
    return "\n\n".join(_as_markdown(block) for block in blocks) + "\n"


def _as_markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Points(items):
            return "\n".join(f"- {item}" for item in items)
        case Short(items):
            return "\n".join(
                f"- **{', '.join(item['badges'])}**: {item['text']} {item['also']}".rstrip()
                + f" (`{item['figure']}`)" * bool(item["figure"])
                for item in items
            )
        case Fold(_, inside):
            return "\n\n".join(map(_as_markdown, inside))
        case Table(header, rows, caption):
            align = ["---", *["---:"] * (len(header) - 1)]
            lines = [header, align, *rows]
            told = f"{caption}\n\n" if caption else ""
            return told + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html(blocks: Sequence[Block], *, title: str) -> str:
    """Blocks as one self-contained page."""
    inner = "\n".join(map(as_html, blocks))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n{inner}\n<script>{UNFOLD}</script>\n</body>\n</html>\n"
    )


def as_html(block: Block) -> str:
    """A block for a page with this file's CSS."""
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Points(items):
            return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
        case Short(items):
            return '<ul class="short">\n' + "\n".join(map(_short, items)) + "\n</ul>"
        case Fold(summary, inside):
            told = "\n".join(map(as_html, inside))
            return f"<details><summary>{escape(summary)}</summary>\n{told}\n</details>"
        case Table():
            return _table(block)


def _short(item: Facts) -> str:
    """A sentence: its small figure, its badges, its text, its interval."""
    sketch = item["sketch"]
    label = f"{', '.join(legend(sketch))} over {sketch['over']}" if sketch else ""
    drawn = svg(sketch, label=label) if sketch and sketch["curves"] else ""
    badges = "".join(f'<span class="badge {one}">{one}</span>' for one in item["badges"])
    below = [item["also"], f"Figure: {item['figure']}." if item["figure"] else ""]
    told = " ".join(f"{escape(part.rstrip('.'))}." for part in below if part)
    told = f"{key(sketch)}. {told}" if drawn else told
    below_it = f"<small>{told}</small>" if told else ""
    said = f"<div>{badges}<p>{escape(item['text'])}</p>{below_it}</div>"
    return f"<li><div>{drawn}</div>{said}</li>" if drawn else f'<li class="bare">{said}</li>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>\n" if table.caption else ""
    return (
        f'<div class="wide"><table>\n{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )

"""A study's start page: answers, the main figure, where to go on, all figures, the run."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from lipdescent.findings import page as findings
from lipdescent.findings.page import Block, as_html

# Behind the style of the findings, whose blocks the page begins with.
CSS = """
body { overflow-wrap: break-word; } a { color: var(--seen); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; }
figure { margin: 1.2rem 0 2rem; } figcaption { max-width: 46rem; }
figure img { max-width: 100%; height: auto; background: #fff; padding: .4rem;
             box-sizing: border-box; }
figure h3 { margin: 0 0 .3rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .3rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; min-width: 0; }
@media (max-width: 32rem) { dl { display: block; } dd { margin: 0 0 .5rem; } }
@media print { nav { display: none; } figure { break-inside: avoid; } }
"""


class Shown(NamedTuple):
    """A figure: its title, its caption and the picture."""

    title: str
    caption: str
    png: bytes


def html(
    study: str,
    *,
    answers: Mapping[str, Block],
    figures: Sequence[Shown],
    links: Mapping[str, str],
    header: Mapping[str, str],
) -> str:
    """One file that opens offline.

    Parameters
    ----------
    answers : group -> its sentences.
    figures : in reading order; the first is the main one.
    links : file beside the page -> what it is.
    header : of the run, name -> text.
    """
    parts = [f"<h1>Study {escape(study)}</h1>"]
    if answers:
        parts.append("<h2>In short</h2>")
    for group, block in answers.items():
        if len(answers) > 1:
            parts.append(f"<h3>{escape(group)}</h3>")
        parts.append(as_html(block))
    parts += [_figure(one) for one in figures[:1]]
    parts.append('<nav aria-label="pages of this study"><ul>')
    parts += [f'<li><a href="{escape(to)}">{escape(what)}</a></li>' for to, what in links.items()]
    parts.append("</ul></nav>")
    if figures[1:]:
        parts += ["<h2>Figures</h2>", *(_figure(one) for one in figures[1:])]
    parts.append('<h2 id="run">The run</h2>\n<dl>')
    parts += [f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in header.items()]
    parts.append("</dl>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Study {escape(study)}: report</title>\n"
        f"<style>{findings.CSS}{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{findings.UNFOLD}</script>\n</body>\n</html>\n"
    )


def _figure(shown: Shown) -> str:
    picture = base64.b64encode(shown.png).decode()
    paragraphs = shown.caption.strip().split("\n\n")
    first = " ".join(paragraphs[0].split())
    rest = "".join(f"<p>{escape(' '.join(one.split()))}</p>" for one in paragraphs[1:])
    told = f"<p>{escape(first)}</p>"
    if rest:
        told += f"<details><summary>How it is drawn</summary>{rest}</details>"
    return (
        f"<figure><h3>{escape(shown.title)}</h3>\n"
        f'<img src="data:image/png;base64,{picture}" alt="{escape(f"{shown.title}: {first}")}">\n'
        f"<figcaption>{told}</figcaption></figure>"
    )

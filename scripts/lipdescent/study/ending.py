"""What is said at the end of a run: the answers in short, and what diverged. No torch here."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

WIDTH = 100


def in_short(results: str | Path) -> list[str]:
    """Lines of a study's short sentences, with their badges, and of its diverged networks."""
    try:
        found = json.loads(Path(results, "findings.json").read_text(encoding="utf-8"))
        groups = found["groups"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a study of experiments has none
    lines = []
    for dataset, sentences in found.get("side_by_side", {}).items():
        lines += [f"{dataset}, architectures side by side:", *_points(sentences)]
    for group in groups:
        name = f"{group['dataset']}, {group['architecture']}"
        if group.get("in_short"):
            lines += [f"{name}, in short:", *_points(group["in_short"])]
        if group["num_diverged"]:
            lines.append(
                f"{name}: {group['num_diverged']} of {group['num_models']} networks diverged"
            )
    return lines


def _points(sentences: list[dict]) -> list[str]:
    lines = []
    for sentence in sentences:
        text = f"{sentence['text']} ({', '.join(sentence['badges'])})"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines

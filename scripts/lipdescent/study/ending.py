"""What is said at a run's end: the answers in short, what diverged or failed. No torch here."""

import json
import textwrap
from collections.abc import Container
from pathlib import Path
from typing import Any

WIDTH = 100


def where(results: str | Path, made: Container[str]) -> str:
    """Where to begin reading, by the files that the run had to see to.

    Those that it had not may be of another configuration.
    """
    page = f"{results}/report.html"
    if page in made:
        return f"start at {page}; all of it lies in {results}/"
    return f"what was asked for is there; without a target the whole study is made, with {page}"


def in_short(results: str | Path) -> list[str]:
    """Lines of a study's short sentences, with their badges, and of its diverged networks."""
    found, lines = _findings(results), []
    for dataset, sentences in found.get("side_by_side", {}).items():
        lines += [f"{dataset}, architectures side by side:", *_points(sentences)]
    for group in found["groups"]:
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


def failed_bounds(results: str | Path) -> list[str]:
    """A line for each bound that has the status ``error`` in a study's findings.

    It names the bound, the widths, the log of the first of them and what that says.
    """
    lines = []
    for group in _findings(results)["groups"]:
        place = Path(results, "logs", "measure", group["dataset"], group["architecture"])
        for name, widths in group.get("failed", {}).items():
            what = f"{name} of {group['dataset']}/{group['architecture']}"
            at = ", ".join(map(str, widths))
            reason = _reason(place / f"width={widths[0]}", name)
            lines.append(f"error: {what} failed at width {at}: {reason}")
    return lines


def _reason(folder: Path, name: str) -> str:
    """What the log of a measurement says of its error, and where the log is."""
    for log in sorted(folder.glob(f"*/{name}.log")):
        try:
            said = log.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in said:
            if line.startswith(f"error: {name}"):
                return f"{line.removeprefix('error: ')} [{log}]"
    return f"see {folder}"


def _findings(results: str | Path) -> dict[str, Any]:
    """Of a study; no groups in one of experiments, which has none, or where they are broken."""
    try:
        found = json.loads(Path(results, "findings.json").read_text(encoding="utf-8"))
        return found if isinstance(found["groups"], list) else {"groups": []}
    except (OSError, ValueError, KeyError, TypeError):
        return {"groups": []}

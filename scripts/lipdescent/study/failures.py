"""Which bounds of a study failed with an error, for the end of its run. No torch here."""

from __future__ import annotations

import json
from pathlib import Path


def failed_bounds(results: str | Path) -> list[str]:
    """A line for each bound that has the status ``error`` in a study's findings.

    It names the bound, the widths, the log of the first of them and what that says.
    """
    try:
        groups = json.loads(Path(results, "findings.json").read_text())["groups"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a study of experiments has none
    lines = []
    for group in groups:
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

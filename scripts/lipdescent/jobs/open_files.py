"""Which processes of this host have which files open."""

import contextlib
from collections import defaultdict
from pathlib import Path

import psutil


def below(folder: str | Path) -> dict[str, list[int]]:
    """Absolute path of every open file below ``folder`` -> processes; other users' are not seen."""
    place = f"{Path(folder).resolve()}/"
    found: dict[str, list[int]] = defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
            for file in process.open_files():
                if file.path.startswith(place):
                    found[file.path].append(process.pid)
    return dict(found)

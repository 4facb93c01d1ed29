"""Which processes of this host have which files open (Linux)."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path


def below(folder: str | Path) -> dict[str, list[int]]:
    """Absolute path of every open file below ``folder`` -> processes; other users' are not seen."""
    place = f"{Path(folder).resolve()}/"
    found: dict[str, list[int]] = defaultdict(list)
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for number in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):  # closed meanwhile
                    path = os.readlink(f"/proc/{process}/fd/{number}")
                    if path.startswith(place):
                        found[path].append(int(process))
    return dict(found)

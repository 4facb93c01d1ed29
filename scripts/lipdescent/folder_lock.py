"""Snakemake locks its folder; the lock of a Snakemake that was killed is removed here.

Snakemake cannot tell a living owner from a dead one and asks for --unlock. We write down who owns
the lock, and remove it only if that process ran on this host and is gone.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

OWNER = Path(".snakemake/lipdescent-owner.json")
LOCKS = Path(".snakemake/locks")


def claim() -> None:
    """This process owns the lock of the folder it is in."""
    OWNER.parent.mkdir(exist_ok=True)
    OWNER.write_text(json.dumps(_identity(os.getpid())))


def clear_stale() -> bool:
    """Remove the locks of an owner that is dead; True if there were any."""
    locks = list(LOCKS.glob("*"))
    try:
        owner = json.loads(OWNER.read_text())
    except (OSError, ValueError):
        return False
    here = owner["host"] == socket.gethostname()
    if not locks or not here or _identity(owner["process"]) == owner:
        return False
    for lock in locks:
        lock.unlink(missing_ok=True)
    return True


def _identity(process: int) -> dict[str, object]:
    """Host, process id, and when the process started, so that a number used again is noticed."""
    try:
        started = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        started = ""
    return {"host": socket.gethostname(), "process": process, "started": started}

"""Who is computing a study in this folder; the lock of a Snakemake that was killed is removed.

Snakemake cannot tell a living owner of its lock from a dead one and asks for --unlock. We write
down who computes a study, and remove the study's locks only if that process ran on this host and
is gone. Locks of other studies in the folder stay.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from lipdescent import files

OWNERS = Path(".snakemake/lipdescent-owners")
LOCKS = Path(".snakemake/locks")


@dataclass(frozen=True)
class Owner:
    """The Snakemake that last computed a study here.

    Attributes
    ----------
    started : clock ticks after the host's start, by which a number used again is noticed.
    submits : whether its jobs run elsewhere, on a cluster.
    since : when it claimed the study, seconds since the epoch.
    """

    host: str
    process: int
    started: str
    submits: bool
    since: float

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None where it ran on another host."""
        if self.host != socket.gethostname():
            return None
        return _started(self.process) == self.started != ""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def claim(study: str, *, submits: bool = False) -> None:
    """This process computes the study from now on; with ``submits`` its jobs run elsewhere."""
    here = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "submits": submits,
    }
    with files.complete(OWNERS / f"{study}.json") as partial:
        partial.write_text(json.dumps(here))


def owner(study: str) -> Owner | None:
    """Who last computed the study here, as far as is known."""
    path = OWNERS / f"{study}.json"
    try:
        return Owner(**json.loads(path.read_text()), since=path.stat().st_mtime)
    except (OSError, ValueError, TypeError):
        return None


def clear_stale(study: str) -> bool:
    """Remove the study's locks if their owner is dead; True if there were any."""
    last = owner(study)
    if last is None or last.alive is not False:
        return False
    # Locks younger than the claim are those of a Snakemake that is about to claim the study.
    stale = [
        lock
        for lock in LOCKS.glob("*.lock")
        if _locks(lock, study) and lock.stat().st_mtime <= last.since
    ]
    for lock in stale:
        lock.unlink(missing_ok=True)
    return bool(stale)


def _locks(lock: Path, study: str) -> bool:
    """Whether a lock file of Snakemake, a list of paths, names files of the study."""
    try:
        with lock.open() as lines:
            return any(line.startswith(f"results/{study}/") for line in lines)
    except OSError:
        return False


def _started(process: int) -> str:
    """When a process of this host started; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""

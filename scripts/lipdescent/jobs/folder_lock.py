"""Who is computing a study in this folder; the lock of a Snakemake that was killed is removed.

Snakemake cannot tell a living owner of its lock from a dead one and asks for --unlock, and a
Snakemake that ends removes the locks of all others in the folder. So the Snakemake that computes a
study writes down who it is, and holds locks that the kernel drops with it (flock): one beside
Snakemake's own, one in the study's results, which may be shared by folders.

Snakemake's locks of the study are removed only if that process is known to be dead. It may be
where nobody sees it, on another machine or in a container, and file systems of several machines
need not tell them of each other's locks: then the user has to say --unlock.
"""

import atexit
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from lipdescent.jobs import slurm
from lipdescent.storage import atomic, processes

OWNERS = Path(".snakemake/lipdescent-owners")
LOCKS = Path(".snakemake/locks")
# File systems that one machine has to itself: a lock that is free here is free.
OWN_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs"}
# Whoever asks whether a lock is held holds it for an instant; a claim tries again.
TRIES, PAUSE = 20, 0.02
# What this process holds, by note; descriptors that no child inherits.
_held: dict[Path, list[int]] = {}


class BusyError(Exception):
    """Another Snakemake computes the study, or may do so."""


@dataclass(frozen=True)
class Owner:
    """The Snakemake that last computed a study here.

    Attributes
    ----------
    started : as :func:`lipdescent.storage.processes.started` gives it.
    submits : whether its jobs run elsewhere, on a cluster.
    since : when it claimed the study, seconds since the epoch.
    machine, namespace : where its number means something, see lipdescent/storage/processes.py; None
    in
        notes of earlier versions, which told the host only.
    locked : the number of the file system on which it held a lock of the kernel, 0 if none.
    ended : whether it said that it has ended.
    """

    study: str
    host: str
    process: int
    started: str
    submits: bool
    since: float
    machine: str | None = None
    namespace: str = ""
    locked: int = 0
    ended: bool = False

    @property
    def here(self) -> bool:
        """Whether it ran under this host's name."""
        return self.host == socket.gethostname()

    @property
    def seen(self) -> bool:
        """Whether its number, and those of its jobs, mean processes that can be seen from here."""
        if self.machine is None:
            return self.here
        told, known = (self.machine, self.namespace), (processes.machine(), processes.namespace())
        return self.here and self.namespace != "" and told == known

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be told."""
        if self.ended:
            return False
        held = _is_held(self.study)
        if held:
            return True
        # Lives its process all the same, then this is a copy of the folder that it works in.
        if held is False and self.locked and self._locks_are_seen():
            return False
        return processes.alive(self.process, self.started) if self.seen else None

    def _locks_are_seen(self) -> bool:
        """Whether this process would be told of a lock that the owner holds."""
        same_machine = self.machine == processes.machine() != ""
        if same_machine and self.locked == _file_system(self.study):
            return True
        return self.here and slurm.file_system(OWNERS) in OWN_DISKS

    def __str__(self) -> str:
        """As ``process 12 on host``."""
        inside = "" if self.seen or not self.here else " (its number in a container)"
        return f"process {self.process} on {self.host}{inside}"


def claim(study: str, *, submits: bool = False) -> None:
    """This process computes the study from now on; with ``submits`` its jobs run elsewhere.

    Raises
    ------
    BusyError
        If another process does, or if it cannot be told whether the last one still does.
    """
    note = _note(study).absolute()
    if note in _held:
        return
    last = owner(study)
    if last is not None:
        alive = last.alive
        if alive or (alive is None and last.machine is not None):
            raise BusyError(what_to_do(last))
    _held[note] = _lock(study)
    here = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": processes.started(os.getpid()),
        "submits": submits,
        "machine": processes.machine(),
        "namespace": processes.namespace(),
        "locked": _file_system(study) if _held[note] else 0,
    }
    with atomic.complete(note) as partial:
        partial.write_text(json.dumps(here))
    atexit.register(_release, note)


def _release(note: Path) -> None:
    """This process has ended its work on the study: whoever reads that need not see it to know."""
    descriptors = _held.pop(note, None)
    if descriptors is None:
        return
    try:
        claimed = note.stat().st_mtime
        told = json.loads(note.read_text())
        with atomic.complete(note) as partial:
            partial.write_text(json.dumps(told | {"ended": True}))
            os.utime(partial, (claimed, claimed))
    except (OSError, ValueError):  # the folder has gone, or is read-only
        pass
    for descriptor in descriptors:
        os.close(descriptor)


def owner(study: str) -> Owner | None:
    """Who last computed the study here, as far as is known."""
    path = _note(study)
    try:
        return Owner(**json.loads(path.read_text()), study=study, since=path.stat().st_mtime)
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


def forget(study: str) -> None:
    """The user says that an owner of whom nothing is known is dead."""
    last = owner(study)
    if last is not None and last.alive is None:
        _note(study).unlink(missing_ok=True)


def what_to_do(last: Owner) -> str:
    """What to tell who wants to compute a study that is not known to be free."""
    if last.alive:
        stop = f" (kill {last.process})" if last.seen else ""
        return (
            f"study {last.study} is being computed in this folder by {last}: wait for it or stop "
            f"it{stop}; do not say --unlock"
        )
    return (
        f"study {last.study} was last computed in this folder by {last}, of which nothing can be "
        "seen from here. If it has ended, say the same command with --unlock, then without; if it "
        "has not, wait for it or stop it"
    )


def _note(study: str) -> Path:
    return OWNERS / f"{study}.json"


def _lock_files(study: str) -> tuple[Path, Path]:
    return OWNERS / f"{study}.lock", Path("results", study, ".lock")


def _lock(study: str) -> list[int]:
    """Descriptors of the study's locked files; those that cannot be locked here are left out.

    Raises
    ------
    BusyError
        If another process has locked one.
    """
    found: list[int] = []
    for path in _lock_files(study):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # For writing: network file systems lock no other.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            continue
        taken = _take(descriptor)
        if taken:
            found.append(descriptor)
            continue
        os.close(descriptor)
        if taken is False:
            for descriptor in found:
                os.close(descriptor)
            raise BusyError(
                f"study {study} is being computed by another process, which holds a lock of {path}"
                ": wait for it or stop it; do not say --unlock"
            )
    return found


def _take(descriptor: int, *, tries: int = TRIES) -> bool | None:
    """Lock an open file; False if another process has locked it, None if it cannot be locked."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(PAUSE if left else 0)
        except OSError:
            return None
    return False


def _is_held(study: str) -> bool | None:
    """Whether a process, this one included, holds a lock of the study; None: not known."""
    known = None
    for path in _lock_files(study):
        for mode in (os.O_RDWR, os.O_RDONLY):  # of another user, perhaps
            try:
                descriptor = os.open(path, mode)
            except OSError:
                continue
            taken = _take(descriptor, tries=1)
            os.close(descriptor)
            if taken is False:
                return True
            if taken:
                known = False
                break
    return known


def _file_system(study: str) -> int:
    """Number of the file system on which the study's lock lies, which this machine gave it."""
    try:
        return os.stat(_lock_files(study)[0]).st_dev
    except OSError:
        return 0


def _locks(lock: Path, study: str) -> bool:
    """Whether a lock file of Snakemake, a list of paths, names files of the study."""
    try:
        with lock.open() as lines:
            return any(line.startswith(f"results/{study}/") for line in lines)
    except OSError:
        return False

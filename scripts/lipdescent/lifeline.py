"""A job that runs in a process of its own ends when its Snakemake has gone, however that went.

Between Snakemake and its job there may be shells, activated environments and containers, which
outlive a killed Snakemake, so the job cannot ask after its parent. Snakemake keeps the writing end
of a named pipe open and never writes; jobs hold the reading end. The kernel closes the writing end
with the process, and on Linux kills whoever reads, in whatever PID namespace and even in the midst
of a long computation in C. Elsewhere a thread waits for the end.

Only jobs of the machine that Snakemake runs on are tied: those that a scheduler runs stay.

This file uses the standard library alone: jobs are tied before anything is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import select
import signal
import stat
import sys
import tempfile
import threading
from pathlib import Path

VARIABLE = "LIPDESCENT_LIFELINE"
# Which signal O_ASYNC sends (fcntl(2), Linux): Python's fcntl module names it from 3.12 on.
F_SETSIG = 10


def let_out(path: Path) -> None:
    """In Snakemake: jobs that are started from now on live no longer than this process.

    ``path`` is where the pipe is made, in place of one that a dead process left. It lies in a
    temporary folder where the file system has no named pipes; where that has none either, jobs are
    not tied.
    """
    # Snakemake leaves the folder of --directory before it ends.
    path = path.absolute()
    try:
        _make(path)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="lipdescent-")) / path.name
        try:
            _make(path)
        except OSError:
            return
    # For reading too: opening would wait for a reader otherwise. Stays open until the process ends.
    os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.environ[VARIABLE] = f"{_machine()}:{path.resolve()}"
    atexit.register(_remove, path)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def hold() -> None:
    """In a job: end with the Snakemake that started it; nothing where there is none to tell."""
    machine, _, path = os.environ.pop(VARIABLE, "").partition(":")
    if not path or machine != _machine():
        return
    try:
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # not seen from here, from inside of a container perhaps: unknown is not dead
        return
    if not stat.S_ISFIFO(os.fstat(end).st_mode):
        os.close(end)
        return
    if sys.platform == "linux":
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, F_SETSIG, int(signal.SIGKILL))
        flags = fcntl.fcntl(end, fcntl.F_GETFL)
        fcntl.fcntl(end, fcntl.F_SETFL, flags | os.O_ASYNC)
    if sys.platform != "linux" or os.getpid() == 1:  # the first of a container cannot be killed
        threading.Thread(target=_wait, args=(end,), daemon=True).start()
    if _ended(end):  # before this process was there to be told
        _end()


def _wait(end: int) -> None:
    while not _ended(end):
        select.select([end], [], [])
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    os._exit(128 + signal.SIGKILL)


def _ended(end: int) -> bool:
    """Whether nobody holds the writing end."""
    try:
        return os.read(end, 1) == b""
    except BlockingIOError:
        return False


def _machine() -> str:
    """This start of this machine, so that no other takes the pipe for its own."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename

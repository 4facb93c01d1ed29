"""A job that runs in a process of its own ends when its Snakemake has gone, however that went.

Between Snakemake and its job there may be shells, activated environments and containers, which
outlive a killed Snakemake, so the job cannot ask after its parent. Snakemake keeps the writing end
of a named pipe open and never writes; jobs hold the reading end. The kernel closes the writing end
with the process, and on Linux kills whoever reads, in whatever PID namespace and even in the midst
of a long computation in C. Elsewhere a thread waits for the end.

Only jobs of the machine that Snakemake runs on are tied: those that a scheduler runs stay.

This file uses the standard library alone: jobs are tied before anything is imported.
"""

import atexit
import contextlib
import fcntl
import os
import select
import shutil
import signal
import stat
import sys
import tempfile
import threading
from pathlib import Path

VARIABLE = "LIPDESCENT_LIFELINE"
PREFIX = "lipdescent-lifeline-"
# Which signal O_ASYNC sends (fcntl(2), Linux): Python's fcntl module names it from 3.12 on.
F_SETSIG = 10


def let_out() -> None:
    """In Snakemake: jobs that are started from now on live no longer than this process.

    The pipe lies in a temporary folder, not in that of the study, which may be copied meanwhile.
    Where no pipe can be made jobs are not tied.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    new, path = folder / "new", folder / "pipe"
    try:
        os.mkfifo(new, 0o600)
    except OSError:
        folder.rmdir()
        return
    # For reading too: opening would wait for a reader otherwise. Stays open until the process ends.
    os.open(new, os.O_RDWR | os.O_NONBLOCK)
    new.rename(path)  # whoever finds a pipe of this name without a writer may know it for dead
    os.environ[VARIABLE] = f"{_machine()}:{path}"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _sweep(folder.parent)


def _sweep(place: Path) -> None:
    """Remove what killed processes of this user left."""
    for path in place.glob(f"{PREFIX}*/pipe"):
        with contextlib.suppress(OSError):
            end = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                ours = os.fstat(end).st_uid == os.getuid() and stat.S_ISFIFO(os.fstat(end).st_mode)
                if ours and _ended(end):
                    shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(end)


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

"""Which processes there are, as far as this one can see: the unknown are not the dead."""

import os
import sys
from pathlib import Path

LINUX = sys.platform == "linux"


def machine() -> str:
    """This start of this machine, containers included; empty where it cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def namespace() -> str:
    """Where numbers of processes mean the same as here; empty where it cannot be told."""
    if not LINUX:
        return "one"
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def started(process: int) -> str:
    """When a process started, by which a number used again is noticed; empty if not known.

    On Linux in clock ticks after the machine's start: a clock that is set does not move it.
    """
    if LINUX:
        try:
            return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
        except (OSError, IndexError):
            return ""
    import psutil  # jobs, which write files, do without

    try:
        return str(psutil.Process(process).create_time())
    except psutil.Error:
        return ""


def alive(process: int, since: str) -> bool | None:
    """Whether the process of this namespace that started at ``since`` lives; None: not known."""
    if not namespace():
        return None
    import psutil

    try:
        if not psutil.pid_exists(process):
            return False
    except OSError:
        return None
    found = started(process)
    if not (found and since):
        return None
    return found == since

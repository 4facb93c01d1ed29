"""How many GPUs this machine has and a job may use, found without importing torch."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from lipdescent.study.schema import ConfigError

# Memory of a GPU that a small job takes, and what the libraries that it loads there take, in MB.
SHARE_MB, CONTEXT_MB = 2500, 700
# Beyond these, jobs in turns on one GPU gain nothing.
MOST_SHARES = 8
# Trainings at once on one GPU: of 8 each took several times as long as alone, and what is to be
# measured of the widest networks, which takes longest, had to wait for all of them.
MOST_TRAININGS = 4
MEMORY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
WSL = "/usr/lib/wsl/lib"  # where Windows puts its driver's programs


def visible_gpus() -> int:
    """NVIDIA devices of this machine, found without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = _devices()
    if hidden is None:
        return there
    # CUDA shows what is listed up to the first entry that is none of its devices.
    count = 0
    for name in map(str.strip, hidden.split(",")):
        exists = int(name) < there if name.isdecimal() else name.startswith(("GPU-", "MIG-"))
        if not exists:
            break
        count += 1
    return count if there else 0


@functools.cache
def _devices() -> int:
    """Devices that the kernel shows, else those that the driver lists: WSL shows no files."""
    if shown := len(list(Path("/dev").glob("nvidia[0-9]*"))):
        return shown
    return sum(line.startswith("GPU ") for line in _driver_says("-L"))


def ask_ahead() -> None:
    """Ask how large the GPUs are, if there are some: the driver may take seconds to answer."""
    if visible_gpus():
        _asked(*MEMORY)


@functools.cache
def _asked(*arguments: str) -> subprocess.Popen[str] | None:
    """An nvidia-smi that has been started; None where there is none."""
    program = shutil.which("nvidia-smi", path=f"{os.environ.get('PATH', '')}:{WSL}")
    if program is None:
        return None
    try:
        return subprocess.Popen(
            [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return None


def _driver_says(*arguments: str) -> list[str]:
    """Lines of nvidia-smi; none where it is not there or fails."""
    process = _asked(*arguments)
    _asked.cache_clear()
    if process is None:
        return []
    try:
        said, _ = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        return []
    return said.splitlines() if process.returncode == 0 else []


@functools.cache
def shares() -> int:
    """How many jobs that need ``SHARE_MB`` of its memory a GPU of this machine holds at a time."""
    told = _driver_says(*MEMORY)
    sizes = [int(line) for line in map(str.strip, told) if line.isdecimal()]
    return min(MOST_SHARES, max(1, min(sizes) // SHARE_MB)) if sizes else 1


def gpus_per_job(device: str) -> int:
    """GPUs of a job: 0 where none is used. What it asks of a cluster's ``gpu`` resource."""
    return int(device.startswith("cuda") or (device == "auto" and visible_gpus() > 0))


def shares_of_machine(device: str) -> int:
    """Capacity of the ``gpu`` resource on this machine: the shares of all GPUs that jobs choose."""
    return shares() * (1 if ":" in device else max(1, visible_gpus()))


def shares_of_job(megabytes: float) -> int:
    """What a job asks of the ``gpu`` resource on this machine, by the memory of a GPU it needs."""
    return max(1, min(shares(), -(-int(megabytes) // SHARE_MB)))


def shares_of_training(megabytes: float) -> int:
    """The same of a training job, so that no more than :data:`MOST_TRAININGS` share a GPU."""
    return max(shares_of_job(megabytes), shares() // MOST_TRAININGS)


def check_device(device: str, *, local: bool) -> None:
    """CUDA asked for and absent is an error before any job; a cluster's nodes are not known here.

    Raises
    ------
    ConfigError
        Naming the device and what is allowed.
    """
    if not local or not device.startswith("cuda"):
        return
    count, index = visible_gpus(), int(device.partition(":")[2] or 0)
    if index >= count:
        here = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(
            f"config: device = {device!r}: this machine has {count} CUDA devices; "
            f"allowed here: {here}"
        )

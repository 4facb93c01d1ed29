"""How many GPUs this machine has and a job may use, found without importing torch."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from lipdescent.study.schema import ConfigError

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
    program = shutil.which("nvidia-smi", path=f"{os.environ.get('PATH', '')}:{WSL}")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def gpus_per_job(device: str) -> int:
    """What a job asks of the scheduler's ``gpu`` resource: 0 where none is used."""
    return int(device.startswith("cuda") or (device == "auto" and visible_gpus() > 0))


def gpus_at_once(device: str) -> int:
    """How many jobs may use a GPU of this machine at a time: one on each that they may choose."""
    return 1 if ":" in device else max(1, visible_gpus())


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

"""When Slurm will end the job that this process is part of."""

import os
import shutil
import subprocess
import time


def minutes_of(limit: str) -> float:
    """Minutes of a Slurm time: ``infinite``, ``MM``, ``MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS``."""
    if limit in ("infinite", "UNLIMITED", "n/a"):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
    elif len(parts) < 3:
        parts = [0, *parts, *[0] * (2 - len(parts))]
    hours, minutes, seconds = parts
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def job_end() -> float | None:
    """When Slurm will end this job, in seconds since the epoch; None outside of Slurm."""
    if os.environ.get("SLURM_JOB_END_TIME", "").isdigit():
        return float(os.environ["SLURM_JOB_END_TIME"])
    job = os.environ.get("SLURM_JOB_ID")
    if not job or shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        left = minutes_of(done.stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None
    return None if left == float("inf") else time.time() + 60 * left

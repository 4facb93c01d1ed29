"""Where a result comes from: versions, machine, the revision of the checkout and its changes."""

from __future__ import annotations

import csv
import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK_FILE = CHECKOUT / "requirements.txt"
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "safetensors", "snakemake")
# So many changed files are named with their digests; the rest is counted.
NAMED = 500


def describe(device: str) -> dict[str, Any]:
    """Versions of what computes, the machine, the revision of this checkout and its changes."""
    changed, untracked = changes()
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": {"model": cpu_model(), "cores": os.cpu_count()},
        "device": device,
        "blas": blas(),
        "versions": {package: _version(package) for package in PACKAGES},
        "lock_file": digest(LOCK_FILE),
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(changed or untracked),
        "changed_files": changed,
        "untracked_files": untracked,
    }


def changes() -> tuple[dict[str, str], dict[str, str]]:
    """Files of the checkout that differ from its revision, and those that git does not know.

    Path -> sha256 of the contents. What .gitignore names (results, the environment) is left out.
    Both are empty where git is missing, and then so is the revision.
    """
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    listed = _git("status", "--porcelain", "--untracked-files=all", "-z", "--no-renames")
    for entry in filter(None, listed.split("\0")):
        kind, name = entry[:2], entry[3:]
        files = found[kind == "??"]
        if len(files) < NAMED:
            files[name] = digest(CHECKOUT / name)
        else:
            files["and more"] = "not listed"
    return found


def digest(path: Path) -> str:
    """sha256 of a file's contents, or what keeps it from being read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "deleted"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def cpu_model() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def blas() -> dict[str, str]:
    """What multiplies matrices, and the instructions that PyTorch chose for this processor."""
    try:
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        numpy_blas = f"{found.get('name')} {found.get('version')}"
    except (KeyError, TypeError, AttributeError):
        numpy_blas = "unknown"
    linked = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return {
        "numpy": numpy_blas,
        "torch": linked[1] if linked else "unknown",
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def job_seconds(benchmarks: Path) -> dict[str, float]:
    """Rule -> seconds that the last run of its jobs took, together, from Snakemake's benchmarks."""
    found: dict[str, float] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        with path.open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                found[rule] = round(found.get(rule, 0.0) + float(row["s"]), 3)
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip("\n") if done.returncode == 0 else ""

"""Where a result comes from: versions, machine, the revision of the checkout and its changes."""

import csv
import hashlib
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipdescent.storage import stamps
from lipdescent.study import machine

CHECKOUT = Path(__file__).resolve().parents[3]
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
        "cpu": {"model": machine.cpu_model(), "cores": os.cpu_count()},
        "device": device,
        "blas": blas(),
        "versions": {package: machine.version(package) for package in PACKAGES},
        "lock_file": digest(LOCK_FILE),
        "revision": _git("rev-parse", "HEAD") if _is_tracked() else "",
        # Not known without a revision.
        "uncommitted_changes": bool(changed or untracked) if _is_tracked() else None,
        "changed_files": changed,
        "untracked_files": untracked,
    }


def changes() -> tuple[dict[str, str], dict[str, str]]:
    """Files of the checkout that differ from its revision, and those that git does not know.

    Path -> sha256 of the contents. What .gitignore names (results, the environment) is left out.
    Both are empty where git is missing, and then so is the revision.
    """
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    if not _is_tracked():
        return found
    # Git tells paths from the top of a repository, of which this may be a folder.
    top = Path(_git("rev-parse", "--show-toplevel"))
    listed = _git("status", "--porcelain", "--untracked-files=all", "-z", "--no-renames", ".")
    for entry in filter(None, listed.split("\0")):
        kind, name = entry[:2], entry[3:]
        files = found[kind == "??"]
        if len(files) < NAMED:
            path = top / name
            inside = path.is_relative_to(CHECKOUT)
            files[str(path.relative_to(CHECKOUT)) if inside else name] = digest(path)
        else:
            files["and more"] = "not listed"
    return found


def _is_tracked() -> bool:
    """Whether git knows these files: copied into another repository, they have no revision."""
    return bool(_git("ls-files", "."))


def digest(path: Path) -> str:
    """sha256 of a file's contents, or what keeps it from being read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "deleted"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


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


def makers(folder: Path, paths: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Rule -> with what its files were made, by their stamps, and how many were made so.

    A study may have been computed on several machines, or with several versions of PyTorch.

    Parameters
    ----------
    folder : the study's.
    paths : the files; those that are not there, or tell nothing, count as unknown.
    """
    found: dict[str, Counter[str]] = {}
    for path in paths:
        stamp = stamps.read(path)
        rule = stamp["rule"] if stamp else f"unknown ({path.relative_to(folder).parts[0]})"
        by = json.dumps(stamp.get("by", {}) if stamp else {}, sort_keys=True)
        found.setdefault(rule, Counter())[by] += 1
    return {
        rule: [{**json.loads(by), "files": count} for by, count in sorted(counts.items())]
        for rule, counts in found.items()
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


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # names of files are bytes
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip("\n") if done.returncode == 0 else ""

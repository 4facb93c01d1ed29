"""The machine that computes: its processor and its packages. No torch here."""

import platform
from importlib import metadata
from pathlib import Path


def cpu_model() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def version(package: str) -> str:
    """Of an installed package; "not installed" of any other."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

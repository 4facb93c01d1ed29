"""What computed a benchmark's numbers, as pages say it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor as Linux names it, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    return f"{name}, {len(models) or '?'} cores; torch {torch.__version__}, one thread"

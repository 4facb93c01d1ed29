"""What computed a benchmark's numbers, as pages say it."""

from __future__ import annotations

import os

import checkout  # noqa: F401
import torch

from lipdescent.study.machine import cpu_model


def machine() -> str:
    """Processor as Linux names it, and the versions that matter."""
    return f"{cpu_model()}, {os.cpu_count()} cores; torch {torch.__version__}, one thread"

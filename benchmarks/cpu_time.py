"""Seconds of the processor, of this process alone: other load on the machine counts little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def seconds(call: Callable[[], T], repetitions: int = 1) -> tuple[float, T]:
    """Median over the repetitions, and what the last of them gave."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        result = call()
        times.append(time.process_time() - start)
    return statistics.median(times), result

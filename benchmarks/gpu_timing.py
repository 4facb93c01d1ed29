"""Time and memory of a device, and the networks that are timed on it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial

import checkout  # noqa: F401
import torch

from lipdescent.plugins import lookup


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, *, least: float) -> float:
    """Seconds per call, over as many calls as take ``least`` seconds; one call beforehand."""
    run()
    wait(device)
    count, begin = 0, time.perf_counter()
    while True:
        run()
        count += 1
        if count & (count - 1) == 0:  # waiting is not free: after 1, 2, 4, 8, ... calls
            wait(device)
            spent = time.perf_counter() - begin
            if spent > least:
                return spent / count


def builder(name: str, width: int, shape: tuple[int, ...], **options):
    build = lookup.resolve("architectures", name).build
    return partial(build, width, input_shape=shape, num_classes=10, **options)


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

"""A whole epoch as one CUDA graph: thousands of small kernels without a launch each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class EpochGraph:
    """``run(*values)`` captured once and replayed with other values.

    Parameters
    ----------
    run : the epoch; must not wait for the device and must keep its tensors in place.
    values : tensors on the device with the shapes that every call will have.
    live : every tensor that ``run`` changes; capturing leaves their values as they were.
    """

    def __init__(
        self, run: Callable[..., None], values: Sequence[Tensor], live: Sequence[Tensor]
    ) -> None:
        self._values = [value.clone() for value in values]
        before = [tensor.clone() for tensor in live]
        device = self._values[0].device
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Libraries allocate workspaces at their first call, which capturing does not allow.
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                run(*self._values)
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.cuda.graph(self._graph):
                run(*self._values)
        finally:
            for tensor, value in zip(live, before, strict=True):
                tensor.copy_(value)

    def __call__(self, values: Sequence[Tensor]) -> None:
        """Run one epoch; returns before the device has finished."""
        for own, value in zip(self._values, values, strict=True):
            own.copy_(value, non_blocking=True)
        self._graph.replay()

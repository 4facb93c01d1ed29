"""Many training updates as one CUDA graph: thousands of small kernels without a launch each."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Graphs of one process never run at the same time and leave nothing behind in their memory: they
# share one pool, so that blocks of a stack take turns in it. A pool lives as long as one of them.
_captured: weakref.WeakSet[UpdateGraph] = weakref.WeakSet()


class UpdateGraph:
    """``run(*values)`` captured once and replayed with other values.

    Parameters
    ----------
    run : some updates; must not wait for the device and must keep its tensors in place.
    values : tensors on the device with the shapes that every call will have.
    live : every tensor that ``run`` changes; capturing leaves their values as they were.

    Raises
    ------
    torch.OutOfMemoryError
        If the device has too little memory for ``run``.
    RuntimeError
        If ``run`` does what a graph cannot hold, such as waiting for the device.
    """

    def __init__(
        self, run: Callable[..., None], values: Sequence[Tensor], live: Sequence[Tensor]
    ) -> None:
        self._values = [value.clone() for value in values]
        before = [tensor.clone() for tensor in live]
        device = self._values[0].device
        self._graph = torch.cuda.CUDAGraph()
        pool = next((other._graph.pool() for other in _captured), None)
        try:
            # Libraries allocate workspaces at their first call, which capturing does not allow.
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                run(*self._values)
            torch.cuda.current_stream(device).wait_stream(side)
            torch.cuda.empty_cache()  # capturing needs the same memory again, from its own pool
            # On a stream of the tensors' device: the default one is of the current device.
            with torch.cuda.graph(self._graph, pool=pool, stream=torch.cuda.Stream(device)):
                run(*self._values)
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None  # what came of it is not the reason
            raise
        finally:
            for tensor, value in zip(live, before, strict=True):
                tensor.copy_(value)
        _captured.add(self)

    def __call__(self, *values: Tensor) -> None:
        """Run the updates; returns before the device has finished."""
        for own, value in zip(self._values, values, strict=True):
            own.copy_(value, non_blocking=True)
        self._graph.replay()

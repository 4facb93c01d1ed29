"""A whole epoch as one CUDA graph: thousands of small kernels without a launch each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class EpochGraph:
    """``run(order, rates, first_update)`` captured once and replayed with other values.

    Parameters
    ----------
    run : the epoch; must not wait for the device and must keep its tensors in place.
    order, rates : examples with the shapes that every call will have.
    live : every tensor that ``run`` changes; capturing leaves their values as they were.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor], None],
        order: Tensor,
        rates: Tensor,
        live: Sequence[Tensor],
    ) -> None:
        self._order, self._rates = order.clone(), rates.clone()
        self._update = torch.zeros((), dtype=torch.float64, device=order.device)
        before = [tensor.clone() for tensor in live]
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Libraries allocate workspaces at their first call, which capturing does not allow.
            side = torch.cuda.Stream(order.device)
            side.wait_stream(torch.cuda.current_stream(order.device))
            with torch.cuda.stream(side):
                run(self._order, self._rates, self._update)
            torch.cuda.current_stream(order.device).wait_stream(side)
            with torch.cuda.graph(self._graph):
                run(self._order, self._rates, self._update)
        finally:
            for tensor, value in zip(live, before, strict=True):
                tensor.copy_(value)

    def __call__(self, order: Tensor, rates: Tensor, first_update: int) -> None:
        """Run one epoch; returns before the device has finished."""
        self._order.copy_(order, non_blocking=True)
        self._rates.copy_(rates, non_blocking=True)
        self._update.fill_(first_update)
        self._graph.replay()

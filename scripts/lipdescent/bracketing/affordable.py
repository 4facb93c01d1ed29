"""How many data points, and of how much, a bound is given: what fits the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import ModuleType

import torch
from torch import Tensor

from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.stacks.model_stack import ModelStack

NORMAL, NUM_NORMAL = "normal", 256  # the split that is drawn where no data are given, its points
_UNLIMITED = 2**31
# What a bound costs grows with these: for networks of which n points are affordable.
_OPTIONS: dict[str, Callable[[int], dict[str, int]]] = {
    "lower_ascent": lambda n: {"restarts": min(4, n), "steps": min(16, 4 * n)},
    "lower_attack": lambda n: {"num_points": max(1, n // 10)},
    "lower_gaussian": lambda n: {"num_points": min(1000, n)},
    "lower_convex_combinations": lambda n: {"num_pairs": min(1000, max(1, n // 5))},
}


def options(name: str, count: int) -> dict[str, int]:
    """Options of the bound ``name`` where ``count`` points are affordable."""
    return _OPTIONS[name](count) if name in _OPTIONS and count < _UNLIMITED else {}


def normal(stack: ModelStack, seed: int) -> dict[str, Tensor]:
    """Standard normal points, for a network without data."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(NUM_NORMAL, *stack.input_shape, generator=generator, dtype=torch.float64)
    return {NORMAL: drawn.to(stack.device)}


def num_points(
    bounds: Mapping[str, ModuleType],
    prover: Prover,
    inputs: Mapping[str, Tensor],
    *,
    norm: str,
    budget: float,
) -> int:
    """Points whose Jacobian norms and proofs take about ``budget`` seconds, at least 1."""
    if not budget > 0:
        raise ValueError(f"budget = {budget}: allowed are seconds > 0")
    on_data = any(bound.DIRECTION == "lower" for bound in bounds.values())
    if not on_data or prover.links is not None:
        return _UNLIMITED
    first = next(iter(inputs.values()))[:1]
    seconds = budget
    for _ in range(2):  # the first time holds what is paid once
        start = time.perf_counter()
        try:
            jacobian_norms(prover.stack, first, norms=[norm])
            prover.certify(first[None], norm=norm)
        except Exception:  # each bound that meets it says so in its row
            return _UNLIMITED
        seconds = min(seconds, time.perf_counter() - start)
        if seconds > budget / 2:
            break
    return max(1, math.floor(min(budget / seconds, _UNLIMITED)))

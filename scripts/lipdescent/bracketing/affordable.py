"""How many data points, and of how much, a bound is given: what fits the budget.

What a bound at points costs is measured before, and it is given fewer. What a bound costs that
takes no points is not known before it has ended: it is stopped near twice the budget, and its row
says so. ``upper_layer_product`` is never stopped, so that a network has an upper bound.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

import torch
from torch import Tensor

from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain

NORMAL, NUM_NORMAL = "normal", 256  # the split that is drawn where no data are given, its points
_UNLIMITED = 2**31
_NEVER_STOPPED = ("upper_layer_product",)
_STOPPED = 1.8  # times the budget: an operation of torch ends before it is stopped
_SOONEST = 8.0  # seconds; what a bound needs anyway is not stopped, however small the budget
_AGAIN = 0.5  # seconds, should a bound have caught the first
_CUBIC, _CUBIC_FLOPS = ("upper_eclipse_fast", "upper_lipsdp", "upper_local"), 2e10
_SEARCHED, _POPULATION = 2**16, 1200  # points of lower_search, and of each of its populations
_FLOPS = 2**30  # a second, on any machine: what takes less time by this is not measured
# What a bound costs grows with these: for networks of which n points are affordable.
_OPTIONS: dict[str, Callable[[int], dict[str, int]]] = {
    "lower_ascent": lambda n: {
        "restarts": min(4, n),
        "steps": min(16, max(1, n // 4)),
        "num_candidates": max(1, n // 2),
    },
    "lower_attack": lambda n: {"num_points": max(1, n // 10)},
    "lower_search": lambda n: _search(n),
    "lower_gaussian": lambda n: {"num_points": min(1000, n)},
    "lower_convex_combinations": lambda n: {"num_pairs": min(1000, max(1, n // 10))},
}


def options(name: str, count: int) -> dict[str, int]:
    """Options of the bound ``name`` where ``count`` points are affordable."""
    return _OPTIONS[name](count) if name in _OPTIONS and count < _UNLIMITED else {}


def _search(count: int) -> dict[str, int]:
    if count >= _POPULATION:
        return {"populations": min(80, count // _POPULATION)}
    return {"populations": 1, "rounds": max(1, 30 * count // _POPULATION)}


class _Stopped(NotApplicable):
    """A bound was stopped."""


def refuse(name: str, stack: ModelStack, *, budget: float) -> None:
    """Raise NotApplicable where one operation alone takes twice the budget: nothing stops it."""
    links = chain(stack) if name in _CUBIC else None
    if links is not None:
        largest = max(max(weight.shape[1:]) for weight in links.weights)
        if 2 * largest**3 > 2 * max(budget, _SOONEST / 2) * _CUBIC_FLOPS:
            raise NotApplicable(f"a layer has {largest} units; the budget is {budget:g} s")


@contextlib.contextmanager
def stopped(name: str, *, budget: float) -> Iterator[None]:
    """Whatever runs inside raises NotApplicable near twice ``budget`` seconds, or 8.

    Only in the main thread, and where the system has timers; elsewhere nothing is stopped.
    """
    main = threading.current_thread() is threading.main_thread()
    timers = main and hasattr(signal, "setitimer") and math.isfinite(budget)
    if name in _NEVER_STOPPED or not timers:
        yield
        return

    ended: list[bool] = []
    limit = max(_STOPPED * budget, _SOONEST)

    def stop(_number: int, _frame: object) -> None:
        if not ended:
            raise _Stopped(f"stopped after {limit:g} s; the budget is {budget:g} s")

    began, before = time.perf_counter(), signal.signal(signal.SIGALRM, stop)
    left, again = signal.setitimer(signal.ITIMER_REAL, limit, _AGAIN)
    try:
        try:
            yield
        finally:
            ended.append(True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # another's timer goes on, less the time that has passed
            passed = time.perf_counter() - began
            signal.setitimer(signal.ITIMER_REAL, max(left - passed, 1e-3), again)


def normal(stack: ModelStack, seed: int) -> dict[str, Tensor]:
    """Standard normal points, for a network without data."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(NUM_NORMAL, *stack.input_shape, generator=generator, dtype=torch.float64)
    return {NORMAL: drawn.to(stack.device)}


def points_within(
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
    if not on_data or (prover.links is not None and _is_quick(prover, inputs, budget)):
        return _UNLIMITED
    first = next(iter(inputs.values()))[:1]
    # A chain's points are taken together: it is the further ones that cost.
    together = 1 if prover.links is None else 9
    seconds = budget
    for _ in range(2):  # the first time holds what is paid once
        try:
            one = _seconds(prover, first, norm)
            if together > 1:
                more = first.expand(together, *first.shape[1:])
                one = max(_seconds(prover, more, norm) - one, one / together) / (together - 1)
        except Exception:  # each bound that meets it says so in its row
            return _UNLIMITED
        seconds = min(seconds, one)
        if seconds > budget / 2:
            break
    # Of a chain a point costs little more than its Jacobian: a search takes several for each.
    share = 1 if prover.links is None else 3
    return max(1, math.floor(min(budget / (share * seconds), _UNLIMITED)))


def _is_quick(prover: Prover, inputs: Mapping[str, Tensor], budget: float) -> bool:
    """Whether the Jacobians of all points and of the search take less than ``budget`` seconds."""
    assert prover.links is not None
    weights = prover.links.weights
    flops = 2 * weights[-1].shape[1] * sum(weight[0].numel() for weight in weights[:-1])
    count = sum(map(len, inputs.values())) + _SEARCHED
    return count * flops < budget * _FLOPS


def _seconds(prover: Prover, points: Tensor, norm: str) -> float:
    start = time.perf_counter()
    jacobian_norms(prover.stack, points, norms=[norm])
    with prover.only_float64():  # more digits are one point's, however many points there are
        prover.certify(points[None, :1], norm=norm)
    return time.perf_counter() - start

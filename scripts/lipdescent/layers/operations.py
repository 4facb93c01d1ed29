"""Constants of what a ``forward`` does beside layers: :mod:`lipdescent.networks.operations`."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.layers import activation
from lipdescent.measurement import NotApplicable
from lipdescent.networks.operations import SCALARS, Divide, Function, Gather, Reduce, Scale, Shift

State = dict[str, Tensor]
Shape = tuple[int, ...]


def scale(module: Scale, state: State, **_: Any) -> Tensor | float:
    """Largest factor in size, in every norm."""
    if "weight" not in state:
        return abs(module.number)
    return _sizes(state).amax(1)


def divide(module: Divide, state: State, **_: Any) -> Tensor | float:
    """1 by the smallest divisor in size, in every norm."""
    if "weight" not in state:
        _refuse_zero(module.number != 0)
        return math.nextafter(1 / abs(module.number), math.inf)
    smallest = _sizes(state).amin(1)
    _refuse_zero(bool((smallest > 0).all()))
    return ulps.round_up(1 / smallest)


def shift(module: Shift, state: State, **_: Any) -> float:
    """1 in every norm."""
    return 1.0


def gather(module: Gather, state: State, *, norm: str, **_: Any) -> float:
    """An input shown m times: m in l1, sqrt(m) in l2, 1 in l_inf."""
    count = module.multiplicity()
    if norm == "linf":
        return float(count > 0)
    return float(count) if norm == "l1" else _root(count)


def reduce(module: Reduce, state: State, *, input_shape: Shape, norm: str, **_: Any) -> float:
    """Over disjoint groups of k numbers, so the largest constant of one group.

    The sum's is that of the row of k ones: 1 in l1, sqrt(k) in l2, k in l_inf; the mean's is that
    divided by k. A maximum moves by at most the largest change: 1. The length: |x| - |y| is at
    most the l2 length of x - y, which is at most the l1 length, and sqrt(k) times the largest
    entry. Log-sum-exp has the softmax as its gradient, whose length is at most 1 in l2 and, as
    the dual of the other two, in l1 and l_inf.
    """
    k = module.count(input_shape)
    if module.kind == "sum":
        return {"l1": 1.0, "l2": _root(k), "linf": float(k)}[norm]
    if module.kind == "mean":
        value = {"l1": 1 / k, "l2": 1 / math.sqrt(k), "linf": 1.0}[norm]
        return value if norm == "linf" or k == 1 else value * (1 + 2.0**-50)
    return _root(k) if module.kind == "length" and norm == "linf" else 1.0


def function_slopes(module: Function, state: State) -> tuple[float, float]:
    """Smallest and largest slope on the whole line."""
    found = SCALARS[module.name].slopes(module.argument)
    if module.name == "power" and module.argument in (0.0, 1.0):
        return module.argument, module.argument
    if found is None:
        raise NotApplicable(
            activation.jump(module)
            or f"{module.name} has no bounded slope on the whole line; give a domain on which it "
            "has one"
        )
    return found


def function(module: Function, state: State, **_: Any) -> float:
    """The steepest slope, in every norm."""
    return max(map(abs, function_slopes(module, state)))


def _sizes(state: State) -> Tensor:
    """float64 (models, entries)."""
    weight = state["weight"].to(torch.float64).abs()
    return weight.reshape(len(weight), -1)


def _root(count: int) -> float:
    root = math.isqrt(count)
    return float(root) if root * root == count else math.nextafter(math.sqrt(count), math.inf)


def _refuse_zero(positive: bool) -> None:
    if not positive:
        raise ValueError("a divisor is 0; allowed are other numbers")


TABLE: dict[type, Callable[..., Tensor | float]] = {
    Scale: scale,
    Divide: divide,
    Shift: shift,
    Gather: gather,
    Reduce: reduce,
    Function: function,
}

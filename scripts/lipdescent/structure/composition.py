"""Constants of chains, sums and concatenations of layers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic import certified_norms, ulps
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.layer_constants import layer_bound
from lipdescent.structure.linear_runs import run_bound, runs

# Bound of several parts at once, or None where there is none better than their own:
# (parts of a chain, norm) -> float64 (models,), or of a sum.
Shortcut = Callable[[tuple[Node, ...] | Sum], Tensor | None]
_SPARED = 2**22  # entries of a layer in a run, above which it has no constant of its own


def bound(
    node: Node, stack: ModelStack, *, norm: str, shortcut: Shortcut | None = None
) -> Float64[Tensor, " models"]:
    """Upper bound on the Lipschitz constant of ``node`` for every model: float64 (num_models,).

    Chain: product, linear layers that follow each other as one where that pays
    (:mod:`lipdescent.structure.linear_runs`). Sum: sum. Concatenation: l2 the root of the sum of
    squares, l1 the sum, l_inf the maximum. With a ``shortcut``, the best way to cut each chain into
    single parts and runs of three parts, and the smaller of a sum's two bounds.

    Raises
    ------
    NotApplicable, ValueError
        From a layer, with its path.
    """
    if isinstance(node, Layer):
        return layer_bound(node, stack, norm=norm)
    other = shortcut(node) if shortcut is not None and isinstance(node, Sum) else None
    # A sum's own bound is at most its parts' (at equal multipliers): theirs are not needed.
    inner = shortcut if other is None else None
    if isinstance(node, Chain):
        return _chain(node.parts, stack, norm, shortcut)
    values = [bound(part, stack, norm=norm, shortcut=inner) for part in node.parts]
    if isinstance(node, Concat):
        if norm == "linf":
            return torch.stack(values).amax(0)
        if norm == "l2":
            return certified_norms.length_up(torch.stack(values, -1))
    total = ulps.round_up(torch.stack(values).sum(0), len(values))
    return total if other is None else torch.minimum(total, other)


def _chain(
    parts: tuple[Any, ...], stack: ModelStack, norm: str, shortcut: Shortcut | None
) -> Tensor:
    best = [torch.ones(stack.num_models, dtype=torch.float64, device=stack.device)]
    composed = {end: begin for begin, end in runs(parts)}
    inside = {i for end, begin in composed.items() for i in range(begin, end)}
    for i, part in enumerate(parts):
        candidate = torch.full_like(best[0], math.inf)
        if i not in inside or (shortcut is not None and _is_small(part, stack)):
            candidate = times(best[i], bound(part, stack, norm=norm, shortcut=shortcut))
        if shortcut is not None and i >= 2:
            triple = shortcut(parts[i - 2 : i + 1])
            if triple is not None:
                candidate = torch.minimum(candidate, times(best[i - 2], triple))
        if i + 1 in composed:
            begin = composed[i + 1]
            whole = run_bound(parts[begin : i + 1], stack, norm=norm)
            candidate = torch.minimum(candidate, times(best[begin], whole))
        best.append(candidate)
    return best[-1]


def _is_small(part: Node, stack: ModelStack) -> bool:
    assert isinstance(part, Layer)
    return all(t[0].numel() <= _SPARED for t in part.state(stack.state).values())


def times(
    a: Float64[Tensor, "*models"], b: Float64[Tensor, "*models"]
) -> Float64[Tensor, "*models"]:
    """Product rounded up, exact for a factor of 1 or 0."""
    product = torch.where((a == 1) | (b == 1), a * b, ulps.round_up(a * b))
    return torch.where((a == 0) | (b == 0), 0.0, product)  # whatever overflows beside it

"""What one bound gives of one network, as rows of the table; or the row that says why nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from lipdescent.bounds import _taken
from lipdescent.bounds._measured import BOUNDS, described, no_bound
from lipdescent.bounds.jacobians.awake import why_zero
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import said
from lipdescent.networks.reading import Unreadable
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks.model_stack import ModelStack

COLUMNS = ("quantity", "direction", "norm", "value", "status", "seconds", "split", "reason")


def rows_of(
    name: str,
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    norm: str,
    seed: int,
    entry: Mapping[str, Any],
    budget: float,
) -> list[dict]:
    """Rows of what ``name: entry`` of ``methods`` gives, at least one; each with its time.

    Stopped near twice ``budget`` seconds.
    """
    start = time.perf_counter()
    file = bound_entries.bound_of(name, entry)
    bound, quantity = lookup.resolve("bounds", file), bound_entries.called(file, name, entry)
    try:
        if norm not in bound.NORMS:
            raise NotApplicable(f"exists in {', '.join(bound.NORMS)}")
        affordable.refuse(file, stack, budget=budget)
        with affordable.stopped(file, budget=budget):
            rows = list(_measured(name, bound, stack, inputs, norm=norm, seed=seed, entry=entry))
    except (NotApplicable, Unreadable) as error:
        rows = [_nothing(quantity, bound, norm, str(error))]
    except Exception as error:  # one method's fault takes nothing from the others
        rows = [_nothing(quantity, bound, norm, described(error, file), status="error")]
    seconds = time.perf_counter() - start
    return [row | {"seconds": seconds} for row in rows]


def _nothing(
    name: str, bound: ModuleType, norm: str, reason: str, *, status: str = "not_applicable"
) -> dict:
    row = {"quantity": name, "direction": bound.DIRECTION, "norm": norm, "split": ""}
    return row | {"value": float("nan"), "status": status, "reason": reason}


def _measured(
    name: str,
    bound: ModuleType,
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    norm: str,
    seed: int,
    entry: Mapping[str, Any],
) -> Iterator[dict]:
    # Copies: a bound may work in place.
    copies = {split: points.clone() for split, points in inputs.items()}
    for m in _taken.take(
        bound,
        name,
        stack,
        entry=entry,
        inputs=copies,
        labels=lambda: None,
        norms=[norm],
        seed=seed,
    ):
        if m.defined is not None and not bool(m.defined[0]):
            continue
        if bool(no_bound(m).any() | (m.values.isnan().any() & (m.direction in BOUNDS))):
            raise ValueError(f"{m.quantity} = {float(m.values[0])}; allowed are numbers >= 0")
        value, reason = float(m.values[0]), ""
        if m.direction == "estimate":
            reason = Prover(stack).reason
        elif m.direction == "upper" and (declared := said(stack.module)):
            reason = f"declared, not proved here: {declared}"
        elif m.direction == "lower" and value == 0:
            file = bound_entries.bound_of(name, entry)
            reason = why_zero(stack, inputs, norm=m.norm, quantity=file)
            if "points" in entry:
                reason = f"nothing is proved at the points {entry['points']}"
        row = {"quantity": m.quantity, "direction": m.direction, "norm": m.norm, "split": m.split}
        yield row | {"value": value, "status": "ok", "reason": reason}

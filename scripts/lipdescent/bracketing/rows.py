"""What one bound gives of one network, as rows of the table; or the row that says why nothing."""

from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from lipdescent import deadline
from lipdescent.bounds import _taken
from lipdescent.bounds._measured import BOUNDS, described, no_bound
from lipdescent.bounds.jacobians.awake import why_zero
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable, domains
from lipdescent.bracketing.shares import LOWER, NotInBudget, Shares, stopped
from lipdescent.domains.domain import Domain
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import said
from lipdescent.networks.reading import Unreadable
from lipdescent.plugins import bound_entries, lookup
from lipdescent.points._parts import some
from lipdescent.stacks.model_stack import ModelStack

NOT_IN_BUDGET = "not_in_budget"
COLUMNS = ("quantity", "direction", "norm", "value", "status", "seconds", "split", "reason")


class Asked(NamedTuple):
    """What all methods of a bracket share: the network, where, in which norm, in which time."""

    stack: ModelStack
    inputs: Mapping[str, Tensor]
    domain: Domain
    norm: str
    seed: int
    rate: affordable.Rate
    shares: Shares


def rows_of(name: str, entry: Mapping[str, Any], asked: Asked) -> list[dict]:
    """Rows of what ``name: entry`` of ``methods`` gives, at least one; each with its time.

    A search stops at the end of its share. What is stopped keeps what it has found, and its rows
    say so.
    """
    clock, norm, rows = asked.shares.clock, asked.norm, []
    start, file = clock(), bound_entries.bound_of(name, entry)
    bound, quantity = lookup.resolve("bounds", file), bound_entries.called(file, name, entry)
    entry = dict(entry)
    try:
        if norm not in bound.NORMS:
            raise NotApplicable(f"exists in {', '.join(bound.NORMS)}")
        share = asked.shares.of(name)
        affordable.refuse(file, asked.stack, seconds=share.at_most)
        needed = partial(_is_needed, file, asked.rate)
        with (
            stopped(share.at_most, needed=needed),
            deadline.until(start + share.seconds, clock=clock),
        ):
            inputs, own = _fitting(name, entry, asked, share.seconds, lower=_is_lower(bound))
            entry = own | entry
            for row in _measured(name, bound, asked._replace(inputs=inputs), entry):
                rows.append(_at_least(row, quantity, entry, asked) if file == LOWER else row)
    except NotInBudget as error:
        rows = [row | {"reason": row["reason"] or str(error)} for row in rows]
        rows = (
            rows
            or _of_one_point(quantity, file, asked, str(error))
            or [_nothing(quantity, bound, norm, str(error), status=NOT_IN_BUDGET)]
        )
    except (NotApplicable, Unreadable) as error:
        rows = [_nothing(quantity, bound, norm, str(error))]
    except Exception as error:  # one method's fault takes nothing from the others
        rows = [_nothing(quantity, bound, norm, described(error, file), status="error")]
    seconds = clock() - start
    return [domains.of_domain(row | {"seconds": seconds}, entry, asked.domain) for row in rows]


def _is_needed(file: str, rate: affordable.Rate) -> bool:
    """Whether the bound is the lower end of the bracket, and nothing is proved yet."""
    return file == LOWER and not rate.proved > 0


def _at_least(row: dict, quantity: str, entry: Mapping[str, Any], asked: Asked) -> dict:
    """Never less than what the time was measured with proved, at a point of the first split."""
    own = row["quantity"] == quantity and row["split"] == next(iter(asked.inputs))
    if not own or "points" in entry or row["direction"] != asked.rate.prover.direction:
        return row
    if not row["value"] < asked.rate.proved:
        return row
    return row | {"value": asked.rate.proved, "reason": ""}


def _of_one_point(name: str, file: str, asked: Asked, reason: str) -> list[dict]:
    """Of the bound that is begun in any case: what its time was measured with proves something."""
    proved = asked.rate.proved
    if file != LOWER or not proved > 0:
        return []
    row = {"quantity": name, "direction": asked.rate.prover.direction, "norm": asked.norm}
    row |= {"split": next(iter(asked.inputs)), "status": "ok", "reason": f"of one point: {reason}"}
    return [row | {"value": proved}]


def _is_lower(bound: ModuleType) -> bool:
    return bool(bound.DIRECTION == "lower")


def _fitting(
    name: str, entry: Mapping[str, Any], asked: Asked, seconds: float, *, lower: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of as many points as are affordable, and options: a bound may work in place."""
    file = bound_entries.bound_of(name, entry)
    asked.rate.refuse(file, seconds)
    count = asked.rate.points(seconds) if lower else affordable.UNLIMITED
    own = affordable.options(file, count, seconds)
    own |= domains.options(name, entry, asked.domain, seconds)
    some_of = {split: some(p, max(1, count), asked.seed) for split, p in asked.inputs.items()}
    return {split: points.clone() for split, points in some_of.items()}, own


def _nothing(
    name: str, bound: ModuleType, norm: str, reason: str, *, status: str = "not_applicable"
) -> dict:
    row = {"quantity": name, "direction": bound.DIRECTION, "norm": norm, "split": ""}
    return row | {"value": float("nan"), "status": status, "reason": reason}


def _measured(
    name: str, bound: ModuleType, asked: Asked, entry: Mapping[str, Any]
) -> Iterator[dict]:
    stack, inputs = asked.stack, asked.inputs
    for m in _taken.take(
        bound,
        name,
        stack,
        entry=entry,
        inputs=inputs,
        labels=lambda: None,
        norms=[asked.norm],
        seed=asked.seed,
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

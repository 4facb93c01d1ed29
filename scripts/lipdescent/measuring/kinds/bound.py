"""One bound, by its name, in the norms that are asked for and that it has."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds import _taken
from lipdescent.jobs import workers
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring.as_read import as_read
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.networks.declared import said
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import seed_of
from lipdescent.storage import table
from lipdescent.structure.trace import trace


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """The bound's measurements; its random draws depend on its name and the run.

    Raises
    ------
    TypeError, ValueError
        If it yields what cannot be published, the same quantity twice, or nothing.
    """
    bound = lookup.resolve("bounds", bound_entries.bound_of(subject.name, options))
    wanted = options.get("norms", list(bound.NORMS))
    norms = [norm for norm in wanted if norm in bound.NORMS]
    if not norms:
        raise NotApplicable(f"norms {wanted}: this bound exists in {', '.join(bound.NORMS)}")
    seed = seed_of("bound", subject.name, *subject.saved.origin.run.values())
    stack = as_read(subject.sound, subject.inputs)
    # Calling the network is compared with what is read of it, whatever the bound reads.
    with contextlib.suppress(NotApplicable, TypeError):
        trace(stack)
    believed = said(stack.module)
    if believed:
        print(f"{subject.name}: declared, not proved here: {believed}")

    def taken(models: Tensor | None) -> list[Measurement]:
        largest = _largest(subject, models)
        return list(
            _taken.take(
                bound,
                subject.name,
                stack if models is None else stack[models],
                entry=options | {"largest": largest} if largest else options,
                inputs=subject.inputs,
                labels=partial(_labels, subject, models),
                norms=norms,
                seed=seed,
            )
        )

    for m in _together(workers.mapped(taken, _parts(stack, options)), stack.num_models):
        # What rests on a declaration is no certified bound: no bracket, no certificate has it.
        yield replace(m, direction="declared") if believed and m.direction == "upper" else m


def _parts(stack: ModelStack, options: dict[str, Any]) -> list[Tensor] | list[None]:
    """Models that are measured apart, as no value depends on the others; None: all at once.

    Every so many-th one, as what models take changes with their epoch; two at least, for products
    of one matrix alone are summed in another order. Not on sets of points, which are drawn for all.
    """
    count = 1 if "points" in options else min(workers.allowed(), stack.num_models // 2)
    return [torch.arange(k, stack.num_models, count) for k in range(count)] if count > 1 else [None]


def _labels(subject: Subject, models: Tensor | None) -> dict[str, Tensor]:
    found = labels_of(subject)
    if models is None:
        return found
    return {split: one if one.dim() == 1 else one[models] for split, one in found.items()}


def _largest(subject: Subject, models: Tensor | None) -> dict[str, dict[str, Tensor]]:
    """Where an earlier bound's norms are largest: norm -> split -> (num_models, k)."""
    found: dict[str, dict[str, Tensor]] = {}
    for path in subject.earlier:
        for norm, by_split in table.largest_at(path).items():
            for split, rows in by_split.items():
                where = torch.tensor(rows, device=subject.stack.device)
                if len(where) != int(subject.finite.sum()):
                    raise ValueError(f"{path}: {len(where)} models, expected those that are finite")
                found.setdefault(norm, {})[split] = where if models is None else where[models]
    return found


def _together(parts: list[list[Measurement]], count: int) -> list[Measurement]:
    """The measurements of ``count`` models by those of every so many-th."""
    if len(parts) == 1:
        return parts[0]

    def joined(tensors: list[Tensor]) -> Tensor:
        whole = tensors[0].new_empty(count, *tensors[0].shape[1:])
        for k, tensor in enumerate(tensors):
            whole[k :: len(parts)] = tensor
        return whole

    return [
        replace(
            same[0],
            values=joined([m.values for m in same]),
            defined=None if same[0].defined is None else joined([m.defined for m in same]),
            largest_at=None if same[0].largest_at is None else joined([m.largest_at for m in same]),
        )
        for same in zip(*parts, strict=True)
    ]

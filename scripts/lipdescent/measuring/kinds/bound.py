"""One bound, by its name, in the norms that are asked for and that it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from lipdescent.bounds import _taken
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring.as_read import as_read
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.networks.declared import said
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks.seeding import seed_of
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
    for m in _taken.take(
        bound,
        subject.name,
        stack,
        entry=options,
        inputs=subject.inputs,
        labels=partial(labels_of, subject),
        norms=norms,
        seed=seed,
    ):
        # What rests on a declaration is no certified bound: no bracket, no certificate has it.
        yield replace(m, direction="declared") if believed and m.direction == "upper" else m

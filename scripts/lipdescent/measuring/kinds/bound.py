"""One bound, by its name, in the norms that are asked for and that it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from lipdescent.bounds import _taken
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.networks.reading import Unreadable
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks.model_stack import ModelStack
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
    stack = _plain(subject.sound)
    # Calling the network is compared with what is read of it, whatever the bound reads.
    with contextlib.suppress(NotApplicable, TypeError):
        trace(stack)
    yield from _taken.take(
        bound,
        subject.name,
        stack,
        entry=options,
        inputs=subject.inputs,
        labels=partial(labels_of, subject),
        norms=norms,
        seed=seed,
    )


def _plain(stack: ModelStack) -> ModelStack:
    """The stack, as plain networks if its own are written in Python and can be exported.

    Imported here, so that a change there reruns no measurement of networks of layers alone:
    :func:`lipdescent.study.code_digest.measurement_files` names it for the others.
    """
    from lipdescent.structure.exported import plain_stack

    try:
        return plain_stack(stack)
    except Unreadable:
        return stack  # which has its lower bounds; upper ones say why there are none

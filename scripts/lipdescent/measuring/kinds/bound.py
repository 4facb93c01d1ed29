"""One bound, by its name, in the norms that are asked for and that it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds import _taken
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring.subject import Subject
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks.seeding import seed_of
from lipdescent.structure.trace import trace
from lipdescent.training.replicas import checkpoint_labels


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
    stack = subject.sound
    # Calling the network is compared with what is read of it, whatever the bound reads.
    with contextlib.suppress(NotApplicable, TypeError):
        trace(stack)
    yield from _taken.take(
        bound,
        subject.name,
        stack,
        entry=options,
        inputs=subject.inputs,
        labels=lambda: _labels(subject),
        norms=norms,
        seed=seed,
    )


def _labels(subject: Subject) -> dict[str, Tensor]:
    """What each model was trained on (num_models, num_train), and the test labels (num_test,)."""
    noisy = checkpoint_labels(subject.saved, subject.dataset)
    device = subject.stack.device
    return {
        "train": noisy[subject.finite.cpu()].to(device),
        "test": torch.from_numpy(subject.dataset.test_labels).to(device),
    }

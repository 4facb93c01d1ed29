"""One bound, by its name, in the norms that are asked for and that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lipdescent import names
from lipdescent.bounds import Measurement, NotApplicable
from lipdescent.measurements import Subject
from lipdescent.seeding import seed_of


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """The bound's measurements; its random draws depend on its name and the run."""
    bound = names.resolve("bounds", subject.name)
    options = dict(options)
    wanted = options.pop("norms", list(bound.NORMS))
    norms = [norm for norm in wanted if norm in bound.NORMS]
    if not norms:
        raise NotApplicable(f"norms {wanted}: this bound exists in {', '.join(bound.NORMS)}")
    seed = seed_of("bound", subject.name, *subject.saved.about["run"].values())
    yield from bound.measure(
        subject.sound, inputs=subject.inputs, norms=norms, seed=seed, **options
    )

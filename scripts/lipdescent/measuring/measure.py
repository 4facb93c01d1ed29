"""Measure every checkpoint of a stack: the metrics, or one bound by its name."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lipdescent.bounds._measured import described, no_bound, of_the_machine
from lipdescent.constrained import is_constrained
from lipdescent.datasets import Dataset
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring.subject import Subject
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import table
from lipdescent.storage.checkpoints import Checkpoints


@dataclass(frozen=True)
class Column:
    """One quantity of every checkpoint: a measurement with each model's status."""

    measurement: Measurement
    status: np.ndarray


def checkpoint_stack(saved: Checkpoints, dataset: Dataset) -> ModelStack:
    """All checkpoints as one stack, epochs outermost; constrained layers as ordinary ones."""
    about = saved.origin
    build = lookup.resolve("architectures", about.module).build
    with torch.random.fork_rng(devices=[]):  # building draws weights that are never read
        structure = build(
            about.run["width"],
            input_shape=dataset.input_shape,
            num_classes=dataset.num_classes,
            **about.build,
        )
    state = saved.flat_state()
    if is_constrained(structure):
        # Imported here, so that a change there reruns no measurement of other networks.
        from lipdescent.structure.materialise import materialise

        structure, state = materialise(structure, state)
    return ModelStack(structure, state, dataset.input_shape)


def measure(
    name: str,
    stack: ModelStack,
    saved: Checkpoints,
    dataset: Dataset,
    *,
    options: dict[str, Any],
    earlier: Sequence[str | Path] = (),
    start: ModelStack | None = None,
    others: Sequence[tuple[ModelStack, Checkpoints]] = (),
) -> list[Column]:
    """Columns of the metrics, the certificates or of the entry ``name`` of ``bounds``.

    ``earlier`` are the measurements that this one rests on: upper bounds, of certificates, or norms
    at the data, of an ascent from there; ``start`` are the replicas before the first step, for the
    metrics, where epoch 0 is not among the checkpoints.
    ``others`` are the study's other seeds, for kinds that need all.

    Models with a weight that is not finite are left out and get the status ``diverged``; a bound
    that does not exist for the network or the norm gets ``not_applicable``. What is not finite of
    a finite model is ``diverged`` if it is a loss or another metric, ``not_finite`` of a bound.
    A bound that raises gets ``error`` everywhere, one that is negative gets it there, and the log
    says why; a machine's faults (memory, disk) are raised, as are those of other kinds.
    """
    finite = stack.finite()
    if not bool(finite.any()):
        return [_nothing(name, options, "diverged", stack.num_models)]
    dtype = next(t.dtype for t in stack.state.values() if t.is_floating_point())
    inputs = {
        "train": torch.from_numpy(dataset.train_inputs).to(stack.device, dtype),
        "test": torch.from_numpy(dataset.test_inputs).to(stack.device, dtype),
    }
    subject = Subject(name, stack, finite, saved, dataset, inputs, earlier, start, others)
    kind = lookup.resolve("measurements", lookup.measurement_kind(name))
    try:
        found = list(kind.take(subject, options))
    except NotApplicable as reason:
        print(f"{name}: not applicable: {reason}")
        return [_nothing(name, options, "not_applicable", stack.num_models)]
    except Exception as error:
        if lookup.measurement_kind(name) != "bound" or of_the_machine(error):
            raise
        traceback.print_exc()
        place = described(error, bound_entries.bound_of(name, options))
        print(f"error: {name}: {place}")
        return [_nothing(name, options, "error", stack.num_models)]
    # A bound that is not finite says nothing of the training.
    otherwise = "not_finite" if lookup.measurement_kind(name) == "bound" else "diverged"
    return [_spread(name, measurement, finite.cpu(), otherwise=otherwise) for measurement in found]


def _spread(name: str, m: Measurement, finite: Tensor, *, otherwise: str) -> Column:
    """Values of the finite models back in their places; NaN and a status elsewhere.

    ``otherwise`` is the status of a finite model's value that is not finite.
    """
    values = torch.full((len(finite),), float("nan"), dtype=torch.float64)
    values[finite] = m.values.cpu()
    status = np.where(finite.numpy(), "ok", "diverged").astype(object)
    status[finite.numpy() & ~np.isfinite(values.numpy())] = otherwise
    wrong = torch.zeros_like(finite)
    wrong[finite] = no_bound(m).cpu()
    if bool(wrong.any()):
        print(
            f"error: {m.quantity} ({name}.py): {float(values[wrong][0])} as {m.direction} bound, "
            f"of {int(wrong.sum())} models; allowed are numbers >= 0"
        )
        status[wrong.numpy()], values[wrong] = "error", torch.nan
    if m.defined is not None:
        absent = torch.zeros_like(finite)
        absent[finite] = ~m.defined.cpu()
        status[absent.numpy()] = "not_applicable"
    if count := int((status == "not_finite").sum()):
        print(f"{m.quantity} ({m.norm}): not finite for {count} of {len(m.values)} finite models")
    spread = Measurement(m.quantity, m.direction, m.norm, values, m.split, None, m.largest_at)
    return Column(spread, status)


def _nothing(name: str, options: dict[str, Any], status: str, count: int) -> Column:
    quantity, direction = name, "metric"
    if lookup.measurement_kind(name) == "bound":
        bound = bound_entries.bound_of(name, options)
        direction = lookup.resolve("bounds", bound).DIRECTION
        quantity = bound_entries.called(bound, name, options)
    values = torch.full((count,), float("nan"), dtype=torch.float64)
    return Column(Measurement(quantity, direction, "", values), np.full(count, status))


def to_table(
    columns: list[Column], stack: ModelStack, saved: Checkpoints, *, study: str
) -> pa.Table:
    """Rows of the tidy table: one per quantity, epoch and replica.

    Beside them stands where the finite models' norms are largest, see ``Measurement.largest_at``.
    """
    run, num_epochs = saved.origin.run, len(saved.epoch)
    count = stack.num_models
    num_parameters = sum(p.numel() for p in stack.module.parameters())
    whole = table.concatenate(
        table.from_columns(
            count,
            point=run.get("point"),
            study=study,
            dataset=run["dataset"],
            architecture=run["architecture"],
            width=run["width"],
            num_parameters=num_parameters,
            label_noise=saved.label_noise.repeat(num_epochs).numpy(),
            seed=saved.seed.repeat(num_epochs).numpy(),
            epoch=saved.epoch.repeat_interleave(saved.num_replicas).numpy(),
            split=column.measurement.split,
            quantity=column.measurement.quantity,
            direction=column.measurement.direction,
            norm=column.measurement.norm,
            value=column.measurement.values.numpy(),
            status=column.status,
        )
        for column in columns
    )
    largest: dict[str, dict[str, list]] = {}
    for m in (column.measurement for column in columns):
        if m.largest_at is not None:
            largest.setdefault(m.norm, {})[m.split] = m.largest_at.tolist()
    return table.with_largest_at(whole, largest)

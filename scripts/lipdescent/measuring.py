"""Measure every checkpoint of a stack: the metrics, or one bound by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lipdescent import metrics, names, table
from lipdescent.bounds import Measurement, NotApplicable
from lipdescent.checkpoints import Checkpoints
from lipdescent.datasets import Dataset
from lipdescent.replicas import noisy_labels
from lipdescent.seeding import seed_of
from lipdescent.stacking import ModelStack
from lipdescent.training import TrainingOptions

METRICS = "metrics"


@dataclass(frozen=True)
class Column:
    """One quantity of every checkpoint: a measurement with each model's status."""

    measurement: Measurement
    status: np.ndarray


def checkpoint_stack(saved: Checkpoints, dataset: Dataset, *, module: str) -> ModelStack:
    """All checkpoints as one stack, epochs outermost."""
    run = saved.about["run"]
    build = names.resolve("architectures", module).build
    with torch.random.fork_rng(devices=[]):  # building draws weights that are never read
        structure = build(
            run["width"],
            input_shape=dataset.input_shape,
            num_classes=dataset.num_classes,
            **saved.about["build"],
        )
    return ModelStack(structure, saved.flat_state(), dataset.input_shape)


def measure(
    name: str,
    stack: ModelStack,
    saved: Checkpoints,
    dataset: Dataset,
    *,
    options: dict[str, Any],
    noise_maker: str,
) -> list[Column]:
    """Columns of the metrics or of the bound ``name``.

    Models with a weight that is not finite are left out and get the status ``diverged``; a bound
    that does not exist for the network or the norm gets ``not_applicable``.
    """
    finite = stack.finite()
    sound = stack[finite]
    inputs = {
        "train": torch.from_numpy(dataset.train_inputs).to(stack.device),
        "test": torch.from_numpy(dataset.test_inputs).to(stack.device),
    }
    if sound.num_models == 0:
        return [_nothing(name, "diverged", stack.num_models)]
    if name == METRICS:
        found = list(_metrics(sound, finite, saved, dataset, inputs, noise_maker))
    else:
        try:
            found = list(_bound(name, sound, inputs, saved, options))
        except NotApplicable as reason:
            print(f"{name}: not applicable: {reason}")
            return [_nothing(name, "not_applicable", stack.num_models)]
    return [_spread(measurement, finite.cpu()) for measurement in found]


def _bound(
    name: str, stack: ModelStack, inputs: dict[str, Tensor], saved: Checkpoints, options: dict
):
    bound = names.resolve("bounds", name)
    options = dict(options)
    wanted = options.pop("norms", list(bound.NORMS))
    norms = [norm for norm in wanted if norm in bound.NORMS]
    if not norms:
        raise NotApplicable(f"norms {wanted}: this bound exists in {', '.join(bound.NORMS)}")
    seed = seed_of("bound", name, *saved.about["run"].values())
    yield from bound.measure(stack, inputs=inputs, norms=norms, seed=seed, **options)


def _metrics(
    stack: ModelStack,
    finite: Tensor,
    saved: Checkpoints,
    dataset: Dataset,
    inputs: dict[str, Tensor],
    noise_maker: str,
):
    labels = noisy_labels(
        dataset,
        maker=noise_maker,
        label_noise=saved.label_noise.tolist(),
        seeds=saved.seed.tolist(),
    )
    num_epochs, kept = len(saved.epoch), finite.cpu()
    first = {name: t[:1].expand(num_epochs, *t.shape[1:]) for name, t in saved.state.items()}
    options = TrainingOptions(**saved.about["training"])
    yield from metrics.measure(
        stack,
        inputs=inputs,
        noisy_labels=labels.repeat(num_epochs, 1)[kept].to(stack.device),
        clean_labels={
            "train": torch.from_numpy(dataset.train_labels).to(stack.device),
            "test": torch.from_numpy(dataset.test_labels).to(stack.device),
        },
        initial={n: t.flatten(0, 1)[kept].to(stack.device) for n, t in first.items()},
        loss=options.make_loss(),
        num_classes=dataset.num_classes,
    )


def _spread(measurement: Measurement, finite: Tensor) -> Column:
    """Values of the finite models back in their places; NaN and a status elsewhere."""
    values = torch.full((len(finite),), float("nan"), dtype=torch.float64)
    values[finite] = measurement.values.double().cpu()
    status = np.where(finite.numpy(), "ok", "diverged")
    status[finite.numpy() & ~np.isfinite(values.numpy())] = "diverged"
    m = measurement
    return Column(Measurement(m.quantity, m.direction, m.norm, values, m.split), status)


def _nothing(name: str, status: str, count: int) -> Column:
    direction = "metric" if name == METRICS else names.resolve("bounds", name).DIRECTION
    values = torch.full((count,), float("nan"), dtype=torch.float64)
    return Column(Measurement(name, direction, "", values), np.full(count, status))


def to_table(
    columns: list[Column], stack: ModelStack, saved: Checkpoints, *, study: str
) -> pa.Table:
    """Rows of the tidy table: one per quantity, epoch and replica."""
    run, num_epochs = saved.about["run"], len(saved.epoch)
    count = stack.num_models
    num_parameters = sum(p.numel() for p in stack.module.parameters())
    return table.concatenate(
        table.from_columns(
            count,
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

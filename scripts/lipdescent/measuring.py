"""Measure every checkpoint of a stack: the metrics, or one bound by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lipdescent import certificates, metrics, names, table
from lipdescent.bounds import Measurement, NotApplicable
from lipdescent.checkpoints import Checkpoints
from lipdescent.constrained.plain import materialise
from lipdescent.datasets import Dataset
from lipdescent.replicas import noisy_labels
from lipdescent.seeding import seed_of
from lipdescent.stacking import ModelStack
from lipdescent.training_options import TrainingOptions

METRICS, CERTIFICATES = "metrics", "certificates"


@dataclass(frozen=True)
class Column:
    """One quantity of every checkpoint: a measurement with each model's status."""

    measurement: Measurement
    status: np.ndarray


def checkpoint_stack(saved: Checkpoints, dataset: Dataset, *, module: str) -> ModelStack:
    """All checkpoints as one stack, epochs outermost; constrained layers as ordinary ones."""
    run = saved.about["run"]
    build = names.resolve("architectures", module).build
    with torch.random.fork_rng(devices=[]):  # building draws weights that are never read
        structure = build(
            run["width"],
            input_shape=dataset.input_shape,
            num_classes=dataset.num_classes,
            **saved.about["build"],
        )
    return ModelStack(*materialise(structure, saved.flat_state()), dataset.input_shape)


def measure(
    name: str,
    stack: ModelStack,
    saved: Checkpoints,
    dataset: Dataset,
    *,
    options: dict[str, Any],
    noise_maker: str,
    uppers: Sequence[str | Path] = (),
) -> list[Column]:
    """Columns of the metrics, the certificates or of the bound ``name``.

    ``uppers`` are the measurements of the upper bounds that certificates rest on.

    Models with a weight that is not finite are left out and get the status ``diverged``; a bound
    that does not exist for the network or the norm gets ``not_applicable``.
    """
    finite = stack.finite()
    sound = stack[finite]
    dtype = next(t.dtype for t in stack.state.values() if t.is_floating_point())
    inputs = {
        "train": torch.from_numpy(dataset.train_inputs).to(stack.device, dtype),
        "test": torch.from_numpy(dataset.test_inputs).to(stack.device, dtype),
    }
    if sound.num_models == 0:
        return [_nothing(name, "diverged", stack.num_models)]
    if name == METRICS:
        found = list(_metrics(stack, finite, saved, dataset, inputs, noise_maker))
    else:
        try:
            if name == CERTIFICATES:
                smallest = smallest_upper(uppers, stack.num_models)
                upper = {n: values[finite.cpu()] for n, values in smallest.items()}
                labels = _labels(saved, dataset, noise_maker)[finite.cpu()]
                found = list(_certificates(sound, saved, dataset, inputs, labels, upper, options))
            else:
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


def _certificates(
    stack: ModelStack,
    saved: Checkpoints,
    dataset: Dataset,
    inputs: dict[str, Tensor],
    trained_on: Tensor,
    upper: dict[str, Tensor],
    options: dict[str, Any],
):
    options = {k: v for k, v in options.items() if k != "upper"}
    yield from certificates.measure(
        stack,
        inputs=inputs,
        labels={
            "test": torch.from_numpy(dataset.test_labels).to(stack.device),
            "train": trained_on.to(stack.device),
        },
        upper={norm: values.to(stack.device) for norm, values in upper.items()},
        seed=seed_of("attack", *saved.about["run"].values()),
        **options,
    )


def smallest_upper(paths: Sequence[str | Path], num_models: int) -> dict[str, Tensor]:
    """Smallest certified upper bound of every model: norm -> float64 (num_models,).

    A norm in which no bound is available is left out; models that have diverged get NaN.
    """
    best: dict[str, np.ndarray] = {}
    for path in paths:
        frame = table.read(path).to_pandas()
        frame = frame[frame["direction"] == "upper"]
        for (_, norm), rows in frame.groupby(["quantity", "norm"], observed=True):
            if len(rows) != num_models:
                raise ValueError(f"{path}: {len(rows)} rows, expected {num_models}")
            if (rows["status"] == "not_applicable").any():
                continue
            values = np.where(rows["status"] == "ok", rows["value"], np.nan)
            best[norm] = np.fmin(best.get(norm, values), values)
    return {norm: torch.from_numpy(values) for norm, values in best.items()}


def _metrics(
    stack: ModelStack,
    finite: Tensor,
    saved: Checkpoints,
    dataset: Dataset,
    inputs: dict[str, Tensor],
    noise_maker: str,
):
    first = {
        n: t[: saved.num_replicas].repeat(len(saved.epoch), *[1] * (t.dim() - 1))
        for n, t in stack.state.items()
    }
    options = TrainingOptions(**saved.about["training"])
    yield from metrics.measure(
        stack[finite],
        inputs=inputs,
        noisy_labels=_labels(saved, dataset, noise_maker)[finite.cpu()].to(stack.device),
        clean_labels={
            "train": torch.from_numpy(dataset.train_labels).to(stack.device),
            "test": torch.from_numpy(dataset.test_labels).to(stack.device),
        },
        initial={name: tensor[finite] for name, tensor in first.items()},
        loss=options.make_loss(),
        num_classes=dataset.num_classes,
    )


def _labels(saved: Checkpoints, dataset: Dataset, noise_maker: str) -> Tensor:
    """Labels that each checkpoint was trained on: int64 (num_models, num_train)."""
    labels = noisy_labels(
        dataset,
        maker=noise_maker,
        label_noise=saved.label_noise.tolist(),
        seeds=saved.seed.tolist(),
    )
    return labels.repeat(len(saved.epoch), 1)


def _spread(measurement: Measurement, finite: Tensor) -> Column:
    """Values of the finite models back in their places; NaN and a status elsewhere."""
    values = torch.full((len(finite),), float("nan"), dtype=torch.float64)
    values[finite] = measurement.values.double().cpu()
    status = np.where(finite.numpy(), "ok", "diverged")
    status[finite.numpy() & ~np.isfinite(values.numpy())] = "diverged"
    m = measurement
    return Column(Measurement(m.quantity, m.direction, m.norm, values, m.split), status)


def _nothing(name: str, status: str, count: int) -> Column:
    is_metric = name in (METRICS, CERTIFICATES)
    direction = "metric" if is_metric else names.resolve("bounds", name).DIRECTION
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

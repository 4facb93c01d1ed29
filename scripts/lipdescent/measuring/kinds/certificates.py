"""Certified and attacked accuracies, from the upper bounds that were measured before."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipdescent.measurement import Measurement
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.robustness import certificates
from lipdescent.stacks.seeding import seed_of
from lipdescent.storage import table


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Everything in certificates.py, on the test points and on those trained on, noise included."""
    sound = subject.sound
    smallest = smallest_upper(subject.earlier, subject.stack.num_models)
    kept = subject.finite.cpu()
    yield from certificates.measure(
        sound,
        inputs=subject.inputs,
        labels=labels_of(subject),
        upper={norm: values[kept].to(sound.device) for norm, values in smallest.items()},
        seed=seed_of("attack", *subject.saved.origin.run.values()),
        **{k: v for k, v in options.items() if k != "upper"},
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
            if not norm or (rows["status"] == "not_applicable").any():  # nor is one that failed
                continue
            values = np.where(rows["status"] == "ok", rows["value"], np.nan)
            best[norm] = np.fmin(best.get(norm, values), values)
    return {norm: torch.from_numpy(values) for norm, values in best.items()}

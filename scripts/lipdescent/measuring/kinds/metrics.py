"""Losses, accuracies and distances from the start of the training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lipdescent import metrics
from lipdescent.bounds import Measurement
from lipdescent.measurements import Subject
from lipdescent.replicas import checkpoint_labels
from lipdescent.training_options import TrainingOptions


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Everything in metrics.py, with each model's own noisy labels and initial weights."""
    del options
    saved, dataset, finite = subject.saved, subject.dataset, subject.finite
    labels = checkpoint_labels(saved, dataset, maker=subject.noise_maker)
    device = subject.stack.device
    first = {
        n: t.to(device).repeat(len(saved.epoch), *[1] * (t.dim() - 1))
        for n, t in _initial(subject).items()
    }
    yield from metrics.measure(
        subject.sound,
        inputs=subject.inputs,
        noisy_labels=labels[finite.cpu()].to(device),
        clean_labels={
            "train": torch.from_numpy(dataset.train_labels).to(device),
            "test": torch.from_numpy(dataset.test_labels).to(device),
        },
        initial={name: tensor[finite] for name, tensor in first.items()},
        loss=TrainingOptions(**saved.about["training"]).make_loss(),
        num_classes=dataset.num_classes,
    )


def _initial(subject: Subject) -> dict[str, Tensor]:
    """State before the first step: name -> (num_replicas, *shape)."""
    if subject.start is not None:
        return subject.start.state
    epochs, count = subject.saved.epoch.tolist(), subject.saved.num_replicas
    if 0 not in epochs:
        raise ValueError(f"epochs {epochs}: the metrics need the weights before the first step")
    first = epochs.index(0) * count
    return {name: tensor[first : first + count] for name, tensor in subject.stack.state.items()}

"""Losses, accuracies and distances from the start of the training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lipdescent import metrics
from lipdescent.bounds import Measurement
from lipdescent.measurements import Subject
from lipdescent.replicas import checkpoint_labels
from lipdescent.training_options import TrainingOptions


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Everything in metrics.py, with each model's own noisy labels and first checkpoint."""
    del options
    saved, dataset, finite = subject.saved, subject.dataset, subject.finite
    labels = checkpoint_labels(saved, dataset, maker=subject.noise_maker)
    device = subject.stack.device
    first = {
        n: t[: saved.num_replicas].repeat(len(saved.epoch), *[1] * (t.dim() - 1))
        for n, t in subject.stack.state.items()
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

"""Labels of the points that a stack is measured at."""

import torch
from torch import Tensor

from lipdescent.measuring.subject import Subject
from lipdescent.training.replicas import checkpoint_labels


def labels_of(subject: Subject) -> dict[str, Tensor]:
    """``test`` (num_test,), and ``train``: what each sound model was trained on, (models, n)."""
    device = subject.stack.device
    noisy = checkpoint_labels(subject.saved, subject.dataset)
    return {
        "test": torch.from_numpy(subject.dataset.test_labels).to(device),
        "train": noisy[subject.finite.cpu()].to(device),
    }

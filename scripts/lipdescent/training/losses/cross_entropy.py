"""-log softmax(logits)[label], in nats."""

import torch
from torch import Tensor

from lipdescent.training.losses import with_gradient


def _gradient(logits: Tensor, targets: Tensor) -> Tensor:
    # The fused passes hold logits as (classes, batch): along that axis softmax needs no copy.
    return torch.softmax(logits.mT, -2).mT.sub_(targets)


@with_gradient(_gradient)
def loss(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(logits)[label], in nats.

    With ``label_smoothing`` s, a label is 1 - s of its class and s of all classes alike, as in
    torch's CrossEntropyLoss (Szegedy et al. 2016, arXiv 1512.00567, sec. 7).

    Raises
    ------
    ValueError
        If s is not in [0, 1].
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing = {label_smoothing}: allowed are numbers from 0 to 1")
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / targets.shape[-1]
    return -(torch.log_softmax(logits, -1) * targets).sum(-1)

"""Training losses, one function each: (logits, targets, **options) -> loss of every sample.

``logits`` and one-hot ``targets`` have shape (..., num_classes), the result (...). A loss whose
gradient has a short closed form carries it as ``logit_gradient``: the fused training step uses it
and saves the overhead of autograd; every other loss is differentiated by autograd.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _gradient(function: Callable) -> Callable[[Callable], Callable]:
    def attach(loss: Callable) -> Callable:
        loss.logit_gradient = function
        return loss

    return attach


def _cross_entropy_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.softmax(logits, -1).sub_(targets)


@_gradient(_cross_entropy_gradient)
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[label], in nats."""
    return -(torch.log_softmax(logits, -1) * targets).sum(-1)


def _mean_squared_error_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits - targets).mul_(2 / logits.shape[-1])


@_gradient(_mean_squared_error_gradient)
def mean_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the classes of (logit - one-hot)^2, as torch's MSELoss on one-hot targets."""
    return (logits - targets).square().mean(-1)

"""Training losses, one function each: (logits, targets, **options) -> loss of every sample.

``logits`` and one-hot ``targets`` have shape (..., num_classes), the result (...). A loss whose
gradient has a short closed form carries it as ``logit_gradient``: the fused training step uses it
and saves the overhead of autograd; every other loss is differentiated by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def _gradient(function: Callable) -> Callable[[Callable], Callable]:
    def attach(loss: Callable) -> Callable:
        loss.logit_gradient = function
        return loss

    return attach


def _cross_entropy_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    # The fused passes hold logits as (classes, batch): along that axis softmax needs no copy.
    return torch.softmax(logits.mT, -2).mT.sub_(targets)


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


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value}: allowed are positive numbers")


def cross_entropy_temperature(logits: Tensor, targets: Tensor, *, tau: float) -> Tensor:
    """-log softmax(tau logits)[label], in nats (Béthune et al. 2022, arXiv 2104.05097, sec. 4).

    Not divided by tau: for K-Lipschitz logits it is the cross-entropy of tau K-Lipschitz ones.

    Raises
    ------
    ValueError
        If tau <= 0.
    """
    _positive(tau=tau)
    return cross_entropy(tau * logits, targets)


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, tau: float = 1.0) -> Tensor:
    """-log sigmoid(tau y f), in nats, with y = +-1 (Béthune et al. 2022, definition 2).

    ``logits`` (..., 1) and ``targets`` (..., 1) of +-1, or two classes: f = (f_1 - f_0) / sqrt 2
    and y = +1 for class 1. That f is 1-Lipschitz where the pair of logits is.

    Raises
    ------
    ValueError
        If tau <= 0, or there are more than two classes.
    """
    _positive(tau=tau)
    return nn.functional.softplus(-tau * _signed_score(logits, targets))


def binary_hinge(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """max(0, m - y f), for scores as in :func:`binary_cross_entropy`."""
    _positive(margin=margin)
    return (margin - _signed_score(logits, targets)).clamp_min(0)


def binary_kr(logits: Tensor, targets: Tensor) -> Tensor:
    """-y f: with balanced classes its mean is -(E_P f - E_Q f) / 2.

    Its minimum over 1-Lipschitz f is -W1(P, Q) / 2, by the duality of Kantorovich and Rubinstein;
    scores as in :func:`binary_cross_entropy`.
    """
    return -_signed_score(logits, targets)


def binary_hkr(logits: Tensor, targets: Tensor, *, alpha: float, margin: float = 1.0) -> Tensor:
    """-y f + alpha max(0, m - y f) (Serrurier et al. 2021; Béthune et al. 2022, sec. 4).

    Raises
    ------
    ValueError
        If alpha < 0 or the margin <= 0.
    """
    _not_negative(alpha=alpha)
    return binary_kr(logits, targets) + alpha * binary_hinge(logits, targets, margin=margin)


def hinge(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """max(0, m - (f_label - largest other logit)), for two classes or more.

    Raises
    ------
    ValueError
        If the margin <= 0 or there are fewer than two classes.
    """
    _positive(margin=margin)
    return (margin - _multiclass_margin(logits, targets)).clamp_min(0)


def kr(logits: Tensor, targets: Tensor) -> Tensor:
    """-(f_label - mean of the other logits): one class against the rest, averaged over classes.

    With balanced classes the mean over the data is minus the average over classes k of
    E[f_k | class k] - E[f_k | other classes] (Serrurier et al. 2021, multi-class form).
    """
    count = _several(logits)
    own = (logits * targets).sum(-1)
    return -(own - (logits.sum(-1) - own) / (count - 1))


def hkr(logits: Tensor, targets: Tensor, *, alpha: float, margin: float = 1.0) -> Tensor:
    """:func:`kr` + alpha :func:`hinge`.

    Raises
    ------
    ValueError
        If alpha < 0 or the margin <= 0.
    """
    _not_negative(alpha=alpha)
    return kr(logits, targets) + alpha * hinge(logits, targets, margin=margin)


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value}: allowed are numbers >= 0")


def _several(logits: Tensor) -> int:
    count = logits.shape[-1]
    if count < 2:
        raise ValueError(f"{count} logits: this loss is for two classes or more")
    return count


def _multiclass_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """f_label - largest other logit, (...)."""
    _several(logits)
    own = (logits * targets).sum(-1)
    return own - logits.masked_fill(targets > 0, -math.inf).amax(-1)


def _signed_score(logits: Tensor, targets: Tensor) -> Tensor:
    """y f, (...)."""
    count = logits.shape[-1]
    if count == 1:
        return (logits * targets).squeeze(-1)
    if count != 2:
        raise ValueError(f"{count} logits: a binary loss takes one, or two classes")
    return (logits * (2 * targets - 1)).sum(-1) / math.sqrt(2)

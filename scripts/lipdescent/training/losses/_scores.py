"""What a sample's logits say of its own class against the others."""

import math

from torch import Tensor


def several(logits: Tensor) -> int:
    """Number of classes; ValueError if there are fewer than two."""
    count = logits.shape[-1]
    if count < 2:
        raise ValueError(f"{count} logits: this loss is for two classes or more")
    return count


def multiclass_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """f_label - largest other logit, (...)."""
    several(logits)
    own = (logits * targets).sum(-1)
    return own - logits.masked_fill(targets > 0, -math.inf).amax(-1)


def signed_score(logits: Tensor, targets: Tensor) -> Tensor:
    """y f with y = +-1, (...).

    ``logits`` (..., 1) and ``targets`` (..., 1) of +-1, or two classes: f = (f_1 - f_0) / sqrt 2
    and y = +1 for class 1. That f is 1-Lipschitz where the pair of logits is.

    Raises
    ------
    ValueError
        If there are more than two classes.
    """
    count = logits.shape[-1]
    if count == 1:
        return (logits * targets).squeeze(-1)
    if count != 2:
        raise ValueError(f"{count} logits: a binary loss takes one, or two classes")
    return (logits * (2 * targets - 1)).sum(-1) / math.sqrt(2)

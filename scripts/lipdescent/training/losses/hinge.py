"""max(0, m - (f_label - largest other logit)), for two classes or more."""

from torch import Tensor

from lipdescent.training.losses import positive
from lipdescent.training.losses._scores import multiclass_margin


def loss(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """max(0, m - (f_label - largest other logit)).

    Raises
    ------
    ValueError
        If the margin <= 0 or there are fewer than two classes.
    """
    positive(margin=margin)
    return (margin - multiclass_margin(logits, targets)).clamp_min(0)

"""max(0, m - y f) of a score f and y = +-1."""

from torch import Tensor

from lipdescent.training.losses import positive
from lipdescent.training.losses._scores import signed_score


def loss(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """max(0, m - y f), for scores as in :func:`signed_score`.

    Raises
    ------
    ValueError
        If the margin <= 0, or there are more than two classes.
    """
    positive(margin=margin)
    return (margin - signed_score(logits, targets)).clamp_min(0)

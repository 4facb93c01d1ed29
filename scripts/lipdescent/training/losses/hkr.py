"""The multi-class KR loss and alpha times the hinge (Serrurier et al. 2021)."""

from torch import Tensor

from lipdescent.training.losses import hinge, kr, not_negative


def loss(logits: Tensor, targets: Tensor, *, alpha: float, margin: float = 1.0) -> Tensor:
    """kr + alpha hinge.

    Raises
    ------
    ValueError
        If alpha < 0 or the margin <= 0.
    """
    not_negative(alpha=alpha)
    return kr.loss(logits, targets) + alpha * hinge.loss(logits, targets, margin=margin)

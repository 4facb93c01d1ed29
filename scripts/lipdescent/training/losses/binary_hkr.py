"""-y f + alpha max(0, m - y f) (Serrurier et al. 2021; Béthune et al. 2022, sec. 4)."""

from torch import Tensor

from lipdescent.training.losses import binary_hinge, binary_kr, not_negative


def loss(logits: Tensor, targets: Tensor, *, alpha: float, margin: float = 1.0) -> Tensor:
    """-y f + alpha max(0, m - y f), for scores as in :func:`signed_score`.

    Raises
    ------
    ValueError
        If alpha < 0 or the margin <= 0.
    """
    not_negative(alpha=alpha)
    kr = binary_kr.loss(logits, targets)
    return kr + alpha * binary_hinge.loss(logits, targets, margin=margin)

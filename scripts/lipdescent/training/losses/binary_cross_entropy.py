"""-log sigmoid(tau y f) of a score f and y = +-1 (Béthune et al. 2022, definition 2)."""

from torch import Tensor, nn

from lipdescent.training.losses import positive
from lipdescent.training.losses._scores import signed_score


def loss(logits: Tensor, targets: Tensor, *, tau: float = 1.0) -> Tensor:
    """-log sigmoid(tau y f), in nats, for scores as in :func:`signed_score`.

    Raises
    ------
    ValueError
        If tau <= 0, or there are more than two classes.
    """
    positive(tau=tau)
    return nn.functional.softplus(-tau * signed_score(logits, targets))

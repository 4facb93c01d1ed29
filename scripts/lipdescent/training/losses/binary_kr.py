"""-y f of a score f and y = +-1, whose minimum is minus half a Wasserstein distance."""

from torch import Tensor

from lipdescent.training.losses._scores import signed_score


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """-y f: with balanced classes its mean is -(E_P f - E_Q f) / 2.

    Its minimum over 1-Lipschitz f is -W1(P, Q) / 2, by the duality of Kantorovich and Rubinstein;
    scores as in :func:`signed_score`.
    """
    return -signed_score(logits, targets)

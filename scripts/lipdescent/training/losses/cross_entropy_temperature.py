"""Cross-entropy of tau times the logits (Béthune et al. 2022, arXiv 2104.05097, sec. 4)."""

from torch import Tensor

from lipdescent.training.losses import cross_entropy, positive


def loss(logits: Tensor, targets: Tensor, *, tau: float) -> Tensor:
    """-log softmax(tau logits)[label], in nats.

    Not divided by tau: for K-Lipschitz logits it is the cross-entropy of tau K-Lipschitz ones.

    Raises
    ------
    ValueError
        If tau <= 0.
    """
    positive(tau=tau)
    return cross_entropy.loss(tau * logits, targets)

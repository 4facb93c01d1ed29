"""Sum over the classes of (logit - one-hot)^2, the squared error of Khromov & Singh (2024).

Their code takes torch's MSELoss with reduction "sum" and divides by the batch size: the number of
classes times :mod:`mean_squared_error`, and so is its gradient.
"""

from torch import Tensor

from lipdescent.training.losses import with_gradient


def _gradient(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits - targets).mul_(2)


@with_gradient(_gradient)
def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the classes of (logit - one-hot)^2."""
    return (logits - targets).square().sum(-1)

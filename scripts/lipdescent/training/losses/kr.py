"""-(f_label - mean of the other logits) (Serrurier et al. 2021, multi-class form)."""

from torch import Tensor

from lipdescent.training.losses._scores import several


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """-(f_label - mean of the other logits): one class against the rest, averaged over classes.

    With balanced classes the mean over the data is minus the average over classes k of
    E[f_k | class k] - E[f_k | other classes].
    """
    count = several(logits)
    own = (logits * targets).sum(-1)
    return -(own - (logits.sum(-1) - own) / (count - 1))

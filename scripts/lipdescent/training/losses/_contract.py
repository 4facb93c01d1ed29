"""What a loss's file offers. tests/training/losses/test_contract.py asks it of every one."""

from typing import Protocol

from torch import Tensor


class LossPlugin(Protocol):
    """A module ``training/losses/NAME.py``.

    ``loss`` may carry the closed form of its gradient, see
    :func:`lipdescent.training.losses.with_gradient`. More keyword parameters are options of the
    configuration's ``loss_options``; those without a default have to be given there.
    """

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of every sample, (...,), for logits and one-hot targets (..., num_classes).

        In the logits' precision and on their device; sample by sample, so that leading dimensions
        are models and batch; differentiable in the logits almost everywhere.

        Raises
        ------
        ValueError
            For an option that is out of range, or a number of classes it is not made for.
        """
        ...

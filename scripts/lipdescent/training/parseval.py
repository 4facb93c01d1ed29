"""Linear layers that are drawn towards orthonormal ones by one step after every update.

Cissé et al. (2017, arXiv 1704.08847, section 4.1): W <- (1 + beta) W - beta W W^T W, a step down
the regulariser |W^T W - I|^2 of Parseval networks. It promises nothing: singular values approach 1,
from either side, as fast as beta and the updates let them.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipdescent.networks.expressions import place
from lipdescent.stacks.model_stack import ModelStack


class ParsevalStep:
    """The weights of a network's linear layers, and the length of the step."""

    def __init__(self, names: list[str], beta: float) -> None:
        self._names, self._beta = names, beta

    @classmethod
    def of(cls, stack: ModelStack, beta: float) -> Self:
        """For the networks of ``stack``.

        Raises
        ------
        TypeError
            For a layer with weights that is not linear, or whose weights are constrained already,
            naming it.
        """
        found = []
        for path, layer in stack.module.named_modules():
            if type(layer) is nn.Linear:
                found.append(f"{path}.weight" if path else "weight")
            elif layer._parameters or parametrize.is_parametrized(layer):
                raise TypeError(
                    f"{place(layer, path)}: training.parseval is for networks of Linear layers "
                    "that are not constrained, and layers without weights"
                )
        return cls(found, beta)

    @torch.no_grad()
    def apply_(self, live_weight: Callable[[str], Tensor], *, going: Tensor) -> None:
        """Step in place.

        Parameters
        ----------
        live_weight : from a weight's name to (models, *shape), a view of what is trained.
        going : bool (models,); others stay as they are.
        """
        for name in self._names:
            weight = live_weight(name)
            tall = weight if weight.shape[1] >= weight.shape[2] else weight.mT
            step = torch.where(going.view(-1, 1, 1), tall - tall @ (tall.mT @ tall), 0.0)
            tall.add_(step, alpha=self._beta)

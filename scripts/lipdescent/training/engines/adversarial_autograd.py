"""Training on attacked points: projected gradient descent against the batch of every step.

Madry et al. (2018, arXiv 1706.06083). Each model's batch is moved within a ball of its own points,
down the margin of the labels trained on, and the loss is that of where the points end. The attack
is made in eval mode and begins at the points themselves: an engine draws no random numbers. What
``losses`` gives is of the points as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.robustness import attacks
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.engines.engine import EngineOptions
from lipdescent.training.engines.stacked_autograd import StackedAutograd


class AdversarialAutograd(StackedAutograd):
    """:class:`StackedAutograd` with ``{norm: l2 or linf, radius, steps}``.

    Raises
    ------
    ValueError
        For another norm, a radius or a number of steps that is not positive.
    """

    def __init__(
        self,
        module: nn.Module,
        state: dict[str, Tensor],
        loss: Callable,
        *,
        wanted: Mapping[str, Any],
        input_shape: tuple[int, ...],
        **settings: Any,
    ) -> None:
        self._norm, self._radius = wanted["norm"], wanted["radius"]
        self._steps = wanted.get("steps", 5)
        if self._norm not in attacks.NORMS:
            allowed = ", ".join(attacks.NORMS)
            raise ValueError(f"adversary.norm = {self._norm!r}: allowed are {allowed}")
        if not 0 < self._radius < float("inf"):
            raise ValueError(f"adversary.radius = {self._radius}: allowed are positive numbers")
        if self._steps < 1:
            raise ValueError(f"adversary.steps = {self._steps}: allowed are integers >= 1")
        self._attacked, self._input_shape = module, input_shape
        super().__init__(module, state, loss, **settings)

    @classmethod
    def _further(cls, stack: ModelStack, options: EngineOptions) -> dict[str, Any]:
        return {"wanted": options.adversary or {}, "input_shape": stack.input_shape}

    def accumulate(
        self,
        buffers: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        decay: float,
        keys: Tensor | None = None,
    ) -> None:
        moved = inputs + attacks.descend(
            ModelStack(self._attacked, self._state, self._input_shape),
            inputs,
            targets.argmax(-1),
            torch.zeros_like(inputs),
            self._radius,
            self._norm,
            self._steps,
        )
        super().accumulate(buffers, moved, targets, decay=decay, keys=keys)

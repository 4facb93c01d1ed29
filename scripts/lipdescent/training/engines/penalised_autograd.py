"""Training with a penalty on the Jacobian's spectral norm at the points of each batch.

The loss of a batch is the mean loss of its samples plus lambda times the largest spectral norm of
the Jacobian over the batch (lambda C_lower of the batch, Khromov & Singh 2024, arXiv 2302.10886),
or times the mean of its square. The Jacobian is taken by a backward pass per output, of which the
weights' gradient is a backward pass more.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from lipdescent.constrained import is_constrained
from lipdescent.networks.expressions import place
from lipdescent.networks.known_classes import DROPOUT
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.engines.engine import EngineOptions
from lipdescent.training.engines.stacked_autograd import StackedAutograd

KINDS = ("largest_jacobian", "mean_squared_jacobian")


def penalty(outputs: Tensor, inputs: Tensor, kind: str) -> Tensor:
    """Largest, or mean square, of the Jacobians' spectral norms over each model's batch.

    Parameters
    ----------
    outputs : (models, batch, n_out), computed from ``inputs`` under autograd.
    inputs : (models, batch, *input_shape), a leaf; samples influence only their own outputs.
    kind : one of :data:`KINDS`.

    Returns
    -------
    (models,), differentiable in the weights. Where the largest singular value is a multiple one, or
    two points have the largest norm, the gradient is one of the subgradients.
    """
    rows = [
        torch.autograd.grad(one.sum(), inputs, create_graph=True)[0].flatten(2)
        for one in outputs.unbind(-1)
    ]
    jacobians = torch.stack(rows, 2)
    wide = jacobians.shape[3] >= jacobians.shape[2]
    gram = jacobians @ jacobians.mT if wide else jacobians.mT @ jacobians
    squares = torch.linalg.eigvalsh(gram)[..., -1]
    if kind == "mean_squared_jacobian":
        return squares.mean(1)
    # The root has no derivative at 0.
    return squares.amax(1).clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


class PenalisedAutograd(StackedAutograd):
    """:class:`StackedAutograd` with ``{kind: one of KINDS, coefficient: lambda}``.

    Raises
    ------
    TypeError
        For networks whose Jacobian at a point is not that of the pass that is trained (batch
        normalisation, dropout), or whose constraints have no second derivative.
    ValueError
        For another kind, or a coefficient that is no number >= 0.
    """

    def __init__(
        self,
        module: nn.Module,
        state: dict[str, Tensor],
        loss: Callable,
        *,
        wanted: Mapping[str, Any],
        **settings: Any,
    ) -> None:
        self._kind, self._coefficient = wanted["kind"], wanted["coefficient"]
        if self._kind not in KINDS:
            raise ValueError(f"penalty.kind = {self._kind!r}: allowed are {', '.join(KINDS)}")
        if not 0 <= self._coefficient < float("inf"):
            allowed = "allowed are finite numbers >= 0"
            raise ValueError(f"penalty.coefficient = {self._coefficient!r}: {allowed}")
        refuse(module)
        self._called = module
        super().__init__(module, state, loss, **settings)

    @classmethod
    def _further(cls, stack: ModelStack, options: EngineOptions) -> dict[str, Any]:
        return {"wanted": options.penalty or {}}

    def _mean_losses(
        self, leaves: dict[str, Tensor], inputs: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del keys  # a network with dropout is refused
        inputs = inputs.detach().clone().requires_grad_()
        with self._precision(inputs.device):
            # Not the stacked pass: its own convolutions and pools have a first derivative only.
            outputs = vmap(self._outputs)(leaves, inputs)
        outputs = outputs.to(targets.dtype)
        added = self._coefficient * penalty(outputs, inputs, self._kind)
        return self._loss(outputs, targets).mean(1) + added, {}

    def _outputs(self, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self._called, state, (inputs,))


def refuse(module: nn.Module) -> None:
    """Raise TypeError for a network that cannot be trained with a penalty, naming the layer."""
    for path, part in module.named_modules():
        if isinstance(part, _BatchNorm):
            raise TypeError(
                f"{place(part, path)}: a penalty on Jacobians needs samples that do not influence "
                "each other; allowed are networks without batch normalisation"
            )
        if isinstance(part, DROPOUT) and part.p > 0:
            raise TypeError(
                f"{place(part, path)}: a penalty on Jacobians is for networks without dropout"
            )
    if is_constrained(module):
        raise TypeError(
            "a penalty on Jacobians is for ordinary weights; this network's constant is bounded by "
            "its constraints"
        )

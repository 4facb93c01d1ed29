"""Networks whose Lipschitz constant is constrained while they train.

A constraint is a parametrisation of a weight (``torch.nn.utils.parametrize``): the optimiser sees
the raw weight, the layer uses the constrained one, under ``functional_call`` and ``vmap`` too.
:func:`lipdescent.structure.materialise.materialise` turns a stack of such networks into ordinary
layers whose norms are certified.
"""

import math
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils import parametrize


class Constraint(nn.Module):
    """Promises an operator norm of at most ``constant`` in ``norm``."""

    def __init__(self, norm: str, constant: float) -> None:
        super().__init__()
        if not (constant > 0 and math.isfinite(constant)):
            raise ValueError(f"constant = {constant}: allowed are positive numbers")
        self.norm, self.constant = norm, float(constant)


@runtime_checkable
class Retraction(Protocol):
    """What trains on its matrices alone, see :mod:`lipdescent.constrained.retraction`."""

    def retract_(self, weight: Tensor) -> Tensor:
        """Put weights (models, m, n) back onto the matrices, in place."""

    def tangent_(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Project the gradient with respect to them onto the tangent space, in place."""


def is_constrained(module: nn.Module) -> bool:
    """Whether :func:`lipdescent.structure.materialise.materialise` would change anything."""
    return any(
        hasattr(type(m), "PLAIN") or parametrize.is_parametrized(m) for m in module.modules()
    )


def retractions(module: nn.Module) -> dict[str, Retraction]:
    """Raw weights of linear layers that can be put back onto the matrices of their constraint."""
    found: dict[str, Retraction] = {}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer):
            steps = cast(nn.ModuleDict, layer.parametrizations)
            if set(steps) == {"weight"}:
                step, *more = cast(nn.ModuleList, steps["weight"])
                if not more and isinstance(step, Retraction):
                    name = f"{path}{'.' if path else ''}parametrizations.weight.original"
                    found[name] = step
    return found

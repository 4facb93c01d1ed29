"""Networks whose Lipschitz constant is constrained while they train.

A constraint is a parametrisation of a weight (``torch.nn.utils.parametrize``): the optimiser sees
the raw weight, the layer uses the constrained one, under ``functional_call`` and ``vmap`` too.
:func:`lipdescent.structure.materialise.materialise` turns a stack of such networks into ordinary
layers whose norms are certified.
"""

import math
from typing import Any, cast

from torch import nn
from torch.nn.utils import parametrize


class Constraint(nn.Module):
    """Promises an operator norm of at most ``constant`` in ``norm``.

    One that has ``retract_`` and ``tangent_`` can be trained on its matrices, see
    :mod:`lipdescent.constrained.retraction`.
    """

    def __init__(self, norm: str, constant: float) -> None:
        super().__init__()
        if not (constant > 0 and math.isfinite(constant)):
            raise ValueError(f"constant = {constant}: allowed are positive numbers")
        self.norm, self.constant = norm, float(constant)


def is_constrained(module: nn.Module) -> bool:
    """Whether :func:`lipdescent.structure.materialise.materialise` would change anything."""
    return any(
        hasattr(type(m), "PLAIN") or parametrize.is_parametrized(m) for m in module.modules()
    )


def retractions(module: nn.Module) -> dict[str, Constraint]:
    """Raw weights of linear layers that can be put back onto the matrices of their constraint."""
    found: dict[str, Any] = {}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer):
            steps = cast(nn.ModuleDict, layer.parametrizations)
            if set(steps) == {"weight"}:
                step, *more = cast(nn.ModuleList, steps["weight"])
                if not more and hasattr(step, "retract_"):
                    name = f"{path}{'.' if path else ''}parametrizations.weight.original"
                    found[name] = step
    return found

"""Networks whose Lipschitz constant is constrained while they train.

A constraint is a parametrisation of a weight (``torch.nn.utils.parametrize``): the optimiser sees
the raw weight, the layer uses the constrained one, under ``functional_call`` and ``vmap`` too.
:func:`lipdescent.constrained.plain.materialise` turns a stack of such networks into ordinary
layers whose norms are certified.
"""

import math

from torch import nn
from torch.nn.utils import parametrize


class Constraint(nn.Module):
    """Promises an operator norm of at most ``constant`` in ``norm``."""

    def __init__(self, norm: str, constant: float) -> None:
        super().__init__()
        if not (constant > 0 and math.isfinite(constant)):
            raise ValueError(f"constant = {constant}: allowed are positive numbers")
        self.norm, self.constant = norm, float(constant)


def is_constrained(module: nn.Module) -> bool:
    """Whether :func:`lipdescent.constrained.plain.materialise` would change anything."""
    return any(
        hasattr(type(m), "PLAIN") or parametrize.is_parametrized(m) for m in module.modules()
    )

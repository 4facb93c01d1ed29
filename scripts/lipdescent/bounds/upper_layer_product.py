"""Product of the layers' Lipschitz constants (Szegedy et al. 2014, arXiv 1312.6199, sec. 4.3).

The "naive" bound, AutoLip of Virmaux & Scaman (2018, arXiv 1805.10965): constants of consecutive
layers multiply, those of the branches of a residual block add. Batch normalisation right behind a
linear layer or a convolution is multiplied into its weights first, and linear layers that follow
each other are one map where that pays (:mod:`lipdescent.structure.linear_runs`). Certified: every
constant covers its rounding, see :mod:`lipdescent.layers`. Cost: one Gram matrix and its
eigenvalues per layer; convolutions one per frequency.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from lipdescent.measurement import Measurement, refuse_other_norms
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.composition import bound
from lipdescent.structure.trace import trace

DIRECTION = "upper"
NORMS = ("l1", "l2", "linf")


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
) -> Iterator[Measurement]:
    """Yield ``upper_layer_product`` for each norm; ``inputs`` and ``seed`` are not used.

    Raises
    ------
    NotApplicable
        For an unknown norm, attention, or a layer without a global constant.
    TypeError, ValueError
        As :func:`lipdescent.structure.trace.trace`.
    """
    refuse_other_norms(norms, NORMS)
    structure = trace(stack)
    for norm in norms:
        value = bound(structure, stack, norm=norm)
        yield Measurement("upper_layer_product", DIRECTION, norm, value)


def layer_product(stack: ModelStack, *, norm: str = "l2") -> Tensor:
    """The bound itself: float64 (num_models,)."""
    return next(measure(stack, norms=[norm])).values

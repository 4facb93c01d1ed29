"""The table of layer types. To add one: write its function, put it under its class in ``TABLE``.

A layer's function has the signature::

    def my_layer(module, state, *, input_shape, output_shape, norm) -> Tensor | float

``state`` maps the names of the layer's own parameters and buffers to tensors with a leading axis
of models; shapes are without the batch axis; ``norm`` is "l1", "l2" or "linf", on input and
output. It returns an upper bound on the Lipschitz constant, rounding included: float64 (models,),
or a number if it has no weights. It raises ``NotApplicable`` where there is none.
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from lipdescent.layers import activation, convolution, linear, normalisation, operations, pooling
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import declaration_of
from lipdescent.shapes import Float64

NORMS = ("l1", "l2", "linf")

TABLE: dict[type[nn.Module], Callable[..., Tensor | float]] = {
    **linear.TABLE,
    **convolution.TABLE,
    **normalisation.TABLE,
    **activation.TABLE,
    **pooling.TABLE,
    **operations.TABLE,
}


def constant(
    module: nn.Module,
    state: dict[str, Tensor],
    *,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    norm: str,
) -> Float64[Tensor, " models"] | float:
    """Certified upper bound on one layer's Lipschitz constant.

    Parameters
    ----------
    module : the layer; its own weights are not read.
    state : name -> (models, *shape), the layer's parameters and buffers.
    input_shape, output_shape : without the batch axis.
    norm : "l1", "l2" or "linf", on input and output.

    Returns
    -------
    float64 (models,), or a number if the layer has no weights.

    Raises
    ------
    TypeError
        For a class that is not in the table. A subclass is another class.
    ValueError
        For an unknown norm, or train mode.
    NotApplicable
        If there is no global constant.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: allowed are {', '.join(NORMS)}")
    if module.training:
        raise ValueError(f"{type(module).__name__} is in train mode; call eval() first")
    if (declared := declaration_of(module)) is not None:
        found = declared.constants(module)
        if norm not in found:
            raise NotApplicable(f"no constant is declared in {norm}, only in {', '.join(found)}")
        return found[norm]
    if declares_constant(module):
        return float(cast(Any, module).lipschitz_constant(norm))
    if type(module) not in TABLE:
        raise TypeError(f"{type(module).__name__}: unknown layer type")
    function = TABLE[type(module)]
    return function(module, state, input_shape=input_shape, output_shape=output_shape, norm=norm)


def is_known(module: nn.Module) -> bool:
    """Whether there is a constant of ``module``: its class's, its own or a declared one."""
    kind = type(module)
    return kind in TABLE or declares_constant(module) or declaration_of(module) is not None


def declares_constant(module: nn.Module) -> bool:
    """Whether ``module`` is a weightless layer of this library with a ``lipschitz_constant``."""
    ours = type(module).__module__.startswith("lipdescent.")
    weightless = next(module.parameters(), None) is None
    return ours and weightless and hasattr(module, "lipschitz_constant")

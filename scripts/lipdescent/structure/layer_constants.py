"""Constants of layers as they stand in a network, a batch normalisation multiplied in."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.layers import normalisation
from lipdescent.layers.table import constant
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack

# A folded weight carries the four roundings of its scale and one of the product.
FOLDING_ERROR = 8 * ulps.UNIT_ROUNDOFF


def layer_bound(layer: Layer, stack: ModelStack, *, norm: str) -> Float64[Tensor, " models"]:
    """:func:`layer_constant`, (num_models,); ValueError where it overflows float64."""
    value = layer_constant(layer, stack, norm=norm)
    if not bool(value.isfinite().all()):
        raise ValueError(f"{layer.place}: its {norm} constant overflows float64")
    return value


def layer_constant(layer: Layer, stack: ModelStack, *, norm: str) -> Float64[Tensor, " models"]:
    """Constant of one layer, with the batch normalisation that is its ``scale``: (num_models,).

    Kept as long as the stack and as its tensors are unchanged: several bounds start from it.
    """
    key = (layer.path, layer.module, layer.input_shape, layer.scale and layer.scale.path, norm)
    return stack.kept(key, tensors_of([layer], stack), lambda: _layer_constant(layer, stack, norm))


def tensors_of(layers: Sequence[Layer], stack: ModelStack) -> dict[str, Tensor]:
    """All that the constants of ``layers`` are taken of."""
    parts = [part for layer in layers for part in (layer, layer.scale) if part is not None]
    return {part.named(name): t for part in parts for name, t in part.state(stack.state).items()}


def _layer_constant(layer: Layer, stack: ModelStack, norm: str) -> Tensor:
    shapes = {"input_shape": layer.input_shape, "output_shape": layer.output_shape}
    try:
        state = folded_state(layer, stack.state)
        if layer.scale is not None and not bool(state["weight"].isfinite().all()):
            raise ValueError(f"times the slopes of {layer.scale.path} its weights overflow float64")
        value = constant(layer.module, state, norm=norm, **shapes)
        if layer.scale is not None:
            value = ulps.round_up(value + folding_error(layer, state, norm, stack.state), 2)
    except (NotApplicable, ValueError) as error:
        raise type(error)(f"{layer.place}: {error}") from error
    value = torch.as_tensor(value, dtype=torch.float64, device=stack.device)
    return value.expand(stack.num_models)


def folded_state(layer: Layer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A layer's tensors; its weight in float64, times its batch normalisation's slopes if any."""
    own = layer.state(state)
    if layer.scale is None:
        return own
    module: Any = layer.module
    norm: Any = layer.scale.module
    slopes = normalisation.batch_scale(norm, layer.scale.state(state))
    weight = own["weight"].to(torch.float64)
    if getattr(module, "transposed", False):  # (models, in, out / groups, ...)
        groups = module.groups
        split = weight.reshape(len(weight), groups, -1, *weight.shape[2:])
        split = split * slopes.reshape(len(slopes), groups, 1, -1, *[1] * (split.ndim - 4))
        return {**own, "weight": split.reshape(weight.shape)}
    slopes = slopes.reshape(*slopes.shape, *[1] * (weight.ndim - 2))
    return {**own, "weight": weight * slopes}


def folding_error(
    layer: Layer, state: dict[str, Tensor], norm: str, stack_state: dict[str, Tensor]
) -> Float64[Tensor, " models"]:
    """What the roundings in a folded weight can add: FOLDING_ERROR times the norm of |W|.

    And what underflows. An entry of the weights stands at most once in a row of the operator and
    once per output in a column (the other way round if transposed).
    """
    repeats = max(math.prod(layer.input_shape), math.prod(layer.output_shape))
    lost = repeats * folding_loss(layer, stack_state)
    shapes = {"input_shape": layer.input_shape, "output_shape": layer.output_shape}
    # Not of W: where two taps read the same element they cancel, their errors do not.
    plus = {**state, "weight": state["weight"].abs()}
    sums = [
        torch.as_tensor(constant(layer.module, plus, norm=n, **shapes))
        for n in (("l1", "linf") if norm == "l2" else (norm,))
    ]
    size = sums[0].sqrt() * sums[-1].sqrt() * (1 + 8 * FOLDING_ERROR)
    return FOLDING_ERROR * size + lost


def folding_loss(layer: Layer, stack_state: dict[str, Tensor]) -> Float64[Tensor, " models"]:
    """The sum of what underflows in the entries of a folded weight: float64 (models,).

    A slope by 2^-1074 times the weights it multiplies, a product by that.
    """
    plain = layer.state(stack_state)["weight"].to(torch.float64)
    return 2 * ulps.TINY * (plain.abs().flatten(1).sum(1) + plain[0].numel())

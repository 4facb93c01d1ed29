"""Constants of chains, sums and concatenations of layers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic import certified_norms, ulps
from lipdescent.layers import normalisation
from lipdescent.layers.table import constant
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack

# Bound of several parts at once, or None where there is none better than their own:
# (parts of a chain, norm) -> float64 (models,), or of a sum.
Shortcut = Callable[[tuple[Node, ...] | Sum], Tensor | None]
# A folded weight carries the four roundings of its scale and one of the product.
FOLDING_ERROR = 8 * ulps.UNIT_ROUNDOFF


def bound(
    node: Node, stack: ModelStack, *, norm: str, shortcut: Shortcut | None = None
) -> Float64[Tensor, " models"]:
    """Upper bound on the Lipschitz constant of ``node`` for every model: float64 (num_models,).

    Chain: product. Sum: sum. Concatenation: l2 the root of the sum of squares, l1 the sum, l_inf
    the maximum. With a ``shortcut``, the best way to cut each chain into single parts and runs
    of three parts, and the smaller of a sum's two bounds.

    Raises
    ------
    NotApplicable, ValueError
        From a layer, with its path.
    """
    if isinstance(node, Layer):
        return layer_bound(node, stack, norm=norm)
    other = shortcut(node) if shortcut is not None and isinstance(node, Sum) else None
    # A sum's own bound is at most its parts' (at equal multipliers): theirs are not needed.
    inner = shortcut if other is None else None
    values = [bound(part, stack, norm=norm, shortcut=inner) for part in node.parts]
    if isinstance(node, Chain):
        return _product(node.parts, values, stack, shortcut)
    if isinstance(node, Concat):
        if norm == "linf":
            return torch.stack(values).amax(0)
        if norm == "l2":
            return certified_norms.length_up(torch.stack(values, -1))
    total = ulps.round_up(torch.stack(values).sum(0), len(values))
    return total if other is None else torch.minimum(total, other)


def _product(
    parts: tuple[Node, ...], values: list[Tensor], stack: ModelStack, shortcut: Shortcut | None
) -> Tensor:
    best = [torch.ones(stack.num_models, dtype=torch.float64, device=stack.device)]
    for i, value in enumerate(values):
        candidate = times(best[i], value)
        if shortcut is not None and i >= 2:
            run = shortcut(parts[i - 2 : i + 1])
            if run is not None:
                candidate = torch.minimum(candidate, times(best[i - 2], run))
        best.append(candidate)
    return best[-1]


def times(
    a: Float64[Tensor, "*models"], b: Float64[Tensor, "*models"]
) -> Float64[Tensor, "*models"]:
    """Product rounded up, exact for a factor of 1 or 0."""
    product = torch.where((a == 1) | (b == 1), a * b, ulps.round_up(a * b))
    return torch.where((a == 0) | (b == 0), 0.0, product)  # whatever overflows beside it


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
    own = [*layer.state(stack.state).values()]
    if layer.scale is not None:
        own += layer.scale.state(stack.state).values()
    if any(t.is_inference() for t in own):  # these do not tell whether they change
        return _layer_constant(layer, stack, norm)
    versions = [t._version for t in own]
    key = (layer.path, layer.module, layer.input_shape, layer.scale and layer.scale.path, norm)
    if key in stack.known:
        tensors, then, value = stack.known[key]
        if versions == then and all(map(operator.is_, tensors, own)):
            return value
    value = _layer_constant(layer, stack, norm)
    stack.known[key] = own, versions, value
    return value


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

"""A linear layer and what multiplies its inputs and outputs by numbers, as one map.

Of ``x + h f(x)``, ``x - 2 W' (t * relu(W x))`` and the like: the factors go into the matrices of
the pair that is bounded. A product of a weight and factors is off by one rounding each.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from lipdescent.arithmetic import ulps
from lipdescent.bounds.lipsdp.symbols import LinearMap
from lipdescent.layers._operators import Axis
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum, steps
from lipdescent.networks.operations import Divide, Scale
from lipdescent.stacks.model_stack import ModelStack

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MOST = 1024  # numbers that are scaled without a layer: a diagonal matrix


def grouped(node: Node) -> Node:
    """The same expression, in which what is one map here is a chain of its own."""
    if isinstance(node, (Sum, Concat)):
        return replace(node, parts=tuple(grouped(part) for part in node.parts))
    if isinstance(node, Layer):
        return node
    groups: list[list[Node]] = []
    for part in map(grouped, node.parts):
        joins = bool(groups) and _is_part(groups[-1][0]) and _is_part(part)
        if joins and sum(map(_is_linear, [*groups[-1], part])) <= 1:
            groups[-1].append(part)
        else:
            groups.append([part])
    parts = tuple(own[0] if len(own) == 1 else Chain(tuple(own)) for own in groups)
    return parts[0] if len(parts) == 1 else Chain(parts)


def _is_linear(node: Node) -> bool:
    return isinstance(node, Layer) and type(node.module) in _LINEAR


def _is_part(node: Node) -> bool:
    factor = isinstance(node, Layer) and isinstance(node.module, (Scale, Divide))
    return factor or _is_linear(node)


def composed(
    node: Node, stack: ModelStack, linear_map: Callable[[Layer], LinearMap | None]
) -> LinearMap | None:
    """The map of such a chain, or of a factor alone; None for anything else.

    Parameters
    ----------
    linear_map : of a linear layer.
    """
    parts = [part for part in steps(node) if isinstance(part, Layer) and _is_part(part)]
    if len(parts) < len(steps(node)) or sum(map(_is_linear, parts)) > 1:
        return None
    at = next((i for i, part in enumerate(parts) if _is_linear(part)), 0)
    found = linear_map(parts[at]) if _is_linear(parts[at]) else _identity(parts[0], stack)
    rest = [part for part in parts if not _is_linear(part)]
    for i, factor in enumerate(rest):
        if found is None:
            return None
        before = _is_linear(parts[at]) and i < at
        found = _multiplied(found, factor, stack, axis=2 if before else 1)
    return found


def _identity(layer: Layer, stack: ModelStack) -> LinearMap | None:
    if len(layer.input_shape) != 1 or layer.input_shape[0] > _MOST:
        return None
    eye = torch.eye(layer.input_shape[0], dtype=torch.float64, device=stack.device)
    return LinearMap(eye.expand(stack.num_models, -1, -1)[..., None], [Axis(1, 1, 1)])


def _multiplied(own: LinearMap, layer: Layer, stack: ModelStack, *, axis: int) -> LinearMap | None:
    """Outputs (axis 1) or inputs (axis 2) of a map times numbers, or over them."""
    module, kernel = layer.module, own.kernel
    assert isinstance(module, (Scale, Divide))
    tensor = layer.state(stack.state).get("weight")
    if tensor is None:
        factor = kernel.new_tensor(module.number).expand(len(kernel))
    else:
        factor = tensor.to(torch.float64).reshape(len(tensor), -1)
    factor = factor.reshape(len(kernel), -1)
    if factor.shape[1] > 1:
        alike = layer.input_shape == layer.output_shape == (factor.shape[1],)
        if not alike or kernel[0, 0, 0].numel() != 1 or factor.shape[1] != kernel.shape[axis]:
            return None
    if layer.input_shape != layer.output_shape or not bool(factor.isfinite().all()):
        return None
    if isinstance(module, Divide) and not bool((factor != 0).all()):
        return None
    shape = [len(kernel), 1, 1, *[1] * (kernel.ndim - 3)]
    shape[axis] = factor.shape[1]
    factor = factor.reshape(shape)
    scaled = kernel / factor if isinstance(module, Divide) else kernel * factor
    if not bool(scaled.isfinite().all()):
        return None
    steepest = (1 / factor.abs() if isinstance(module, Divide) else factor.abs()).flatten(1).amax(1)
    entries = kernel[0].numel()
    lost = ulps.round_up(steepest, 2) * own.lost
    lost = lost + 2 * ulps.UNIT_ROUNDOFF * scaled.abs().flatten(1).sum(1) + 2 * entries * ulps.TINY
    return LinearMap(scaled, own.axes, ulps.round_up(lost, entries + 4))

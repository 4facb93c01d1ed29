"""Layer product in which convolution-activation-convolution pairs and residual blocks count as one.

A pair W2 sigma(W1 x), or a residual block W2 sigma(W1 x) + W0 x with W0 a convolution or the
identity, is bounded by LipSDP with one multiplier per channel, frequency by frequency (see
``lipsdp/blocks.py``). Each chain is cut into pairs and single layers in the best way, each block
takes the smaller of both bounds, so the value is never above ``upper_layer_product``. Linear layers
count as convolutions of one pixel. Everything else keeps its constant; so does a pair of more than
2^25 symbol entries. l2 only, certified. Cost per pair: some ten passes over a matrix of size in +
out channels per frequency.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.bounds.lipsdp.affine_groups import composed, grouped
from lipdescent.bounds.lipsdp.blocks import block_bound
from lipdescent.bounds.lipsdp.symbols import LinearMap
from lipdescent.layers import activation, convolution
from lipdescent.layers._operators import Axis
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.networks.expressions import Chain, Layer, Node, Sum
from lipdescent.networks.operations import Divide, Scale
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure import layer_constants
from lipdescent.structure.composition import bound
from lipdescent.structure.trace import trace

DIRECTION = "upper"
NORMS = ("l2",)


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
) -> Iterator[Measurement]:
    """Yield ``upper_block_lipsdp`` (l2); ``inputs`` and ``seed`` are not used.

    Raises
    ------
    NotApplicable
        For another norm, a network without a pair, attention, or a layer without a constant.
    TypeError, ValueError
        As :func:`lipdescent.structure.trace.trace`.
    """
    refuse_other_norms(norms, NORMS)
    yield Measurement("upper_block_lipsdp", DIRECTION, "l2", block_lipsdp(stack))


def block_lipsdp(stack: ModelStack) -> Tensor:
    """The bound itself: float64 (num_models,)."""
    found = False

    def shortcut(part: tuple | Sum) -> Tensor | None:
        nonlocal found
        value = _residual_bound(part, stack) if isinstance(part, Sum) else _pair_bound(part, stack)
        found = found or value is not None
        return value

    value = bound(grouped(trace(stack)), stack, norm="l2", shortcut=shortcut)
    if not found:
        raise NotApplicable("no pair of linear layers or convolutions with an activation between")
    return value


def _pair_bound(
    parts: Sequence[Node], stack: ModelStack, skip: LinearMap | str | None = None
) -> Tensor | None:
    """Bound of (linear, activation, linear) plus a skip connection, None for anything else."""
    if len(parts) != 3 or not isinstance(parts[1], Layer):
        return None
    if type(parts[1].module) not in activation.SLOPES:
        return None
    first, second = linear_map(parts[0], stack), linear_map(parts[2], stack)
    if first is None or second is None or len(first.axes) != len(second.axes):
        return None
    if isinstance(skip, LinearMap) and len(skip.axes) != len(first.axes):
        return None
    state = parts[1].state(stack.state)
    low, high = (
        torch.as_tensor(s, dtype=torch.float64, device=stack.device).expand(stack.num_models)
        for s in activation.slopes(parts[1].module, state)
    )
    return block_bound(first, second, (low, high), skip=skip)


def _residual_bound(node: Sum, stack: ModelStack) -> Tensor | None:
    """Bound of W2 sigma(W1 x) + W0 x, whichever of the two is written first."""
    if len(node.parts) != 2:
        return None
    for branch, other in (node.parts, node.parts[::-1]):
        if isinstance(branch, Chain) and len(branch.parts) == 3:
            skip = "identity" if _is_identity(other) else linear_map(other, stack)
            if skip is not None:
                return _pair_bound(branch.parts, stack, skip)
    return None


def _is_identity(node: Node) -> bool:
    if isinstance(node, Chain):
        return not node.parts
    return isinstance(node, Layer) and type(node.module) is nn.Identity


def linear_map(node: Node, stack: ModelStack) -> LinearMap | None:
    """A zero-padded convolution, or a linear layer as one of a single pixel; None for others.

    Either of them times numbers, too, see :mod:`lipdescent.bounds.lipsdp.affine_groups`.
    """
    factors = isinstance(node, Layer) and isinstance(node.module, (Scale, Divide))
    if isinstance(node, Chain) or factors:
        return composed(node, stack, lambda layer: linear_map(layer, stack))
    if not isinstance(node, Layer):
        return None
    module: Any = node.module
    kind = type(module)
    if kind is nn.Linear and len(node.input_shape) == 1:
        weight = layer_constants.folded_state(node, stack.state)["weight"].to(torch.float64)
        return LinearMap(weight[..., None], [Axis(1, 1, 1)], _lost(node, stack))
    plain = kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.padding_mode == "zeros"
    if not plain:
        return None
    state = layer_constants.folded_state(node, stack.state)
    operator = convolution.operator(module, state, node.input_shape, node.output_shape)
    return LinearMap(convolution.one_group(operator.kernel), operator.axes, _lost(node, stack))


def _lost(node: Layer, stack: ModelStack) -> Tensor | float:
    """What has underflowed where a batch normalisation was multiplied into the weights."""
    return 0.0 if node.scale is None else layer_constants.folding_loss(node, stack.state)

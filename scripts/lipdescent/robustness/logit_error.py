"""How far the logits that float64 computes can lie from the exact ones.

Running error analysis in the sup norm (Higham, Accuracy and Stability of Numerical Algorithms,
2002, sections 3.3 and 7.3). Let a layer have l_inf constant a, |f(0)| at most b, and every output
be computed by at most k roundings of numbers whose sizes sum up to at most a |x| + b (a sum of
products in any order, or an activation accurate to k units in the last place). Then inputs of
size at most s that carry an error of e give outputs of size at most a s + b that carry
a e + gamma(k) (a (s + e) + b).
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.arithmetic.ulps import TINY, gamma
from lipdescent.layers import convolution
from lipdescent.layers.roundings import roundings
from lipdescent.layers.table import constant
from lipdescent.networks.expressions import Chain, Concat, Layer, Node
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.trace import trace

# Roundings of an activation, a division or a bias beside the products' sum.
FEW = 64
# Covers the roundings of this file's own few operations on each value.
UP = 1 + 2.0**-40

Sizes = tuple[Tensor, Tensor]  # largest value and its error, each (num_models, n)


@torch.no_grad()
def logit_error(stack: ModelStack, inputs: Tensor) -> Tensor:
    """Largest error of any logit that ``stack`` computes in float64: float64 (num_models, n).

    Parameters
    ----------
    inputs : (n, *input_shape), exact in float64.

    Raises
    ------
    NotApplicable
        If a layer has no l_inf constant.
    TypeError, ValueError
        From :func:`lipdescent.structure.trace.trace`, for networks that cannot be read.
    """
    stack = stack.to(dtype=torch.float64)
    largest = inputs.double().flatten(1).abs().amax(1).expand(stack.num_models, -1)
    return _through(trace(stack), stack, (largest, torch.zeros_like(largest)))[1]


def _through(node: Node, stack: ModelStack, sizes: Sizes) -> Sizes:
    if isinstance(node, Layer):
        sizes = _layer(node, stack, sizes)
        return sizes if node.scale is None else _layer(node.scale, stack, sizes)
    if isinstance(node, Chain):
        for part in node.parts:
            sizes = _through(part, stack, sizes)
        return sizes
    parts = [_through(part, stack, sizes) for part in node.parts]
    size, error = (torch.stack(each) for each in zip(*parts, strict=True))
    if isinstance(node, Concat):
        return size.amax(0), error.amax(0)
    size, error = size.sum(0), error.sum(0)
    return UP * size, UP * (error + gamma(len(parts)) * (size + error))


def _layer(layer: Layer, stack: ModelStack, sizes: Sizes) -> Sizes:
    state = layer.state(stack.state)
    shapes = {"input_shape": layer.input_shape, "output_shape": layer.output_shape}
    slope = constant(layer.module, state, norm="linf", **shapes)
    slope = torch.as_tensor(slope, dtype=torch.float64, device=stack.device).view(-1, 1)
    offset = _offset(layer, state, slope)
    rounded = gamma(roundings(layer.module, layer.input_shape, layer.output_shape) + FEW)
    size, error = sizes
    out = _absolute(layer, state, slope) * (size + error) + offset
    lost = _lost(layer.module, layer.input_shape) + 2.0**-1000 * (size + error)
    return UP * (slope * size + offset), UP * (slope * error + rounded * out + lost)


def _absolute(layer: Layer, state: dict[str, Tensor], slope: Tensor) -> Tensor:
    """l_inf constant with the weights' absolute values: two taps may read the same element."""
    if type(layer.module) not in convolution.TABLE:
        return slope
    plus = {name: tensor.abs() for name, tensor in state.items()}
    shapes = {"input_shape": layer.input_shape, "output_shape": layer.output_shape}
    return torch.as_tensor(constant(layer.module, plus, norm="linf", **shapes)).view(-1, 1)


def _lost(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    """What underflows, and where torch leaves out a term: beyond softplus's threshold."""
    lost = 2.0**-1000
    if isinstance(module, nn.Softplus):
        lost += 1.001 * math.exp(-module.threshold) / abs(module.beta)
    if isinstance(module, nn.LPPool1d | nn.LPPool2d | nn.LPPool3d):
        lost += 2 * (math.prod(input_shape) ** 2 * TINY) ** (1 / module.norm_type)
    return lost


def _offset(layer: Layer, state: dict[str, Tensor], slope: Tensor) -> Tensor:
    """At least |f(0)| and the sizes of what it is computed from, (num_models, 1) or (1, 1)."""
    if not state:
        zero = torch.zeros(1, *layer.input_shape, dtype=torch.float64, device=slope.device)
        return functional_call(layer.module, {}, (zero,)).abs().amax().view(1, 1)
    found = torch.zeros_like(slope)
    if state.get("bias") is not None:
        found = state["bias"].double().abs().flatten(1).amax(1, keepdim=True)
    if state.get("running_mean") is not None:
        found = found + slope * state["running_mean"].double().abs().amax(1, keepdim=True)
    return UP * found

"""Affine operations of a graph: what they do to numbers, and to bounds of numbers.

x -> A x + b is given by functions for A and |A| (entry by entry), b, and the number of terms of a
sum. A computed result differs from A x by at most gamma(terms + 2) |A| |x|, and products that
underflow by terms times 2^-1074 each (Higham 2002, eq. 3.13).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import TINY, gamma, round_up
from lipdescent.bounds.graph.ranges import Range, added, around, product
from lipdescent.layers import convolution, pooling
from lipdescent.layers.linear import TABLE as MOVES
from lipdescent.layers.normalisation import batch_scale
from lipdescent.networks.known_classes import BATCH_NORMS
from lipdescent.networks.operations import Divide, Gather, Reduce, Scale, Shift
from lipdescent.structure.rebuilt import rebuilt

_HELD = 2**24  # numbers of a weight whose absolute values are held


@dataclass(frozen=True)
class Linear:
    """x -> apply(x) + bias; functions of (N, *shape in), ``bias`` (*shape out) or None.

    ``absolute`` is |A|. ``bias_error`` bounds what rounding has done to the bias. ``ends`` gives
    the values of what acts entry by entry, where only one end of a range may be finite.
    """

    apply: Callable[[Tensor], Tensor]
    absolute: Callable[[Tensor], Tensor]
    terms: int
    bias: Tensor | None = None
    bias_error: Tensor | None = None
    ends: Callable[[Range], Range] | None = None

    def range(self, x: Range) -> Range:
        """A m + b +- |A| r for values m +- r, with all roundings."""
        middle, radius = x.middle()
        value = self.apply(middle)
        reach = self.spread(middle.abs(), radius)
        if self.bias is not None:
            value = value + self.bias
            reach = reach + 2.0**-52 * (value.abs() + self.bias.abs())
        if self.bias_error is not None:
            reach = reach + self.bias_error
        found = around(value, round_up(reach, 4))
        return found if self.ends is None else found.meet(self.ends(x))

    def spread(self, size: Tensor, radius: Tensor) -> Tensor:
        """|A| radius, and what rounding adds to A x for \\|x\\| <= size, rounded up."""
        if self.terms == 0:
            return self.absolute(radius)
        inner = round_up(radius + gamma(self.terms + 2) * size, 3)
        outer = self.absolute(inner)
        outer = torch.where(outer.isnan(), math.inf, outer)
        return round_up(outer + self.terms * 4 * TINY, self.terms + 3)


def linear_of(operation: nn.Module, shape: tuple[int, ...]) -> Linear | None:
    """The affine map that an operation on values of ``shape`` is, or None."""
    kind = type(operation)
    if kind in MOVES and kind is not nn.Linear:
        return Linear(operation, operation, 0)
    if kind is nn.Linear or kind in convolution.TABLE:
        return _weighted(operation, shape)
    if kind in BATCH_NORMS or getattr(operation, "running_var", None) is not None:
        return _batch_norm(operation, shape)
    if kind in _AVERAGES:
        window = math.prod(shape)
        return Linear(operation, operation, min(window, 2**20) + 4)
    if kind in _PADS or (isinstance(operation, Gather) and math.isfinite(operation.fill)):
        return _rearranging(operation, shape)
    if isinstance(operation, (Scale, Divide, Shift)):
        return _scaling(operation)
    if isinstance(operation, Reduce) and operation.kind in ("sum", "mean"):
        return Linear(operation, operation, operation.count(shape) + 1)
    return None


def _rearranging(operation: Any, shape: tuple[int, ...]) -> Linear:
    """Pads, slices, permutations: each output is an input or a constant."""
    constant = operation(torch.zeros(1, *shape, dtype=torch.float64))[0]
    if not bool(constant.any()):
        return Linear(operation, operation, 0, ends=lambda x: x.each(operation))
    fixed = constant != 0

    def linear(x: Tensor) -> Tensor:
        return torch.where(fixed, 0.0, operation(x))

    return Linear(linear, linear, 0, constant)


def _scaling(operation: Scale | Divide | Shift) -> Linear:
    """A number or tensor, entry by entry: one rounding."""
    weight = operation.number if operation.weight is None else operation.weight.detach()
    weight = torch.as_tensor(weight, dtype=torch.float64)
    if isinstance(operation, Shift):
        zero = 0 * weight
        return Linear(
            lambda x: x + zero, lambda x: x + zero, 0, weight, ends=lambda x: added(x, weight)
        )
    own = Range(weight, weight)
    if isinstance(operation, Scale):
        return Linear(
            lambda x: x * weight, lambda x: x * weight.abs(), 1, ends=lambda x: product(x, own)
        )
    return Linear(lambda x: x / weight, lambda x: x / weight.abs(), 1)


def _weighted(operation: Any, shape: tuple[int, ...]) -> Linear:
    """Linear and convolutions, transposed or not: weights in float64, and their absolute values."""
    bias = None
    if operation.bias is not None:
        bias = operation(torch.zeros(1, *shape, dtype=torch.float64))[0]
    plain = rebuilt(operation, {"weight": operation.weight.detach()})

    weight = operation.weight.detach()

    def sizes() -> nn.Module:
        return rebuilt(operation, {"weight": weight.abs()})

    if weight.numel() <= _HELD:
        sizes = functools.cache(sizes)

    def absolute(x: Tensor) -> Tensor:
        return cast(Tensor, sizes()(x))

    terms = weight[0].numel()
    if getattr(operation, "transposed", False):
        terms = weight.shape[0] // operation.groups * weight[0, 0].numel()
    return Linear(plain, absolute, terms + 1, bias)


def _batch_norm(operation: Any, shape: tuple[int, ...]) -> Linear:
    """Scale and shift per channel: at most four roundings in the scale."""
    own = dict(operation.named_parameters()) | dict(operation.named_buffers())
    state = {name: tensor.detach().double()[None] for name, tensor in own.items()}
    axes = (-1, *[1] * (len(shape) - 1))
    scale = batch_scale(operation, state)[0].reshape(axes)
    mean = state["running_mean"][0].reshape(axes)
    bias = -mean * scale
    size = bias.abs()
    if "bias" in state:
        bias, size = (
            bias + state["bias"][0].reshape(axes),
            size + state["bias"][0].abs().reshape(axes),
        )
    error = round_up(gamma(10) * size, 2).expand(shape)
    return Linear(lambda x: x * scale, lambda x: x * scale.abs(), 8, bias.expand(shape), error)


_AVERAGES = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Identity,
)
_PADS = tuple(kind for kind in pooling.TABLE if "Pad" in kind.__name__)

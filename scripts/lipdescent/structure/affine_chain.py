"""Fully connected networks as a chain of matrices and slope intervals.

The chain is the network x -> W_L phi_{L-1}(... phi_1(W_1 x + b_1) ...) + b_L with every slope of
phi_i in [a_i, b_i]. Linear maps that follow each other, BatchNorm1d in eval mode included, are
multiplied in float64 and the rounding is carried along in the l2 norm. Whatever the chain cannot
represent exactly is refused by name: a module that is not understood must never count as 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, norm_frobenius
from lipdescent.arithmetic.ulps import TINY, gamma, product_up, round_up
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer
from lipdescent.networks.known_classes import flattens
from lipdescent.networks.operations import Divide, Scale, Shift
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.plain_chain import plain_chain
from lipdescent.structure.slope_intervals import Interval, compose, slope_interval

ELEMENTWISE = (Scale, Divide, Shift)


@dataclass
class AffineChain:
    """``depth`` hidden layers, S models.

    Attributes
    ----------
    weights : float64 (S, width_i, width_{i-1}), depth + 1 of them.
    biases : float64 (S, width_i), to working precision.
    slopes : (a_i, b_i) of the activation after each hidden layer, a_i < b_i; depth of them.
    errors : float64 (S,), l2-norm bounds on what rounding has changed in each weight matrix
        (0 unless BatchNorm or adjacent linear layers were merged).
    """

    weights: list[Tensor] = field(default_factory=list)
    biases: list[Tensor] = field(default_factory=list)
    slopes: list[Interval] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return len(self.slopes)

    def select(self, models: Tensor) -> AffineChain:
        """The chain of some of the models; ``models`` indexes the first axis."""
        return AffineChain(
            [weight[models] for weight in self.weights],
            [bias[models] for bias in self.biases],
            self.slopes,
            [error[models] for error in self.errors],
        )

    def norms(self) -> list[Tensor]:
        """Certified spectral norms (S,) of the stored weights."""
        return [certified_spectral_norm(weight) for weight in self.weights]

    def product(self) -> Tensor:
        """Layer product: certified l2 bound (S,), the weights' ``errors`` included."""
        pairs = zip(self.norms(), self.errors, strict=True)
        return self._scaled_product([torch.where(e > 0, round_up(n + e), n) for n, e in pairs])

    def excess(self) -> Tensor:
        """What to add to an l2 bound of the stored chain, (S,); exactly 0 where nothing rounded.

        With |E_i| <= e_i, telescoping gives for every choice of slopes
        |J(W + E) - J(W)| <= sum_i e_i prod_{j != i} (|W_j| + e_j) prod_j max |slope_j|.
        """
        total = torch.zeros_like(self.errors[0])
        if not any(bool(error.any()) for error in self.errors):
            return total
        norms = [round_up(n + e) for n, e in zip(self.norms(), self.errors, strict=True)]
        for i, error in enumerate(self.errors):
            total = total + self._scaled_product([*norms[:i], error, *norms[i + 1 :]])
        return torch.where(total > 0, round_up(total, len(norms)), total)

    def _scaled_product(self, factors: list[Tensor]) -> Tensor:
        steepest = [max(abs(low), abs(high)) for low, high in self.slopes]
        return product_up([*factors, *(torch.full_like(factors[0], s) for s in steepest)])


def affine_chain(stack: ModelStack) -> AffineChain:
    """The chain of a fully connected network.

    Understood are plain chains of Linear, Flatten, BatchNorm1d in eval mode, factors, divisors and
    shifts of single numbers, and the activations of
    :mod:`lipdescent.structure.slope_intervals`.

    Raises
    ------
    NotApplicable
        For anything else; the message names the module and its place.
    ValueError
        If a weight is NaN or infinite, or ``input_shape`` does not fit the first layer.
    """
    finite = stack.finite()
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"weights of models {bad[:8]} contain NaN or infinity; allowed are finite")
    builder = _Builder(stack)
    for layer in plain_chain(stack, _known):
        builder.add(layer)
    return builder.finish()


def elementwise_numbers(
    layer: Layer, stack: ModelStack, shape: tuple[int, ...]
) -> Float64[Tensor, "models inputs"]:
    """The numbers of an elementwise layer, one for each of its inputs of ``shape``."""
    module: Any = layer.module
    if module.shape is None:
        number = torch.full((), module.number, dtype=torch.float64, device=stack.device)
        return number.expand(stack.num_models, math.prod(shape))
    weight = stack.state[layer.named("weight")].to(torch.float64)
    missing = len(shape) + 1 - weight.ndim
    if missing < 0:
        raise NotApplicable(f"{layer.place}: it makes {tuple(module.shape)} of shape {shape}")
    weight = weight.reshape(len(weight), *[1] * missing, *weight.shape[1:])
    return weight.expand(len(weight), *shape).flatten(1)


def _known(module: nn.Module) -> bool:
    batch_norm = type(module) is nn.BatchNorm1d and module.track_running_stats
    affine = type(module) in (nn.Linear, *ELEMENTWISE) or batch_norm or flattens(module)
    return affine or slope_interval(module) is not None


class _Builder:
    """Reads the layers in order; the affine map since the last activation is pending."""

    def __init__(self, stack: ModelStack) -> None:
        self.stack, self.shape, self.chain = stack, tuple(stack.input_shape), AffineChain()
        self.weight: Tensor | None = None  # None: the identity
        self.bias = self.error = torch.zeros(stack.num_models, 1, dtype=torch.float64)
        self.reset()

    def reset(self) -> None:
        size, (count, device) = math.prod(self.shape), self.place()
        self.weight = None
        self.bias = torch.zeros(count, size, dtype=torch.float64, device=device)
        self.error = torch.zeros(count, dtype=torch.float64, device=device)

    def place(self) -> tuple[int, torch.device]:
        count = self.stack.num_models
        return count, self.stack.device if count else torch.device("cpu")

    def add(self, layer: Layer) -> None:
        interval = slope_interval(layer.module)
        if flattens(layer.module):
            self.shape = (math.prod(self.shape),)
        elif type(layer.module) in ELEMENTWISE:
            self.elementwise(layer)
        elif interval is not None:
            if interval != (1.0, 1.0):
                self.activation(interval)
        elif len(self.shape) > 1:
            raise NotApplicable(f"{layer.place}: its input has shape {self.shape}, not a vector")
        elif type(layer.module) is nn.Linear:
            self.linear(layer)
        else:
            self.batch_norm(layer)

    def get(self, layer: Layer, tensor: str) -> Tensor:
        name = layer.named(tensor)
        own = self.stack.state[name]
        if not own.is_floating_point():
            raise TypeError(f"{name}: dtype {own.dtype}, allowed are floating-point types")
        return own.to(torch.float64)

    def expect(self, size: int, layer: Layer) -> None:
        if size != self.shape[0]:
            raise ValueError(f"{layer.place}: takes {size} features, its input has {self.shape[0]}")

    def linear(self, layer: Layer) -> None:
        module: Any = layer.module
        self.expect(module.in_features, layer)
        weight = self.get(layer, "weight")
        bias = (weight @ self.bias[..., None])[..., 0]
        if module.bias is not None:
            bias = bias + self.get(layer, "bias")
        if self.weight is None:
            self.weight = weight
        else:
            norm, inner = norm_frobenius(weight), norm_frobenius(self.weight)
            rounding = round_up(gamma(module.in_features + 1) * norm * inner, 3)
            rounding = rounding + module.in_features * weight.shape[1] * self.shape_in() * TINY
            self.error = round_up(rounding + round_up(norm * self.error), 2)
            self.weight = weight @ self.weight
        self.bias, self.shape = bias, (module.out_features,)

    def batch_norm(self, layer: Layer) -> None:
        module: Any = layer.module
        self.expect(module.num_features, layer)
        scale = (self.get(layer, "running_var") + module.eps).rsqrt()
        bias = self.bias - self.get(layer, "running_mean")
        if module.affine:
            scale = scale * self.get(layer, "weight")
        bias = scale * bias + (self.get(layer, "bias") if module.affine else 0)
        if not bool(scale.isfinite().all()):
            raise ValueError(f"{layer.place}: running_var + eps must be positive, finite numbers")
        self.rescale(layer, scale, bias)

    def elementwise(self, layer: Layer) -> None:
        """A factor, divisor or shift of each number, whatever the shape they have."""
        number = elementwise_numbers(layer, self.stack, self.shape)
        if isinstance(layer.module, Shift):
            self.bias = self.bias + number
            return
        if isinstance(layer.module, Divide):
            number = 1 / number
        if not bool(number.isfinite().all()):
            raise ValueError(f"{layer.place}: a divisor is 0, or too small; allowed are others")
        self.rescale(layer, number, number * self.bias)

    def rescale(self, layer: Layer, scale: Tensor, bias: Tensor) -> None:
        """The pending map times slopes (S, width) that carry up to 6 roundings."""
        largest = round_up(scale.abs().amax(1), 8)
        # A slope that underflows is off by TINY times what it multiplies, and so is the product.
        before = 1.0 if self.weight is None else self.weight.abs().sum((1, 2))
        lost = TINY * before + scale.shape[1] * self.shape_in() * TINY
        if self.weight is None:
            self.weight = torch.diag_embed(scale)
        else:
            self.weight = scale[..., None] * self.weight
        if not bool(self.weight.isfinite().all()):
            raise NotApplicable(
                f"{layer.place}: its slopes times the weights before overflow float64"
            )
        # Sum, root, quotient and two products: 5 roundings, rsqrt may take one more ulp.
        rounding = gamma(10) * norm_frobenius(self.weight)
        self.error = round_up(round_up(rounding) + lost + round_up(largest * self.error), 2)
        self.bias = bias

    def shape_in(self) -> int:
        """Columns of the pending weight."""
        return self.shape[0] if self.weight is None else self.weight.shape[2]

    def activation(self, interval: Interval) -> None:
        if self.weight is None and self.chain.weights:
            self.chain.slopes[-1] = compose(interval, self.chain.slopes[-1])
            return
        self.push()
        self.chain.slopes.append(interval)

    def push(self) -> None:
        if self.weight is None:
            (count, device), size = self.place(), math.prod(self.shape)
            eye = torch.eye(size, dtype=torch.float64, device=device)
            self.weight = eye.expand(count, size, size)
        if not bool(self.weight.isfinite().all()):  # of finite layers: their product
            raise NotApplicable("the product of layers that follow each other overflows float64")
        self.chain.weights.append(self.weight)
        self.chain.biases.append(self.bias)
        self.chain.errors.append(self.error)
        self.reset()

    def finish(self) -> AffineChain:
        self.push()
        return self.chain

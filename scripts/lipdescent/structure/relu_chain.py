"""Chains of Linear and piecewise-linear activations, scaled so that nothing overflows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import times_power
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer
from lipdescent.networks.known_classes import flattens
from lipdescent.networks.operations import Divide, Shift
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import ELEMENTWISE, elementwise_numbers
from lipdescent.structure.plain_chain import plain_chain

_ORDINARY = 300  # exponents of numbers whose products do not underflow
_RANGE = 900  # of the exponents by which biases are scaled


@dataclass(frozen=True)
class Chain:
    """Linear layers with piecewise-linear activations between them.

    Attributes
    ----------
    weights : float64 (num_models, n_out, n_in) each, scaled to largest entries in [1/2, 1).
    biases : float64 (num_models, n_out) or None each, in the units of the scaled outputs.
    slopes : (negative side, positive side) of every activation, one less than weights; at most 4
        in size, steeper ones scaled as the weights are.
    exponents : int64 (num_models,), J of the network = 2^exponents J of the scaled chain.
    roundings : that have gone into an entry of some weight or bias, relative, over all layers.
    """

    weights: list[Tensor]
    biases: list[Tensor | None]
    slopes: list[tuple[float, float]]
    exponents: Tensor
    roundings: int = 0

    def __getitem__(self, index: slice | Tensor) -> Chain:
        weights = [weight[index] for weight in self.weights]
        biases = [None if bias is None else bias[index] for bias in self.biases]
        return Chain(weights, biases, self.slopes, self.exponents[index], self.roundings)


def chain(stack: ModelStack) -> Chain | None:
    """The chain that ``stack`` is, or None if it is anything else.

    Understood are plain chains of Linear, ReLU, LeakyReLU and Flatten of everything, and factors,
    divisors and shifts of single numbers, which are diagonal layers.
    """
    try:
        layers = plain_chain(stack, _known)
    except NotApplicable:
        return None
    links = _Links(stack)
    for layer in layers:
        if not links.add(layer):
            return None
    return links.finish()


class _Links:
    """The layers so far; a diagonal and a shift since the last of them are pending."""

    def __init__(self, stack: ModelStack) -> None:
        self.stack, self.shape = stack, tuple(stack.input_shape)
        self.maps: list[tuple[Tensor, Tensor | None]] = []
        self.slopes: list[tuple[float, float]] = []
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None
        self.roundings = 0

    def add(self, layer: Layer) -> bool:
        """False where the network is no such chain."""
        module: Any = layer.module
        if flattens(module):
            self.shape = (math.prod(self.shape),)
        elif type(module) in ELEMENTWISE:
            return self.elementwise(layer)
        elif type(module) is nn.Linear and len(self.shape) == 1:
            self.settle()
            bias = self.stack.state.get(layer.named("bias"))
            self.map(self.stack.state[layer.named("weight")], bias)
            self.shape = (module.out_features,)
        else:  # an activation behind a linear layer
            self.settle()
            if type(module) is nn.Linear or len(self.maps) != len(self.slopes) + 1:
                return False
            self.slopes.append((float(getattr(module, "negative_slope", 0.0)), 1.0))
        return True

    def elementwise(self, layer: Layer) -> bool:
        try:
            numbers = elementwise_numbers(layer, self.stack, self.shape)
        except NotApplicable:
            return False
        if isinstance(layer.module, Shift):
            if self.shift is not None:
                self.settle()
            self.shift = numbers
            return _in_range(numbers)
        numbers = 1 / numbers if isinstance(layer.module, Divide) else numbers
        self.roundings += 2
        self.scale = numbers if self.scale is None else self.scale * numbers
        self.shift = None if self.shift is None else self.shift * numbers
        # Within it products and quotients are off by roundings alone, not by underflow.
        return all(n is None or _in_range(n) for n in (numbers, self.scale, self.shift))

    def settle(self) -> None:
        """Make what is pending a layer."""
        if self.scale is None and self.shift is None:
            return
        size, count = math.prod(self.shape), self.stack.num_models
        ones = torch.ones(count, size, dtype=torch.float64, device=self.stack.device)
        scale = ones if self.scale is None else self.scale
        self.map(torch.diag_embed(scale), self.shift)
        self.scale = self.shift = None

    def map(self, weight: Tensor, bias: Tensor | None) -> None:
        self.slopes += [(1.0, 1.0)] * (len(self.maps) - len(self.slopes))
        self.maps.append((weight.to(torch.float64), bias))

    def finish(self) -> Chain | None:
        self.settle()
        if not self.maps:
            return None
        return _scaled_chain(self.stack, self.maps, self.slopes, self.roundings)


def _in_range(numbers: Tensor) -> bool:
    sizes = numbers[numbers != 0].abs()
    return bool(((sizes > 2.0**-_ORDINARY) & (sizes < 2.0**_ORDINARY)).all())


def _known(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, nn.ReLU, nn.LeakyReLU, *ELEMENTWISE) or flattens(module)


def _scaled_chain(
    stack: ModelStack,
    maps: Sequence[tuple[Tensor, Tensor | None]],
    slopes: list[tuple[float, float]],
    roundings: int,
) -> Chain:
    """Scale by powers of two, which these activations commute with, against over- and underflow.

    Entries that vanish are off by at most 2^-1074: ``proofs/prover.py`` allows for that.
    """
    scaled_slopes, powers = [], []
    for pair in slopes:
        scaled_pair, power = _scaled_pair(pair)
        scaled_slopes.append(scaled_pair)
        powers.append(power)
    total = torch.zeros(stack.num_models, dtype=torch.int64, device=stack.device)
    weights, biases = [], []
    for (weight, bias), power in zip(maps, [0, *powers], strict=False):
        total = total + power
        exponent = torch.frexp(weight.abs().amax((-1, -2)))[1].to(torch.int64)
        total = total + exponent
        weights.append(times_power(weight, -exponent[:, None, None]))
        if bias is not None:
            bias = bias.to(torch.float64)
            scaled = times_power(bias, -total.clamp(-_RANGE, _RANGE)[:, None])
            # Out of range the truth is another number: infinite, so that nothing is proved by it.
            known = (total.abs() <= _RANGE)[:, None] | (bias == 0)
            bias = torch.where(known, scaled, torch.inf)
        biases.append(bias)
    if len(slopes) == len(maps):  # an activation comes last
        size = weights[-1].shape[1]
        eye = torch.eye(size, dtype=torch.float64, device=stack.device)
        weights.append(eye.expand(stack.num_models, -1, -1))
        biases.append(None)
        total = total + powers[-1]
    return Chain(weights, biases, scaled_slopes, total, roundings)


def _scaled_pair(pair: tuple[float, float]) -> tuple[tuple[float, float], int]:
    """Slopes of at most 4 in size, and the exponent of what they were divided by."""
    steep = max(map(abs, pair))
    power = math.frexp(steep)[1] if steep > 4 else 0
    return (math.ldexp(pair[0], -power), math.ldexp(pair[1], -power)), power


def slopes_at(before: Tensor, negative: float, positive: float) -> Tensor:
    """Slopes of an activation at pre-activations, in their dtype."""
    if (negative, positive) == (0.0, 1.0):  # a comparison takes half the time of a choice
        return (before > 0).to(before.dtype)
    return torch.where(before > 0, before.new_tensor(positive), before.new_tensor(negative))


def activated(
    links: Chain, points: Float64[Tensor, "models k inputs"]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Hidden layers at own points (num_models, k, n_in) of each model.

    Yields weights (num_models, h, n_in), pre-activations and slopes there, (num_models, k, h).
    """
    layers = zip(links.weights[:-1], links.biases[:-1], links.slopes, strict=True)
    for weight, bias, (negative, positive) in layers:
        before = points @ weight.mT
        if bias is not None:
            before += bias[:, None]
        slope = slopes_at(before, negative, positive)
        yield weight, before, slope
        points = before * slope

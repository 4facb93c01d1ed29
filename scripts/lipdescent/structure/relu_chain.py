"""Chains of Linear and piecewise-linear activations, and the norms of their Jacobians.

One hidden layer: J(x) = W2 D(x) W1 is linear in the mask D(x), so all points of a model take one
product ``mask @ T`` with the table T[h, (o, i)] = W2[o, h] W1[h, i]. Deeper: masks forward,
products backward. One model at a time, in float64, so that a model's numbers are the same bit by
bit whatever else is in its stack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.eigenvalues import largest_eigenvalue
from lipdescent.arithmetic.ulps import times_power
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer
from lipdescent.networks.known_classes import flattens
from lipdescent.networks.operations import Divide, Shift
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import ELEMENTWISE, elementwise_numbers
from lipdescent.structure.plain_chain import plain_chain

_CHUNK = {"cpu": 2**18, "cuda": 2**24}  # numbers in the largest array; measured at n_out n_in = 400
_TABLE = 2**24  # numbers in the largest table
_FEW_UNITS = 24  # up to this width equal masks are common enough to look for
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

    Entries that vanish are off by at most 2^-1074: ``_certified`` allows for that.
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


def chain_norms(
    links: Chain, models: Sequence[int], points: Tensor, norms: Sequence[str]
) -> list[dict[str, Tensor]]:
    """For each of ``models``: norm -> (n,), without 2^exponents."""
    outputs, features = links.weights[-1].shape[1], points.shape[1]
    widest = max(weight.shape[1] for weight in links.weights)
    hidden = links.weights[0].shape[1]
    shallow = len(links.weights) == 2 and hidden * outputs * features <= _TABLE
    largest = max(outputs * features, widest if shallow else outputs * widest)
    chunks = points.split(max(1, _CHUNK.get(points.device.type, 2**18) // largest))
    jacobians = _table_jacobians if shallow else deep_jacobians
    grams, inverses, found = [], [], []
    for model in models:
        sums: dict[str, list[Tensor]] = {norm: [] for norm in norms if norm != "l2"}
        for matrices, inverse in jacobians(links[model : model + 1], chunks):
            if "l2" in norms:
                grams.append(gram(matrices))
                inverses.append(inverse)
            matrices = matrices.abs_() if sums else matrices
            for norm in sums:
                sums[norm].append(_restored(sum_norm(matrices, norm), inverse))
        found.append({norm: torch.cat(parts) for norm, parts in sums.items()})
    if "l2" in norms:
        values = largest_eigenvalue(torch.cat(grams)).sqrt().split([len(g) for g in grams])
        values = [_restored(v, inverse) for v, inverse in zip(values, inverses, strict=True)]
        for one, value in zip(found, torch.cat(values).split(len(points)), strict=True):
            one["l2"] = value
    return found


def _restored(values: Tensor, inverse: Tensor | None) -> Tensor:
    return values if inverse is None else values[inverse]


def _table_jacobians(
    links: Chain, chunks: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One hidden layer, one model, for every chunk (n, n_in) of points.

    Yields the Jacobians (k, n_out, n_in) of the k different masks and the mask (n,) that each
    point has, or those of the n points and None.
    """
    first, last = links.weights[0][0], links.weights[1][0]
    negative, positive = links.slopes[0]
    table = (last.T[:, :, None] * first[:, None, :]).flatten(1)
    base = negative * (last @ first).flatten()
    powers = 2.0 ** torch.arange(len(first), dtype=torch.float64, device=first.device)
    for points in chunks:
        before = points @ first.T
        if links.biases[0] is not None:
            before += links.biases[0]
        masks, inverse = (before > 0).to(torch.float64), None
        if len(first) <= _FEW_UNITS:
            masks, inverse = _distinct(masks, powers)
        flat = masks @ table
        if positive - negative != 1:
            flat *= positive - negative
        if negative:
            flat += base
        yield flat.view(len(flat), len(last), -1), inverse


def _distinct(masks: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows among (n, width), and which of them each row is."""
    codes, inverse = torch.unique(masks @ powers, return_inverse=True)
    where = torch.empty_like(inverse[: len(codes)])
    where[inverse] = torch.arange(len(inverse), device=inverse.device)
    return masks[where], inverse


def deep_jacobians(links: Chain, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, None]]:
    """Any depth, one model: (n, n_out, n_in) for every chunk (n, n_in) of points."""
    for points in chunks:
        yield jacobians_at(links, points[None])[0], None


def jacobians_at(
    links: Chain, points: Float64[Tensor, "models k inputs"]
) -> Float64[Tensor, "models k outputs inputs"]:
    """Any depth, own points (num_models, k, n_in) of each model: (num_models, k, n_out, n_in).

    How a batched product rounds may depend on the number of models.
    """
    return jacobians_of(links, units_at(links, points)[1], points.shape[1])


def jacobians_of(
    links: Chain, slopes: Sequence[Tensor], count: int
) -> Float64[Tensor, "models k outputs inputs"]:
    """:func:`jacobians_at` ``count`` points of each model with these slopes."""
    product = links.weights[-1][:, None].expand(-1, count, -1, -1)
    for weight, slope in zip(links.weights[-2::-1], slopes[::-1], strict=True):
        scaled = (product * slope[:, :, None, :]).flatten(1, 2)
        product = (scaled @ weight).view(*product.shape[:3], -1)
    return product if slopes else product.clone()  # of a linear map: callers may write in it


def units_at(links: Chain, points: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Pre-activations and slopes of every hidden layer, (num_models, k, width) each."""
    units, slopes, hidden = [], [], points
    layers = zip(links.weights[:-1], links.biases[:-1], links.slopes, strict=True)
    for weight, bias, (negative, positive) in layers:
        before = hidden @ weight.mT
        units.append(before if bias is None else before + bias[:, None])
        slopes.append(slopes_at(units[-1], negative, positive))
        hidden = units[-1] * slopes[-1]
    return units, slopes


def slopes_at(before: Tensor, negative: float, positive: float) -> Tensor:
    """Slopes of an activation at pre-activations, in their dtype."""
    return torch.where(before > 0, before.new_tensor(positive), before.new_tensor(negative))


def soft_product(
    links: Chain,
    points: Float64[Tensor, "models k inputs"],
    left: Float64[Tensor, "models k outputs"],
    right: Float64[Tensor, "models k inputs"],
    *,
    sharpness: float,
) -> Float64[Tensor, "models k"]:
    """u^T J(x) v (num_models, k) with sigmoids in place of the steps of the slopes.

    The sigmoids' argument is ``sharpness`` pre-activation / its mean absolute value at a point;
    ``left`` (num_models, k, n_out), ``right`` (num_models, k, n_in).
    """
    hidden, tangent = points, right
    layers = zip(links.weights[:-1], links.biases[:-1], links.slopes, strict=True)
    for weight, bias, (negative, positive) in layers:
        hidden, tangent = hidden @ weight.mT, tangent @ weight.mT
        if bias is not None:
            hidden = hidden + bias[:, None]
        scale = hidden.detach().abs().mean(-1, keepdim=True).clamp_min(1e-300)
        soft = negative + (positive - negative) * torch.sigmoid(sharpness * hidden / scale)
        hidden = hidden * slopes_at(hidden, negative, positive)
        tangent = tangent * soft
    return ((tangent @ links.weights[-1].mT) * left).sum(-1)


def gram(matrices: Float64[Tensor, "n outputs inputs"]) -> Float64[Tensor, "n p p"]:
    """J J^T or J^T J of every matrix (n, n_out, n_in), whichever is smaller."""
    short = matrices if matrices.shape[-1] >= matrices.shape[-2] else matrices.mT
    return short @ short.mT


def sum_norm(absolute: Float64[Tensor, "n outputs inputs"], norm: str) -> Float64[Tensor, " n"]:
    """The "linf" or "l1" operator norm (n,) from the absolute values (n, n_out, n_in)."""
    return absolute.sum(-1 if norm == "linf" else -2).amax(-1)

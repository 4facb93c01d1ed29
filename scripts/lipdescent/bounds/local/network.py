"""Chains of affine maps and ReLU or LeakyReLU as matrices, with what rounding may have changed."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, norm_frobenius
from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.graph.linear_maps import Linear, linear_of
from lipdescent.bounds.graph.ranges import Range
from lipdescent.networks.graph import Graph

_ENTRIES = 2**21  # of one matrix: 16 MiB
_LARGEST = 1e30  # of the largest entries of a matrix, and 1 / smallest; of all together, 1e100


@dataclass(frozen=True)
class Layer:
    """z = W h + b. The stored ``weight`` (out, in) and ``bias`` (out,) are close to W and b.

    Attributes
    ----------
    slack : (out, in), bounds |W - weight| and what rounding adds to a product with it: for a
        computed one, |fl(weight h) - W h| <= slack |h|, and the same for products from the left.
    size : |W| + slack, entry by entry, rounded up.
    doubt : (out,), bounds |b - bias| and one rounding of a sum with it.
    norm, loss : upper bounds of |W|_2, and of the Frobenius norm of ``slack``.
    """

    weight: Tensor
    bias: Tensor
    slack: Tensor
    size: Tensor
    doubt: Tensor
    norm: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Network:
    """``layers``, and between them an activation of slope 1 above 0 and ``negative`` below."""

    layers: tuple[Layer, ...]
    negative: tuple[float, ...]

    @property
    def inputs(self) -> int:
        return self.layers[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.layers[-1].weight.shape[0]

    @property
    def hidden(self) -> list[slice]:
        """Where each hidden layer's units lie among all."""
        ends = torch.tensor([0, *(len(own.bias) for own in self.layers[:-1])]).cumsum(0).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]

    @property
    def units(self) -> int:
        return sum(len(own.bias) for own in self.layers[:-1])


def slopes_where(on: Tensor, negative: float) -> Tensor:
    """1 where ``on``, else ``negative``; float64, as a choice of two numbers would not be."""
    return torch.where(on, torch.ones((), dtype=torch.float64), negative)


def network_of(graph: Graph) -> Network | None:
    """The chain that a graph is; None for any other, or one whose matrices are too large."""
    chain = _Chain(graph.input_shape)
    for i in range(1, graph.output + 1):
        vertex = graph.vertices[i]
        if vertex.inputs != (i - 1,) or not isinstance(vertex.operation, nn.Module):
            return None
        if not chain.affordable(vertex.shape):
            return None
        negative = _negative_slope(vertex.operation)
        if negative is not None:
            chain.close()
            chain.negative.append(negative)
            continue
        linear = linear_of(vertex.operation, graph.vertices[i - 1].shape)
        if linear is None:
            return None
        chain.add(linear, tuple(vertex.shape))
    if not chain.usable:
        return None
    chain.close()
    network = Network(tuple(chain.layers), tuple(chain.negative))
    return network if chain.negative and _moderate(network) else None


def _negative_slope(operation: nn.Module) -> float | None:
    if type(operation) is nn.ReLU:
        return 0.0
    if type(operation) is nn.LeakyReLU and 0 <= operation.negative_slope < 1:
        return float(operation.negative_slope)
    return None


class _Chain:
    """The affine maps since the last activation: center +- radius, bias in a range."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.layers: list[Layer] = []
        self.negative: list[float] = []
        self._start(shape)

    def _start(self, shape: tuple[int, ...]) -> None:
        self.shape, n = shape, math.prod(shape)
        self.usable = n * n <= _ENTRIES
        eye = torch.eye(n if self.usable else 0, dtype=torch.float64)
        self.center = eye.reshape(len(eye), *(shape if self.usable else (0,)))
        self.radius = torch.zeros_like(self.center)
        zero = torch.zeros(1, *shape, dtype=torch.float64)
        self.bias = Range(zero, zero)

    def affordable(self, shape: tuple[int, ...]) -> bool:
        return self.usable and len(self.center) * math.prod(shape) <= _ENTRIES

    def add(self, linear: Linear, shape: tuple[int, ...]) -> None:
        self.radius = linear.spread(self.center.abs(), self.radius)
        self.center, self.bias = linear.apply(self.center), linear.range(self.bias)
        self.shape = shape

    def close(self) -> None:
        weight = self.center.flatten(1).mT.contiguous()
        radius = self.radius.flatten(1).mT
        middle, half = (t.flatten() for t in self.bias.middle())
        size = round_up(weight.abs() + radius)
        slack = round_up(radius + gamma(weight.shape[1] + len(weight) + 4) * size, 3)
        doubt = round_up(half + gamma(4) * middle.abs(), 3)
        loss = norm_frobenius(slack)
        norm = round_up(certified_spectral_norm(weight) + loss)
        self.layers.append(Layer(weight, middle, slack, round_up(size + slack), doubt, norm, loss))
        self._start(self.shape)


def _moderate(network: Network) -> bool:
    """Whether products of entries stay far inside float64's range."""
    largest = [float(own.size.max()) for own in network.layers]
    biases = [float(own.bias.abs().max()) for own in network.layers]
    spread = sum(abs(math.log10(x)) if x else math.inf for x in largest)
    small = min(largest) > 1 / _LARGEST
    return small and spread < 100 and all(x < _LARGEST for x in (*largest, *biases))

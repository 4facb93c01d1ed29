"""Small chains, their Jacobians for every pattern, and their values in fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import torch
from torch import Tensor, nn

from lipdescent.bounds.graph.conversion import graph_of
from lipdescent.bounds.local.network import Network, network_of
from lipdescent.bounds.local.values import Values
from lipdescent.stacks.model_stack import ModelStack

ORDERS = {"l2": 2, "linf": float("inf"), "l1": 1}


def chain(*sizes: int, slope: float = 0.0, seed: int = 0, scale: float = 1.0) -> nn.Sequential:
    """Linear and LeakyReLU (ReLU at 0) in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for m, n in itertools.pairwise(sizes):
        linear = nn.Linear(m, n).double()
        with torch.no_grad():
            for tensor in linear.parameters():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(scale * drawn / m**0.5)
        layers += [linear, nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def network(model: nn.Module, *shape: int) -> Network:
    found = network_of(graph_of(ModelStack.from_modules([model], shape), 0))
    assert found is not None
    return found


def jacobians(model: nn.Module, points: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(model))(points).detach()


def of_all_patterns(model: nn.Sequential, known: Values) -> Tensor:
    """Jacobians (P, outputs, inputs) for all slopes of the first region's open units."""
    linears = [m for m in model if isinstance(m, nn.Linear)]
    slope = getattr(model[1], "negative_slope", 0.0)
    low, high = known.low[0], known.high[0]
    at = ((low <= 0) & (high >= 0)).nonzero().flatten()
    settled = torch.where(low > 0, torch.ones_like(low), slope)
    found = []
    for ends in itertools.product((slope, 1.0), repeat=len(at)):
        slopes = settled.clone()
        slopes[at] = torch.tensor(ends, dtype=torch.float64)
        matrix, start = linears[0].weight, 0
        for linear in linears[1:]:
            own = slopes[start : start + matrix.shape[0]]
            start += matrix.shape[0]
            matrix = linear.weight @ (own[:, None] * matrix)
        found.append(matrix.detach())
    return torch.stack(found)


def exact_values(model: nn.Sequential, x: list[Fraction]) -> list[Fraction]:
    """Pre-activations of all hidden units, layer by layer, without rounding; ReLU or LeakyReLU."""
    slope = Fraction(getattr(model[1], "negative_slope", 0.0))
    found: list[Fraction] = []
    linears = [m for m in model if isinstance(m, nn.Linear)]
    for linear in linears[:-1]:
        weight, bias = linear.weight.tolist(), linear.bias.tolist()
        rows = zip(weight, bias, strict=True)
        z = [
            sum((Fraction(w) * h for w, h in zip(row, x, strict=True)), Fraction(b))
            for row, b in rows
        ]
        found += z
        x = [v if v > 0 else slope * v for v in z]
    return found

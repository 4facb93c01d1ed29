"""No bound of a random graph lies below a sampled Jacobian norm, on any kind of domain."""

import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds.graph.analysis import Analysis
from lipdescent.bounds.graph.conversion import double
from lipdescent.bounds.upper_graph import graph_bounds
from lipdescent.domains.domain import Ball, Box, Everywhere
from lipdescent.measurement import NotApplicable
from lipdescent.networks import graph as joins
from lipdescent.networks.graph import Graph, Vertex
from lipdescent.networks.operations import WRITTEN_OUT, Function, Gather, Scale, Shift

TOKENS, WIDTH = 3, 4
SHAPE = (TOKENS, WIDTH)
ACTIVATIONS = [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Softplus]
ACTIVATIONS += [nn.Hardswish, nn.Mish, nn.ReLU6, nn.SELU]
ACTIVATIONS += [partial(Function, name, 0.7) for name in WRITTEN_OUT]
ORDERS = {"l2": 2, "linf": math.inf, "l1": 1}


def random_graph(seed: int, depth: int, *, tokens: bool) -> Graph:
    """Vertices of one shape, each a random operation of random earlier ones."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    vertices = [Vertex(None, (), SHAPE)]

    def add(operation, *inputs: int, shape=SHAPE) -> int:
        vertices.append(Vertex(operation, inputs, shape, f"vertex {len(vertices)}"))
        return len(vertices) - 1

    def linear() -> nn.Module:
        layer = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(WIDTH, WIDTH, generator=generator))
            layer.bias.copy_(torch.randn(WIDTH, generator=generator))
        return layer

    def normalised() -> nn.Module:
        layer = nn.LayerNorm(WIDTH, eps=1e-2)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(WIDTH, generator=generator))
            layer.bias.copy_(torch.randn(WIDTH, generator=generator))
        return layer

    at = add(linear(), 0)
    for _ in range(depth):
        alike = [i for i, v in enumerate(vertices) if v.shape == SHAPE]
        other, third = (alike[draw(len(alike))] for _ in range(2))
        kind = draw(14 if tokens else 10)
        if kind == 0:
            at = add(linear(), at)
        elif kind in (1, 2):
            at = add(ACTIVATIONS[draw(len(ACTIVATIONS))](), at)
        elif kind == 3:
            at = add(joins.Combination((1.0, -0.5)), at, other)
        elif kind == 4:
            at = add(joins.Product(), at, add(nn.Sigmoid(), other))
        elif kind == 5:
            at = add(joins.Extremum(bool(draw(2))), at, other)
        elif kind == 6:
            at = add(joins.Product(), at, other)
        elif kind == 7:  # a mixture of two by a gate
            gate = add(nn.Sigmoid(), third)
            apart = add(joins.Combination((1.0, -1.0)), at, other)
            at = add(joins.Combination((1.0, 1.0)), add(joins.Product(), apart, gate), other)
        elif kind == 8:  # a root of squares
            at = add(Shift(None, 0.1), add(Function("square"), at))
            at = add(Function("sqrt"), at)
        elif kind == 9:  # a sum over tokens, which are different inputs at first
            turned = torch.arange(TOKENS * WIDTH).reshape(SHAPE)
            keep = torch.tensor([[draw(2)] for _ in range(TOKENS)]).bool()
            one, two = (Gather(torch.where(k, turned, -1)) for k in (keep, ~keep))
            scale = Scale(None, -2.0)
            at = add(joins.Combination((1.0, 1.0)), add(one, at), add(scale, add(two, other)))
        elif kind == 10:
            at = add(normalised(), at)
        elif kind == 11:
            at = add(joins.Attention(0.5), add(linear(), at), add(linear(), other), at)
        elif kind == 12:
            at = add(nn.Softmax(-1), at)
        else:
            both = add(joins.Concatenation(1), at, other, shape=(TOKENS, 2 * WIDTH))
            wide = nn.Linear(2 * WIDTH, WIDTH)
            at = add(wide.requires_grad_(False), both)
    return double(Graph(tuple(vertices), at))


def sampled(graph: Graph, points: torch.Tensor, norm: str) -> float:
    def flat(x: torch.Tensor) -> torch.Tensor:
        return graph(x.reshape(1, *SHAPE)).flatten()

    jacobians = [torch.autograd.functional.jacobian(flat, p.flatten()) for p in points]
    return max(float(torch.linalg.matrix_norm(j, ORDERS[norm])) for j in jacobians)


def points_of(domain, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(8, *SHAPE, generator=generator, dtype=torch.float64)
    if isinstance(domain, Everywhere):
        return drawn * 10.0 ** torch.linspace(-2, 1, 8, dtype=torch.float64).view(-1, 1, 1)
    if isinstance(domain, Box):
        return drawn.sign() * domain.high * torch.rand(8, 1, 1, generator=generator)
    regions = domain.regions(SHAPE)
    return regions.project(domain.centers + domain.radius * drawn, torch.zeros(8, dtype=int))


def domain_of(kind: int, size: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    return [Everywhere(), Box(-size, size), Ball(size, "l2", center), Ball(size, "linf", center)][
        kind
    ]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.generate],
)
@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(1, 6),
    kind=st.integers(0, 3),
    size=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
    norm=st.sampled_from(["l2", "l2", "linf", "l1"]),
    tokens=st.booleans(),
)
def test_no_bound_lies_below_a_jacobian_in_the_domain(seed, depth, kind, size, norm, tokens):
    graph = random_graph(seed, depth, tokens=tokens)
    domain = domain_of(kind, size, seed)
    regions = domain.regions(SHAPE)
    points = points_of(domain, seed)
    for thorough in (True, False):
        analysis = Analysis(graph, norm, thorough=thorough)
        try:
            known = analysis(regions)
        except NotApplicable:
            continue
        for value, own in zip(graph.values(points), known, strict=False):
            slack = 1e-12 * (1 + value.abs())
            assert bool(
                (value >= own.span.low - slack).all() and (value <= own.span.high + slack).all()
            )
        bound = float(known[graph.output].constant[0])
        assert sampled(graph, points, norm) <= bound * (1 + 1e-12) + 1e-300


def test_the_bound_at_a_point_is_the_jacobians_norm():
    """A ball of radius 0: one slope per unit, so nothing but rounding lies between."""
    graph = random_graph(5, 4, tokens=False)
    center = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    bound = graph_bounds(graph, Ball(0.0, "l2", center).regions(SHAPE))
    assert float(bound[0]) == pytest.approx(sampled(graph, center, "l2"), rel=1e-9)

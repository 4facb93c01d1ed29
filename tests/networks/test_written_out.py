"""Activations written out are one function each: the same one, with slopes that it reaches."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipdescent.bounds.graph.ranges import Range
from lipdescent.bounds.graph.scalars import bounded_slopes
from lipdescent.bracketing.bracket import bracket
from lipdescent.layers.operations import function_slopes
from lipdescent.networks.export.network import export
from lipdescent.networks.operations import WRITTEN_OUT, Function
from lipdescent.structure.slope_intervals import slope_interval

# What users write -> what it is read as, and whether the slopes of that are reached.
WRITTEN = {
    "swish": (lambda x: x * torch.sigmoid(1.7 * x), Function),
    "backwards": (lambda x: torch.sigmoid(-2 * x) * (x / 3), Function),
    "silu": (lambda x: x * torch.sigmoid(x), nn.SiLU),
    "over": (lambda x: x * torch.sigmoid(x / 3), Function),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), Function),
    "gelu behind": (lambda x: x * (0.5 * (torch.erf(x * 0.7) + 1)), Function),
    "gelu tanh": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        nn.GELU,
    ),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), nn.Mish),
    "mish by log1p": (lambda x: x * torch.tanh(torch.log1p(torch.exp(x))), nn.Mish),
    "hardswish": (lambda x: x * F.relu6(x + 3) / 6, nn.Hardswish),
    "hardswish gate": (lambda x: x * F.hardsigmoid(x), nn.Hardswish),
    "clipped": (lambda x: torch.clamp(x + 3, 0, 6) * x, nn.Hardswish),
    "hardswish of 3 x": (lambda x: x * F.hardsigmoid(3 * x), nn.Hardswish),
    "softsign": (lambda x: x / (1 + x.abs()), nn.Softsign),
    "softsign e": (lambda x: 2 * x / (x.abs() + 0.1), Function),
    "isru": (lambda x: x / torch.sqrt(1 + x**2), Function),
    "isru by rsqrt": (lambda x: x * torch.rsqrt(x * x + 0.3), Function),
    "bell": (lambda x: torch.exp(-x * x / 2), Function),
    "bell of square": (lambda x: torch.exp(-3 * (0.5 * x) ** 2), Function),
    "softplus": (lambda x: torch.log(1 + torch.exp(x)), Function),
    "softplus log1p": (lambda x: torch.log1p(x.exp()), Function),
    "logcosh": (lambda x: torch.log(torch.cosh(x)), Function),
    "tanhshrink": (lambda x: x - torch.tanh(x), nn.Tanhshrink),
    "shrunk by sign": (lambda x: torch.sign(x) * F.relu(x.abs() - 0.7), nn.Softshrink),
    "shrunk by clamp": (lambda x: x - x.clamp(-0.7, 0.7), nn.Softshrink),
    "shrunk by ramps": (lambda x: F.relu(x - 0.7) - F.relu(-x - 0.7), nn.Softshrink),
    "shrunk by where": (
        lambda x: torch.where(x > 0.7, x - 0.7, 0.0) + torch.where(x < -0.7, x + 0.7, 0.0),
        nn.Softshrink,
    ),
    "bent": (lambda x: torch.where(x > 1, 2 * x - 1, x / 2 + 0.5), nn.LeakyReLU),
    "bent the other way": (lambda x: torch.where(x < 0, 3 * x, x), nn.LeakyReLU),
    "flat above": (lambda x: torch.where(x > 2, 3.0, 2 * x - 1), nn.ReLU),
    "at most": (lambda x: torch.where(x > 1, 1.0, x), Function),
    "at least": (lambda x: torch.where(torch.tensor(1.0).to(x) > x, 1.0, x), nn.Threshold),
    "relu by a product": (lambda x: x * (x > 0), nn.ReLU),
    "relu by a number": (lambda x: (x >= 0).to(x) * x, nn.ReLU),
    "relu by a fill": (lambda x: x.masked_fill(x < 0, 0.0), nn.ReLU),
    "leaky": (lambda x: torch.maximum(x, 0.1 * x), nn.LeakyReLU),
}


class Entrywise(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("one", torch.ones(()))

    def forward(self, x):
        return self.function(x * self.one)


def slopes_of(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_one_function_with_the_slopes_that_it_reaches(name):
    written, kind = WRITTEN[name]
    exported = export(Entrywise(written).eval(), [(3,)])
    modules = [v.operation for v in exported.graph.vertices[1:]]
    assert sum(isinstance(m, kind) for m in modules) == 1
    assert all(len(v.inputs) < 2 for v in exported.graph.vertices)
    x = torch.linspace(-12, 12, 4803, dtype=torch.float64)
    points = x.reshape(-1, 3)
    assert torch.allclose(exported.network.double()(points), written(points), atol=1e-12)
    steepest = float(slopes_of(written, x).abs().max())
    found = bracket(Entrywise(written).eval(), (1,), methods=["upper_graph"], budget=5.0).upper
    assert steepest * (1 - 1e-12) <= found <= steepest * (1 + 1e-3)


ARGUMENTS = {"swish": (1.0, 0.3, -2.5), "erf_gate": (1.0, 0.2, -3.0), "logcosh": (0.0,)}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_values_and_slopes_on_intervals_hold_what_is_sampled_there(name):
    generator = torch.Generator().manual_seed(0)
    for argument in ARGUMENTS.get(name, (1.0, 0.05, 20.0)):
        function = Function(name, argument)
        low = 6 * torch.randn(300, generator=generator, dtype=torch.float64)
        high = low + 4 * torch.rand(300, generator=generator, dtype=torch.float64) ** 3
        x = low + (high - low) * torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
        found = bounded_slopes(function, Range(low, high))
        assert found is not None
        sampled = (function(x), slopes_of(function, x))
        for own, values in zip(found, sampled, strict=True):
            assert bool((own.low <= values.amin(0)).all() & (values.amax(0) <= own.high).all())
            slack = 0.2 * (high - low) + 1e-9  # sampled at steps of 1/200
            steep = 1 + 30 * abs(argument) + 1 / abs(argument or 1)
            assert bool((own.high - values.amax(0) <= steep * slack).all())
        everywhere = function_slopes(function, {})
        slopes = slopes_of(function, torch.linspace(-90, 90, 200_001, dtype=torch.float64))
        assert everywhere == slope_interval(function)
        for end, reached in zip(everywhere, (slopes.min(), slopes.max()), strict=True):
            assert float(reached) == pytest.approx(end, rel=1e-3, abs=3e-3)
        assert everywhere[0] <= float(slopes.min())
        assert float(slopes.max()) <= everywhere[1]


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x * torch.sigmoid(x + 1),  # of another argument
        lambda x: x * (2 + torch.erf(x)),
        lambda x: x / (x.abs() - 0.1),
        lambda x: torch.exp(x * x),
        lambda x: x * torch.sigmoid(x.flip(-1)),
        lambda x: F.relu(x - 0.7) - F.relu(-x - 0.6),
        lambda x: F.relu(2 * x - 0.7) - F.relu(-2 * x - 0.7),
        lambda x: F.relu(x - 0.7) + F.relu(-x - 0.7),
        lambda x: F.relu(x - 0.7) - F.relu(x - 0.7),
        lambda x: torch.sign(x) * F.relu(x.abs() + 0.7),
        lambda x: torch.sign(x.flip(-1)) * F.relu(x.abs() - 0.7),
        lambda x: x - x.clamp(-0.7, 0.6),
    ],
)
def test_what_only_looks_alike_stays_what_it_is(how):
    module = Entrywise(how).eval()
    x = 0.5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    exported = export(module, [(3,)])
    assert torch.allclose(exported.network(x), module(x), atol=1e-6)
    names = [getattr(v.operation, "name", "") for v in exported.graph.vertices]
    assert not set(names) & set(WRITTEN_OUT)
    assert not any(isinstance(v.operation, nn.Softshrink) for v in exported.graph.vertices)


def test_radial_basis_functions_have_the_constant_of_one_of_them():
    """exp(-c |x - a|^2) is steepest where |x - a| = 1 / sqrt(2 c): sqrt(2 c / e) there."""
    module = Entrywise(lambda x: torch.exp(-3 * ((x - 0.4) ** 2).sum(-1, keepdim=True))).eval()
    steepest = math.sqrt(2 * 3 / math.e)
    data = torch.full((1, 4), 0.4 + 0.5 / math.sqrt(2 * 3))
    found = bracket(module, (4,), methods=["upper_graph", "lower_jacobian"], data=data)
    assert found.lower <= steepest <= found.upper <= steepest * (1 + 1e-9)
    assert found.lower > (1 - 1e-6) * steepest


def test_an_rms_normalisation_without_eps_has_that_of_the_networks_own_type():
    """x / sqrt(x^2 + eps) of one number is steepest at 0: 1 / sqrt(eps), of float32 here."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.RMSNorm(1, elementwise_affine=False))
    nn.init.ones_(module[0].weight)
    steepest = torch.finfo(torch.float32).eps ** -0.5
    data = torch.tensor([[1e-9], [1.0]])
    found = bracket(module.eval(), (1,), methods=["upper_graph", "lower_jacobian"], data=data)
    assert found.lower <= steepest <= found.upper
    assert found.lower == pytest.approx(steepest, rel=1e-4) == found.upper
    double = bracket(module.double(), (1,), methods=["upper_graph"])
    assert double.upper == pytest.approx(torch.finfo(torch.float64).eps ** -0.5, rel=1e-6)


class OneToken(nn.Module):
    """A root-mean-square normalisation, and attention of one head whose rows have factors."""

    def __init__(self, tokens):
        super().__init__()
        self.map, self.factors = nn.Linear(6, 6), nn.Parameter(torch.rand(tokens, 1) + 0.5)

    def forward(self, x):
        x = self.map(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.01))
        return torch.softmax(self.factors * (x @ x.mT), -1) @ x


@pytest.mark.parametrize("shape", [(1, 6), (2, 6), (1, 1, 6), (1, 2, 6)])
def test_a_leading_axis_of_one_is_no_batch(shape):
    network = OneToken(shape[-2]).eval()
    found, x = export(network, [shape]), torch.randn(3, *shape)
    inputs = x.reshape(3, *found.graph.input_shape)
    torch.testing.assert_close(found.network(inputs).flatten(1), network(x).flatten(1))

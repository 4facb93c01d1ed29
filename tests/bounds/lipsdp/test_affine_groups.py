"""Factors beside the layers of a pair: as if its matrices held them, never below samples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipdescent.bounds.lipsdp.blocks import block_bound
from lipdescent.bounds.lipsdp.symbols import LinearMap
from lipdescent.bracketing.bracket import bracket
from lipdescent.layers._operators import Axis


class Factors(nn.Module):
    """``how`` of two matrices and factors (n,) between them; all of them parameters."""

    def __init__(self, how, n, k):
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(n, k), nn.Linear(k, n, bias=False)
        self.factors = nn.Parameter(torch.rand(k) + 0.5)

    def forward(self, x):
        return self.how(x, self.first, self.factors, self.second)


def sampled_norm(module, n):
    points = 3 * torch.randn(60, n, generator=torch.Generator().manual_seed(0)).double()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: module(p[None])[0]))(points)
    return float(torch.linalg.matrix_norm(jacobian.detach(), 2).max())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_layers_that_are_1_lipschitz_by_their_factors_are_bounded_by_1(seed):
    """x - 2 W' T relu(W x + b), T = 1 / sum |W W'| (Araujo et al. 2023, arXiv 2303.03169)."""

    def layer(x, first, factors, second):
        t = 1 / (first.weight @ first.weight.T).abs().sum(1)
        return x - 2 * F.linear(t * torch.relu(first(x)), first.weight.T)

    torch.manual_seed(seed)
    module = Factors(layer, 5, 8).eval()
    found = bracket(module, (5,), methods=["upper_block_lipsdp"]).upper
    assert sampled_norm(module.double(), 5) <= found <= 1 + 1e-5


HOWS = {
    "step": lambda x, f, t, g: x + 0.1 * g(torch.tanh(f(x))),
    "over": lambda x, f, t, g: x + g(torch.tanh(f(x))) / 3,
    "between": lambda x, f, t, g: x - g(t * torch.tanh(f(x))),
    "divided": lambda x, f, t, g: g(torch.tanh(f(x)) / t),
    "skip": lambda x, f, t, g: 0.5 * x + g(torch.tanh(f(3 * x) * t)),
    "alone": lambda x, f, t, g: 2 * x + 0.3 * torch.tanh(f(x)),
}


@pytest.mark.parametrize("how", HOWS)
def test_factors_go_into_the_matrices(how):
    """As of a residual block whose matrices hold them, and never below what is sampled."""
    torch.manual_seed(0)
    module = Factors(HOWS[how], 5, 5 if how == "alone" else 8).eval()
    found = bracket(module, (5,), methods=["upper_block_lipsdp"]).upper
    exact, t = module.double(), module.factors.detach()
    first, second = exact.first.weight.detach(), exact.second.weight.detach()
    one, two, skip = {
        "step": (first, 0.1 * second, 1.0),
        "over": (first, second / 3, 1.0),
        "between": (first, -second * t, 1.0),
        "divided": (first, second / t, 0.0),
        "skip": (3 * first, second * t, 0.5),
        "alone": (first, 0.3 * torch.eye(5), 2.0),
    }[how]
    maps = [LinearMap(w.double()[None, :, :, None], [Axis(1, 1, 1)]) for w in (one, two)]
    identity = LinearMap(skip * torch.eye(5).double()[None, :, :, None], [Axis(1, 1, 1)])
    slopes = torch.zeros(1).double(), torch.ones(1).double()
    wanted = block_bound(*maps, slopes, skip=identity if skip else None)
    assert found == pytest.approx(float(wanted), rel=1e-4)
    assert sampled_norm(exact, 5) <= found

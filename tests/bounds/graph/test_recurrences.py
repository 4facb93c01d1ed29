"""What is known of sums over different inputs, of gates that mix, and of roots of squares."""

import math

import pytest
import torch
from torch import nn

from lipdescent.bracketing.bracket import bracket
from lipdescent.structure.exported import plain_network


class Written(nn.Module):
    def __init__(self, how, **layers):
        super().__init__()
        self.how = how
        self.layers = nn.ModuleDict(layers)
        self.register_buffer("one", torch.ones(1))

    def forward(self, x):
        return self.how(x * self.one, **self.layers)


def upper(how, shape):
    return uppers(how, shape, norms=("l2",))["l2"]


def uppers(how, shape, norms=("l2", "l1", "linf"), **layers):
    """Norm -> bound, of a network that is exported once."""
    found = plain_network(Written(how, **layers).eval(), shape)
    asked = {"methods": ["upper_graph"], "budget": 10.0}
    return {n: bracket(found.network, found.input_shape, norm=n, **asked).upper for n in norms}


def test_parts_of_different_inputs_add_up_as_in_the_closed_form():
    """tanh(3 x) + tanh(4 y) at 0 has the gradient (3, 4)."""
    found = uppers(lambda x: torch.tanh(3 * x[:, :1]) + torch.tanh(4 * x[:, 1:2]), (3,))
    for norm, constant in {"l2": 5.0, "l1": 4.0, "linf": 7.0}.items():
        assert constant <= found[norm] <= constant * (1 + 1e-9)


def test_parts_of_different_inputs_side_by_side_have_the_largest_constant():
    how = lambda x: torch.cat([torch.sin(3 * x[:, :1]), torch.sin(4 * x[:, 1:])], 1)  # noqa: E731
    for found in uppers(how, (2,)).values():
        assert 4 <= found <= 4 * (1 + 1e-9)


def test_parts_of_the_same_inputs_add_up_as_they_are():
    how = lambda x: torch.tanh(3 * x[:, :1]) + torch.tanh(4 * x.flip(-1)[:, 1:])  # noqa: E731
    assert 7 <= upper(how, (2,)) <= 7 * (1 + 1e-9)


def test_an_unrolled_network_has_the_length_of_its_paths():
    """h = tanh(x_t + h): at 0 every dh / dx_t is 1, so the constant of 9 steps is 3."""

    def steps(x):
        h = torch.tanh(x[:, 0])
        for t in range(1, 9):
            h = torch.tanh(x[:, t] + h)
        return h

    assert 3 <= upper(steps, (9, 2)) <= 3 * (1 + 1e-9)


GATES = {
    "two products": lambda z, a, b: z * a + (1 - z) * b,
    "the difference": lambda z, a, b: (a - b) * z + b,
    "the other way round": lambda z, a, b: (1.0 - z) * a + b * z,
    "lerp": lambda z, a, b: torch.lerp(b, a, z),
}


@pytest.mark.parametrize("gate", GATES)
def test_mixtures_stay_between_what_they_mix(gate):
    """Ten mixtures of sines are within [-1, 1]; their bound grows by what the gate adds."""

    def mixed(x):
        y = torch.sin(x)
        for _ in range(10):
            y = GATES[gate](torch.sigmoid(0.01 * x), torch.sin(x), y)
        return y

    x = torch.linspace(-40, 40, 20001, requires_grad=True)
    steepest = float(torch.autograd.grad(mixed(x).sum(), x)[0].abs().max())
    found = uppers(mixed, (1,))
    # Each adds |a - b| |dz| <= 2 * 0.01 / 4; in l2 and l1 the two parts count separately, too.
    assert steepest <= min(found.values())
    assert found["linf"] <= 1 + 10 * 2 * 0.01 / 4 * (1 + 1e-9)
    assert found["l2"] <= math.sqrt(11) + 0.2


def test_a_gru_is_bounded_above_what_is_sampled():
    torch.manual_seed(0)
    gru = nn.GRU(2, 3, batch_first=True)
    how = lambda x, gru: gru(x)[0][:, -1]  # noqa: E731
    found = uppers(how, (6, 2), gru=gru)
    points = torch.randn(40, 6, 2) * torch.logspace(-2, 1, 40)[:, None, None]
    jacobians = [
        torch.autograd.functional.jacobian(lambda p: how(p[None], gru)[0], p).flatten(1)
        for p in points
    ]
    for norm, order in {"l1": 1, "linf": math.inf, "l2": 2}.items():
        largest = max(float(torch.linalg.matrix_norm(j, order)) for j in jacobians)
        assert largest <= found[norm]
    assert found["l2"] <= 1000 * largest  # a sum of products has 100 times as much


ROOTS = {
    "length": (lambda x: x.pow(2).sum(1, keepdim=True).sqrt(), 1.0, 2.0),
    "deviation": (lambda x: x.std(1, keepdim=True), 1 / math.sqrt(3), None),
    "root of the mean": (lambda x: (x**2).mean(1, keepdim=True).sqrt(), 0.5, 1.0),
    "of a part": (lambda x: (x.pow(2).sum(1, keepdim=True) / 3 + 1).sqrt(), 1 / math.sqrt(3), None),
    "smooth": (lambda x: (3 * x**2 + 0.1).sqrt(), math.sqrt(3), math.sqrt(3)),
    "squareplus": (lambda x: 0.5 * (x + torch.sqrt(x * x + 4)), 1.0, 1.0),
}


@pytest.mark.parametrize("name", ROOTS)
def test_roots_of_squares_have_the_constant_of_a_length(name):
    how, *constants = ROOTS[name]
    expected = {n: c for n, c in zip(("l2", "linf"), constants, strict=True) if c is not None}
    for norm, found in uppers(how, (4,), norms=tuple(expected)).items():
        assert expected[norm] <= found <= expected[norm] * (1 + 1e-9)

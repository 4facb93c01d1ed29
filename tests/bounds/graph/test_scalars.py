"""Functions of one number on intervals: against samples of them."""

import math
import re

import pytest
import torch
from torch import nn

from lipdescent.bounds.graph.conversion import settled
from lipdescent.bounds.graph.ranges import Range
from lipdescent.bounds.graph.scalars import bounded_slopes
from lipdescent.bracketing.bracket import bracket
from lipdescent.networks.operations import Function


@pytest.mark.parametrize("exponent", [-2.0, -0.75, 0.5001, 0.75, 1.5, 3.0])
def test_powers_of_positive_numbers_hold_what_is_sampled(exponent):
    generator = torch.Generator().manual_seed(0)
    low = 3 * torch.rand(200, generator=generator, dtype=torch.float64) + 1e-3
    high = low + torch.rand(200, generator=generator, dtype=torch.float64)
    x = low + (high - low) * torch.linspace(0, 1, 51, dtype=torch.float64)[:, None]
    found = bounded_slopes(Function("power", exponent), Range(low, high))
    assert found is not None
    for own, values in zip(found, (x**exponent, exponent * x ** (exponent - 1)), strict=True):
        assert torch.allclose(own.low, values.amin(0), rtol=1e-9)
        assert torch.allclose(own.high, values.amax(0), rtol=1e-9)
        assert bool((own.low <= values.amin(0)).all() & (values.amax(0) <= own.high).all())


def test_a_root_of_what_may_be_negative_is_not_bounded():
    span = Range(torch.tensor([-1.0]).double(), torch.tensor([2.0]).double())
    values, slopes = bounded_slopes(Function("power", 1.5), span)
    assert float(values.low) == float(slopes.low) == -math.inf


@pytest.mark.parametrize(("kind", "ends"), [(nn.Sigmoid, (0.0, 1.0)), (nn.Tanh, (-1.0, 1.0))])
def test_values_stay_within_the_limits_of_a_function(kind, ends):
    low = torch.tensor([-math.inf, -50.0, 30.0], dtype=torch.float64)
    values, _ = bounded_slopes(kind(), Range(low, torch.full_like(low, math.inf)))
    assert float(values.low.min()) >= ends[0]
    assert float(values.high.max()) == ends[1]


@pytest.mark.parametrize("number", [1, 3])
def test_a_prelu_has_its_slopes_by_itself_and_of_a_stack(number):
    layer = nn.PReLU(number)
    layer.weight.data = torch.linspace(-1.5, 0.5, number)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).expand(1, 3, 9)
    for own in (layer.double(), settled(layer, dict(layer.state_dict()))):
        found = bounded_slopes(own, Range(x, x + 0.1))
        assert found is not None
        for end in (x, x + 0.1):
            value = layer(end)
            assert bool(((found[0].low <= value) & (value <= found[0].high)).all())
        assert (float(found[1].low.min()), float(found[1].high.max())) == (-1.5, 1.0)
    net = nn.Sequential(nn.Linear(4, 3), layer.float()).eval()
    assert list(bracket(net, (4,), methods=["upper_graph"]).table.status) == ["ok"]


JUMPING = {  # the function, and where it jumps
    nn.Hardshrink(0.5): (-0.5, 0.5),
    nn.Hardshrink(-0.5): (),
    nn.Softshrink(0.5): (),
    nn.Threshold(0.25, 0.25): (),
    nn.Threshold(0.25, -1.0): (0.25,),
    nn.Threshold(0.25, 2.0): (0.25,),
    Function("sign"): (0.0,),
}


@pytest.mark.parametrize("function", JUMPING, ids=str)
def test_a_function_that_jumps_has_slopes_where_it_does_not(function):
    ends = torch.linspace(-1, 1, 17, dtype=torch.float64)
    low, high = ends.repeat_interleave(17), ends.repeat(17)
    low, high = low[low < high], high[low < high]
    values, slopes = bounded_slopes(function, Range(low, high))
    x = low + (high - low) * torch.linspace(0, 1, 161, dtype=torch.float64)[:, None]
    found = function(x)
    assert bool(((values.low <= found) & (found <= values.high)).all())
    assert bool((values.high - values.low <= found.amax(0) - found.amin(0) + 0.02).all())
    inside = torch.zeros_like(low, dtype=torch.bool)
    for place in JUMPING[function]:
        inside |= (low <= place) & (place <= high)
    assert torch.equal(slopes.size().isinf(), inside)
    quotients = found.diff(dim=0) / x.diff(dim=0)
    assert bool(((quotients >= slopes.low - 1e-9) & (quotients <= slopes.high + 1e-9)).all())


@pytest.mark.parametrize(
    ("function", "places"),
    [(nn.Hardshrink(0.5), "-0.5 and 0.5"), (nn.Threshold(-0.5, 0.0), "-0.5"), (torch.sign, "0")],
)
def test_a_jump_is_told_and_a_domain_away_from_it_has_a_constant(function, places):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.a.weight.data = torch.tensor([[3.0, 0.0], [0.0, 2.0]])

        def forward(self, x):
            return function(self.a(x))

    truth, asked = 0.0 if function is torch.sign else 3.0, {"methods": ["upper_graph"]}
    away = bracket(Own().eval(), (2,), domain="box:0.9,1", **asked)
    assert truth <= away.upper <= truth * (1 + 1e-12)
    for domain in (None, "box:-1,1"):
        table = bracket(Own().eval(), (2,), domain=domain, **asked).table
        assert table.status[0] == "not_applicable"
        said = rf"jumps at {places}: it is not Lipschitz, no constant exists; on a domain where"
        assert re.search(said, table.reason[0])


class Local(nn.Module):
    """Local response normalisation as AlexNet has it, of numbers side by side."""

    def __init__(self):
        super().__init__()
        self.inner = nn.LocalResponseNorm(3, alpha=0.5)
        self.register_buffer("one", torch.ones(1))

    def forward(self, x):
        return self.inner(x * self.one)


def test_local_response_normalisation_has_both_bounds_on_a_box():
    data = torch.rand(20, 5, 2, generator=torch.Generator().manual_seed(0))
    methods = ["upper_graph", "lower_jacobian"]
    found = bracket(Local().eval(), (5, 2), methods=methods, data=data, domain="box:0,1")
    largest = max(
        float(
            torch.linalg.matrix_norm(
                torch.autograd.functional.jacobian(Local()._modules["inner"], p[None]).reshape(
                    10, 10
                ),
                2,
            )
        )
        for p in data.double()
    )
    assert largest * (1 - 1e-6) <= found.lower <= found.upper <= 2 * largest

"""Intervals of pre-activations hold every value, exactly, and are tight where that is known."""

from fractions import Fraction

import pytest
import torch
from local_cases import chain, exact_values, network
from torch import nn

from lipdescent.bounds.local.values import chosen, values
from lipdescent.domains.domain import Ball, Box, Regions


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_sampled_value_leaves_its_interval(slope, norm):
    generator = torch.Generator().manual_seed(0)
    for seed in range(6):
        model = chain(3, 8, 9, 7, 2, slope=slope, seed=seed)
        centers = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        regions = Ball(0.3, norm, centers).regions((3,))
        known = values(network(model, 3), regions)
        at = torch.arange(4).repeat_interleave(500)
        step = torch.rand(2000, 3, generator=generator, dtype=torch.float64) - 0.5
        hidden = regions.project(centers[at] + step * 1.2, at)
        before = []
        for layer in model[:-1]:
            hidden = layer(hidden)
            if isinstance(layer, nn.Linear):
                before.append(hidden)
        z = torch.cat(before, 1)
        assert bool((known.low[at] <= z).all() & (z <= known.high[at]).all())


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_at_a_point_the_exact_value_is_held_although_much_cancels(slope):
    """Large weights, nearly equal rows: what is left is below the rounding of the terms."""
    model = chain(3, 6, 6, 6, 2, slope=slope, scale=1e6)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear) and len(layer.weight) > 3:
                layer.weight[1] = -layer.weight[0] * (1 + 2.0**-50)
                layer.bias[1] = -layer.bias[0]
    x = torch.tensor([[0.1, -0.7, 1 / 3]], dtype=torch.float64)
    known = values(network(model, 3), Regions(x, x, x))
    truth = exact_values(model, [Fraction(v) for v in x[0].tolist()])
    for low, z, high in zip(known.low[0].tolist(), truth, known.high[0].tolist(), strict=True):
        assert Fraction(low) <= z <= Fraction(high)


def test_linear_bounds_see_what_cancels():
    """relu(x + 3) - relu(x + 2) is 1 on [0, 1]: interval arithmetic says 0 to 2."""
    model = nn.Sequential(
        nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([3.0, 2.0]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model[2].bias.zero_()
    known = values(network(model, 1), Box(0.0, 1.0).regions((1,)))
    assert known.low[0, 2] == pytest.approx(1, abs=1e-12)
    assert known.high[0, 2] == pytest.approx(1, abs=1e-12)
    assert known.state()[0].tolist() == [1, 1, 1]


def test_what_is_known_of_a_larger_box_stays_known():
    model, rng = chain(2, 6, 6, 1, seed=3), torch.Generator().manual_seed(1)
    own = network(model, 2)
    box = Box(-1.0, 1.0).regions((2,))
    state = values(own, box).state()
    low = torch.rand(20, 2, generator=rng, dtype=torch.float64) - 1
    part = Regions(low, low + 0.5, low + 0.25)
    found = values(own, part, state.expand(20, -1)).state()
    assert bool((found[:, state[0] != 0] == state[0][state[0] != 0]).all())


def test_influence_is_of_the_input_that_matters():
    model = chain(3, 6, 6, 1, seed=2)
    with torch.no_grad():
        model[0].weight[:, 1:] *= 1e-3
    known = values(network(model, 3), Box(-1.0, 1.0).regions((3,)))
    assert int(known.influence.argmax()) == 0


def test_padding_is_told_apart():
    index, real = chosen(torch.tensor([[True, False, True], [False, True, False]]))
    assert real.tolist() == [[True, True], [True, False]]
    assert sorted(index[0].tolist()) == [0, 2]
    assert index[1, 0] == 1

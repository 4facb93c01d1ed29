"""Bounds on regions: above every pattern's Jacobian, exact or close where the truth is known."""

from fractions import Fraction

import pytest
import torch
from local_cases import ORDERS, chain, jacobians, network, of_all_patterns
from torch import nn

from lipdescent.bounds import upper_geolip, upper_lipsdp
from lipdescent.bounds.local import multipliers
from lipdescent.bounds.local import regions as local
from lipdescent.bounds.local.entries import largest_of_patterns, sum_norms
from lipdescent.bounds.local.multipliers import geolip, lipsdp
from lipdescent.bounds.local.row_sums import row_sums
from lipdescent.bounds.local.tangents import tangents
from lipdescent.bounds.local.values import values
from lipdescent.domains.domain import Ball, Box, Regions
from lipdescent.stacks.model_stack import ModelStack

NORMS = list(ORDERS)


def known_and_system(model, inputs, radius, seed=0):
    center = torch.randn(1, inputs, generator=torch.Generator().manual_seed(seed)).double()
    own = network(model, inputs)
    known = values(own, Ball(radius, "linf", center).regions((inputs,)))
    return own, known, tangents(own, known)


def every_bound(own, known, system, norm):
    """By name: each of the bounds alone."""
    found = {}
    if norm == "l2":
        for name, one in (("lipsdp", system), ("lipsdp of the transposed", system.turned())):
            none, unknown = torch.zeros_like(one.into), torch.full_like(one.doubt, torch.inf)
            found[name] = lipsdp(one, none, unknown, steps=60).bound
    else:
        found["geolip"] = geolip(system if norm == "linf" else system.turned(), steps=60)
        found["entries"] = sum_norms(system, norm)
        found["linear bounds"] = row_sums(own, known, norm)
    if system.hidden.shape[2] <= 10:
        found["patterns"] = largest_of_patterns(system, norm)
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("slope", "sizes"), [(0.0, (3, 5, 4, 2)), (0.2, (2, 4, 3, 3, 4))])
def test_each_bound_is_above_the_largest_of_all_patterns(norm, slope, sizes):
    for seed in range(8):
        model = chain(*sizes, slope=slope, seed=seed)
        own, known, system = known_and_system(model, sizes[0], 0.3 + 0.2 * seed)
        truth = torch.linalg.matrix_norm(of_all_patterns(model, known), ORDERS[norm]).max()
        for name, bound in every_bound(own, known, system, norm).items():
            assert float(bound) >= float(truth) * (1 - 1e-13), name
            if name == "patterns":
                assert float(bound) == pytest.approx(float(truth), rel=1e-10)


def test_forms_leave_out_only_zeros():
    _, _, system = known_and_system(chain(3, 6, 7, 5, 2), 3, 1.0)
    assert len(system.sizes) == 3
    t = torch.rand(system.into.shape, generator=torch.Generator().manual_seed(0)).double()
    for own in (system, system.turned()):
        dense = own.output @ own.output.mT + own.hidden @ torch.diag_embed(t) @ own.hidden.mT
        torch.testing.assert_close(multipliers._forms(own, t).tril(), dense.tril())


def test_lipsdp_finds_back_from_multipliers_that_prove_nothing(monkeypatch):
    """Those of the last layer so large that no common factor makes those before them suffice."""
    monkeypatch.setattr(multipliers, "_CHEAP", 0)  # as with many units: one start is tried
    _, _, system = known_and_system(chain(3, 12, 12, 3), 3, 2.0)
    assert system.hidden.shape[2] > 16
    unknown = torch.full_like(system.doubt, torch.inf)
    truth = lipsdp(system, torch.zeros_like(system.into), unknown, steps=60)
    start = truth.multipliers * torch.where(system.index >= 12, 1e3, 1.0).double()
    assert float(lipsdp(system, start, unknown, steps=60).bound) <= 1.1 * float(truth.bound)


@pytest.mark.parametrize("norm", NORMS)
def test_no_sampled_jacobian_is_above_the_bound(norm):
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        model = chain(4, 12, 12, 12, 3, seed=seed)
        center = torch.randn(2, 4, generator=generator, dtype=torch.float64)
        regions = Ball(0.2, "l2" if seed % 2 else "linf", center).regions((4,))
        bound = local.local_bounds(network(model, 4), regions, norm=norm)
        at = torch.arange(2).repeat_interleave(400)
        step = torch.rand(800, 4, generator=generator, dtype=torch.float64) - 0.5
        points = regions.project(center[at] + step, at)
        sampled = torch.linalg.matrix_norm(jacobians(model, points), ORDERS[norm])
        assert bool((sampled <= bound[at]).all())
        assert bool((bound < 20 * sampled.view(2, -1).amax(1)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_where_nothing_is_open_it_is_the_norm_of_the_jacobian(norm):
    model = chain(5, 8, 8, 4, seed=1)
    point = torch.randn(1, 5, generator=torch.Generator().manual_seed(3)).double()
    truth = float(torch.linalg.matrix_norm(jacobians(model, point), ORDERS[norm]))
    bound = float(local.local_bounds(network(model, 5), Regions(point, point, point), norm=norm))
    assert truth * (1 - 1e-14) <= bound == pytest.approx(truth, rel=1e-11)


def test_one_hidden_layer_with_all_units_open_has_the_values_of_the_whole_space():
    model = chain(6, 20, 3, seed=5)
    own = network(model, 6)
    stack, box = ModelStack.from_modules([model], (6,)), Box(-1e6, 1e6).regions((6,))
    for norm, bound in (("l2", upper_lipsdp), ("linf", upper_geolip)):
        everywhere = float(next(iter(bound.measure(stack, norms=[norm], inputs={}))).values)
        assert float(local.local_bounds(own, box, norm=norm)) == pytest.approx(everywhere, rel=0.02)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_the_exact_norm_of_what_cancels_is_held(slope):
    """All units on at a point: J is a product of matrices, here in fractions, for one output."""
    model = chain(3, 4, 4, 1, slope=slope, scale=1e5, seed=7)
    with torch.no_grad():
        for i, layer in enumerate(model):
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(1e12 * 1e4**i)
                layer.weight[-1] = -layer.weight[0] * (1 + 2.0**-48)
    row = [Fraction(v) for v in model[-1].weight[0].tolist()]
    for layer in (model[2], model[0]):
        columns = zip(*layer.weight.tolist(), strict=True)
        row = [sum(a * Fraction(b) for a, b in zip(row, c, strict=True)) for c in columns]
    point = torch.zeros(1, 3, dtype=torch.float64)
    own = network(model, 3)
    assert bool((values(own, Regions(point, point, point)).state() == 1).all())
    for norm, truth in (("linf", sum(map(abs, row))), ("l1", max(map(abs, row)))):
        bound = float(local.local_bounds(own, Regions(point, point, point), norm=norm))
        assert Fraction(bound) >= truth
    bound = float(local.local_bounds(own, Regions(point, point, point), norm="l2"))
    assert Fraction(bound) ** 2 >= sum(v * v for v in row)


def test_any_multipliers_give_a_bound():
    model = chain(3, 5, 5, 2, seed=4)
    _, known, system = known_and_system(model, 3, 1.0)
    truth = torch.linalg.matrix_norm(of_all_patterns(model, known), 2).max()
    unknown = torch.full((1,), torch.inf, dtype=torch.float64)
    for seed in range(20):
        drawn = torch.randn(system.into.shape, generator=torch.Generator().manual_seed(seed))
        found = lipsdp(system, (3 * drawn.double()).exp() * 10, unknown, steps=1 + seed % 5)
        assert float(found.bound) >= float(truth)


def test_parts_are_of_moderate_size_and_complete():
    own = network(chain(2, 300, 300, 1), 2)
    counts = torch.arange(1, 601)
    parts = local.parts(counts.argsort(), own, counts)
    assert torch.cat(parts).tolist() == list(range(600))
    assert len(parts[0]) > len(parts[-1]) >= 1


def test_too_many_open_units_are_left_without_a_bound(monkeypatch):
    own, box = network(chain(2, 5, 5, 1), 2), Box(-1.0, 1.0).regions((2,))
    monkeypatch.setattr(local, "_LARGEST", 10)
    assert float(local.local_bounds(own, box, norm="l2")) == torch.inf

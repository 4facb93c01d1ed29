"""As many points are used as fit the time that there is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable
from lipdescent.bracketing.shares import NotInBudget
from lipdescent.stacks.model_stack import ModelStack


def two_layers(inputs: int, units: int, outputs: int) -> ModelStack:
    module = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, outputs))
    return ModelStack.from_modules([module], (inputs,))


def test_a_larger_budget_repeats_the_search_more_often():
    found = [
        affordable.options("lower_search", affordable.UNLIMITED, seconds)["repeats"]
        for seconds in (0.001, 9.9, 40.0, math.inf)
    ]
    assert found == [4, 4, 20, 32]


@pytest.mark.parametrize(("outputs", "all_points"), [(3, True), (2000, False)])
def test_a_chain_with_many_outputs_gets_few_points(outputs, all_points):
    stack = two_layers(64, 64, outputs)
    points = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    count = affordable.Rate(Prover(stack), {"": points}, norm="l2").points(3.0)
    assert (count >= len(points)) == all_points
    assert (affordable.options("lower_ascent", count, 3.0) == {}) == all_points
    assert (affordable.options("lower_search", count, 3.0) == {"repeats": 4}) == all_points


def test_points_grow_with_the_time_and_there_is_at_least_one(monkeypatch):
    rate = affordable.Rate(Prover(two_layers(3, 4, 2)), {"": torch.zeros(5, 3)}, norm="l2")
    monkeypatch.setattr(affordable, "_FLOPS", 0)  # no network is quick
    monkeypatch.setattr(rate, "_seconds", lambda points: 0.5 + 0.01 * len(points))
    assert rate.points(0.0) == 1
    assert [rate.points(seconds) for seconds in (3.0, 30.0)] == [100, 1000]  # three for each


def test_what_nothing_stops_is_not_begun():
    stack = two_layers(2, 2, 5000)
    with pytest.raises(NotInBudget, match=r"a layer has 5000 units, too many for 2 s"):
        affordable.refuse("upper_lipsdp", stack, seconds=2.0)
    affordable.refuse("upper_lipsdp", stack, seconds=60.0)
    affordable.refuse("upper_layer_product", stack, seconds=0.0)


@pytest.mark.parametrize(
    ("proofs", "count"),
    [
        ([1.5, 0.01], 100),  # the first one loaded what a process needs once
        ([1.5, 1.4], 2),
        ([8.0], 1),  # so dear that it is not made again
    ],
)
def test_what_a_process_loads_once_is_no_points_cost(monkeypatch, proofs, count):
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    stack, proofs = ModelStack.from_modules([module], (3,)), iter(proofs)
    rate = affordable.Rate(Prover(stack), {"": torch.zeros(5, 3)}, norm="l2")
    assert rate.prover.links is None

    def proof(point):
        rate.proved = 1.0
        return next(proofs)

    monkeypatch.setattr(rate, "_seconds_of_a_proof", proof)
    monkeypatch.setattr(rate, "_seconds", lambda points: 0.1)
    assert rate.points(10.0) == count
    assert next(proofs, None) is None


@pytest.mark.parametrize(
    ("cost", "seconds", "refused"), [(7.2, 2.5, True), (7.2, 7.3, False), (0.0, 1e-9, False)]
)
def test_a_bound_of_points_is_not_begun_where_one_is_too_dear(monkeypatch, cost, seconds, refused):
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    stack = ModelStack.from_modules([module], (3,))
    rate = affordable.Rate(Prover(stack), {"": torch.zeros(5, 3)}, norm="l2")
    monkeypatch.setattr(affordable.Rate, "_one", cost)
    for name in ("lower_ascent", "lower_attack", "lower_convex_combinations", "lower_gaussian"):
        if refused:
            with pytest.raises(NotInBudget, match=r"takes about 7\.2 s, more than .* of 2\.5 s"):
                rate.refuse(name, seconds)
        else:
            rate.refuse(name, seconds)
    rate.refuse("lower_jacobian", 0.0)
    rate.refuse("lower_pairs", 0.0)  # of outputs alone
    rate.refuse("upper_graph", 0.0)


@pytest.mark.parametrize(("module", "refused"), [(nn.ReLU, False), (nn.Tanh, True)])
def test_a_quick_chain_is_never_refused(monkeypatch, module, refused):
    stack = ModelStack.from_modules(
        [nn.Sequential(nn.Linear(3, 4), module(), nn.Linear(4, 2))], (3,)
    )
    rate = affordable.Rate(Prover(stack), {"": torch.zeros(5, 3)}, norm="l2")
    monkeypatch.setattr(affordable.Rate, "_one", 1e9)
    found = False
    try:
        rate.refuse("lower_ascent", 1.0)
    except NotInBudget:
        found = True
    assert found is refused

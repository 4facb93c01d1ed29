"""Bounds at other points and of softmax outputs, by the way that studies take them."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
import torch
from torch import nn

from lipdescent.bounds import (
    _taken,
    exact_enumeration,
    lower_ascent,
    lower_jacobian,
    lower_pairs,
    upper_layer_product,
)
from lipdescent.bracketing.bracket import bracket
from lipdescent.bracketing.ends import best
from lipdescent.points import grid, pgd
from lipdescent.stacks.model_stack import ModelStack

F64 = torch.float64
ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1}


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Linear(widths[1], widths[2])]
        return nn.Sequential(*layers).eval()


def points(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=F64)


STACK = ModelStack.from_modules([network(2, 9, 3, seed=i) for i in range(3)], (2,))
INPUTS = {"train": points(40, 2), "test": points(15, 2, seed=1)}
LABELS = {"train": torch.arange(40) % 3, "test": torch.arange(15) % 3}


def taken(bound, name, entry, *, stack=STACK, inputs=None, norms=("l2",), seed=0):
    given = {"inputs": inputs or INPUTS, "labels": lambda: LABELS, "norms": norms, "seed": seed}
    return {
        (m.quantity, m.norm, m.split): m.values
        for m in _taken.take(bound, name, stack, entry=entry, **given)
    }


def test_a_plain_entry_is_the_bound_itself():
    found = taken(lower_jacobian, "lower_jacobian", {"norms": ["l2"]})
    wanted = lower_jacobian.measure(STACK, inputs=INPUTS, labels=LABELS)
    for m in wanted:
        assert torch.equal(found.pop((m.quantity, m.norm, m.split)), m.values)
    assert not found


@pytest.mark.parametrize("norm", ORDERS)
def test_on_a_grid_it_is_what_autograd_finds_there(norm):
    entry = {"points": "grid", "points_options": {"num_per_axis": 9}, "quantiles": [0.5]}
    found = taken(lower_jacobian, "lower_jacobian", entry, norms=[norm])
    at = grid.draw(STACK, INPUTS, num_per_axis=9)["grid"].whole()
    for i in range(3):
        one = network(2, 9, 3, seed=i).double()
        jacobians = torch.stack([torch.autograd.functional.jacobian(one, x) for x in at])
        values = torch.linalg.matrix_norm(jacobians, ord=ORDERS[norm], dim=(-2, -1))
        wanted = {"lower_jacobian": values.max(), "jacobian_norm_mean": values.mean()}
        wanted |= {"jacobian_norm_rms": values.square().mean().sqrt()}
        wanted |= {"jacobian_norm_q50": values.quantile(0.5)}
        for quantity, value in wanted.items():
            own = found[f"{quantity}@grid", norm, "grid"][i]
            torch.testing.assert_close(own, value, rtol=1e-9, atol=0)
        assert found["lower_jacobian@grid", norm, "grid"][i] <= values.max()


def test_parts_change_nothing(monkeypatch):
    entry = {"points": "grid", "points_options": {"num_per_axis": 20}}
    whole = taken(lower_jacobian, "lower_jacobian", entry)
    monkeypatch.setattr(grid, "PART_POINTS", 37)
    for key, values in taken(lower_jacobian, "lower_jacobian", entry).items():
        torch.testing.assert_close(values, whole[key], rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="jacobian_norm_q50 of 400 points"):
        taken(lower_jacobian, "lower_jacobian", entry | {"quantiles": [0.5]})


def test_several_entries_of_one_bound_have_names_of_their_own():
    near = {"bound": "lower_jacobian", "points": "gaussian_noise"}
    far = near | {"points_options": {"radius": 9.0}}
    found = taken(lower_jacobian, "near", near) | taken(lower_jacobian, "far", far)
    assert {key[0] for key in found if key[0].startswith("lower")} == {
        "lower_jacobian@near",
        "lower_jacobian@far",
    }


def test_attacked_points_are_each_models_own():
    entry = {"points": "pgd", "points_options": {"radius": 0.3}}
    found = taken(lower_jacobian, "lower_jacobian", entry)
    own = pgd.draw(STACK, INPUTS, labels=LABELS, radius=0.3)
    for split in INPUTS:
        at = own[split].whole()
        for i in range(3):
            one = next(lower_jacobian.measure(STACK[i : i + 1], inputs={"": at[i]}))
            assert found["lower_jacobian@pgd", "l2", split][i] == one.values[0]


@pytest.mark.parametrize("name", ["lower_ascent", "lower_pairs"])
@pytest.mark.parametrize("kind", ["pgd", "grid", "convex_combinations", "data"])
def test_every_set_proves_lower_bounds(name, kind):
    """At most the exact constant: two inputs, so that enumeration finds it."""
    exact = next(
        m.values for m in exact_enumeration.measure(STACK, inputs={}) if m.direction == "upper"
    )
    bound = {"lower_ascent": lower_ascent, "lower_pairs": lower_pairs}[name]
    entry = {"points": kind}
    if kind == "grid":
        entry["points_options"] = {"num_per_axis": 12}
    if kind == "convex_combinations":
        entry["points_options"] = {"num_pairs": 10}
    found = [v for key, v in taken(bound, name, entry).items() if key[0] == f"{name}@{kind}"]
    assert found
    for values in found:
        assert (values <= exact).all()
        assert (values > 0.2 * exact).all()


def test_softmax_is_between_its_bounds_and_half_the_logits():
    entry = {"outputs": ["logits", "softmax"]}
    for norm, order in ORDERS.items():
        low = taken(lower_jacobian, "lower_jacobian", entry, norms=[norm])
        high = taken(upper_layer_product, "upper_layer_product", entry, norms=[norm])
        values = low["lower_jacobian", f"{norm}_softmax", "train"]
        upper = high["upper_layer_product", f"{norm}_softmax", ""]
        assert torch.equal(2 * upper, high["upper_layer_product", norm, ""])
        assert (values <= upper).all()
        assert (low["lower_jacobian", norm, "train"] > values).all()
        for i in range(3):
            one = nn.Sequential(network(2, 9, 3, seed=i), nn.Softmax(-1)).double()
            found = [torch.autograd.functional.jacobian(one, x) for x in INPUTS["train"]]
            largest = torch.linalg.matrix_norm(torch.stack(found), ord=order, dim=(-2, -1)).max()
            assert values[i] <= largest * (1 + 1e-12)
            torch.testing.assert_close(values[i], largest, rtol=1e-5, atol=0)


def test_half_is_the_constant_of_softmax():
    """Its Jacobian's norm nears 1/2 where two logits are alike and far above the others."""
    z = torch.tensor([30.0, 30.0, 0.0, 0.0], dtype=F64)
    jacobian = torch.autograd.functional.jacobian(lambda x: x.softmax(-1), z)
    for order in ORDERS.values():
        assert torch.linalg.matrix_norm(jacobian, ord=order) == pytest.approx(0.5, rel=1e-9)
    at = 5 * points(2000, 6)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: x.softmax(-1)))(at)
    for order in ORDERS.values():
        assert torch.linalg.matrix_norm(jacobians, ord=order, dim=(-2, -1)).max() <= 0.5 + 1e-12


def test_halves_are_rounded_up():
    tiny = 2.0**-1074
    values = torch.tensor([0.0, tiny, 3 * tiny, 1.0, torch.inf], dtype=F64)
    half = _taken.halved(values)
    assert all(
        Fraction(v) >= Fraction(w) / 2
        for v, w in zip(half[:4].tolist(), values[:4].tolist(), strict=True)
    )
    assert half[0] == 0
    assert half[3] == 0.5
    assert half[4] == torch.inf


def test_softmax_has_only_the_upper_bounds_of_an_upper_bound():
    found = taken(exact_enumeration, "exact_enumeration", {"outputs": ["softmax"]})
    logits = taken(exact_enumeration, "exact_enumeration", {})
    assert {norm for _, norm, _ in found} == {"l2_softmax"}
    assert len(found) < len(logits) or len(found) == 1


def test_a_bracket_takes_what_a_configuration_says():
    model, inputs = network(2, 9, 3), {"train": INPUTS["train"]}
    methods = {
        "upper_lipsdp": {},
        "lower_jacobian": {},
        "everywhere": {
            "bound": "lower_jacobian",
            "points": "grid",
            "points_options": {"num_per_axis": 60, "low": -4.0, "high": 4.0},
        },
    }
    frame = bracket(model, (2,), data=inputs, methods=methods).table.set_index("quantity")
    assert frame.value["lower_jacobian"] <= frame.value["lower_jacobian@everywhere"]
    low, high = best(frame.reset_index())
    assert low == frame.value["lower_jacobian@everywhere"]
    assert high == frame.value["upper_lipsdp"]


def test_a_bracket_refuses_outputs_and_unknown_points():
    model = network(2, 9, 3)
    with pytest.raises(ValueError, match=r"nn\.Softmax"):
        bracket(model, (2,), methods={"lower_jacobian": {"outputs": ["softmax"]}})
    with pytest.raises(ValueError, match=r"unknown point 'grit'.*did you mean 'grid'"):
        bracket(model, (2,), methods={"lower_jacobian": {"points": "grit"}})


def test_random_pairs_are_pairs_and_all_pairs_in_the_end():
    pairs = torch.cat(list(lower_pairs.random_pairs(7, 3000, 0)), 1)
    assert (pairs[0] != pairs[1]).all()
    assert pairs.amin() == 0
    assert pairs.amax() == 6
    unordered = {tuple(sorted(pair)) for pair in pairs.T.tolist()}
    assert unordered == set(combinations(range(7), 2))


@pytest.mark.parametrize("norm", ORDERS)
def test_many_random_pairs_are_all_pairs(norm, monkeypatch):
    few = points(8, 2)
    given = {"inputs": {"": few}, "norms": [norm]}
    everything = next(lower_pairs.measure(STACK, **given)).values
    assert torch.equal(next(lower_pairs.measure(STACK, num_pairs=2000, **given)).values, everything)
    monkeypatch.setattr(lower_pairs, "_PAIRS", 10)
    assert (next(lower_pairs.measure(STACK, num_pairs=30, **given)).values <= everything).all()
    with pytest.raises(ValueError, match="num_pairs = 0"):
        next(lower_pairs.measure(STACK, num_pairs=0, **given))


@pytest.mark.parametrize("num_pairs", [None, 400])
def test_pairs_are_never_above_exact_quotients(num_pairs):
    """In rational arithmetic: weights and points are float64, so fractions."""
    model = network(2, 5, 2).double()
    stack = ModelStack.from_modules([model], (2,))
    at = points(9, 2)
    at[1] = at[0] + 2.0**-16
    exact = {}
    outputs = [_exact_outputs(model, x.tolist()) for x in at]
    for i, j in combinations(range(9), 2):
        top = [abs(a - b) for a, b in zip(outputs[i], outputs[j], strict=True)]
        gap = [abs(Fraction(a) - Fraction(b)) for a, b in zip(*at[[i, j]].tolist(), strict=True)]
        exact[i, j] = (max(top) / max(gap), sum(top) / sum(gap))
        exact[i, j] += (sum(t * t for t in top) / sum(g * g for g in gap),)
    for place, norm in enumerate(("linf", "l1", "l2")):
        options = {"inputs": {"": at}, "norms": [norm], "num_pairs": num_pairs}
        found = Fraction(float(next(lower_pairs.measure(stack, **options)).values[0]))
        largest = max(values[place] for values in exact.values())
        found = found * found if norm == "l2" else found
        assert found <= largest
        assert found >= largest * Fraction(999999, 1000000)


def _exact_outputs(model, x):
    values = list(map(Fraction, x))
    for layer in (model[0], model[2]):
        rows = layer.weight.tolist(), layer.bias.tolist()
        values = [
            sum(Fraction(w) * v for w, v in zip(row, values, strict=True)) + Fraction(b)
            for row, b in zip(*rows, strict=True)
        ]
        if layer is model[0]:
            values = [max(v, Fraction(0)) for v in values]
    return values

"""FGL and the realised lower side against brute force and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds import _patterns, exact_enumeration, upper_geolip
from lipdescent.bounds._patterns import Layer, branch_and_bound, enumerate_patterns
from lipdescent.bounds.exact_enumeration import fgl, realise
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

SMALL = settings(deadline=None, derandomize=True, max_examples=25)
ORDER = {"l2": 2, "linf": np.inf}


def stack_of(first, last, bias=None, activation=nn.ReLU) -> ModelStack:
    first, last = (torch.as_tensor(w, dtype=torch.float64) for w in (first, last))
    module = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0], bias=bias is not None),
        activation(),
        nn.Linear(last.shape[1], last.shape[0], bias=False),
    ).double()
    state = {"0.weight": first[None], "2.weight": last[None]}
    if bias is not None:
        state["0.bias"] = torch.as_tensor(bias, dtype=torch.float64)[None]
    return ModelStack(module, state, (first.shape[1],))


def random_layer(seed: int, inputs: int, units: int, outputs: int):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((units, inputs)), rng.standard_normal((outputs, units))


def brute_force(first, last, norm: str, slope: float = 0.0) -> float:
    patterns = itertools.product([slope, 1.0], repeat=len(first))
    return max(np.linalg.norm((last * np.array(s)) @ first, ord=ORDER[norm]) for s in patterns)


def dense_search(first, last, bias, norm: str) -> float:
    """Largest Jacobian norm over many points: at most the Lipschitz constant."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((2000, first.shape[1])) * 3
    masks = np.unique(points @ first.T + bias > 0, axis=0)
    return max(np.linalg.norm((last * m) @ first, ord=ORDER[norm]) for m in masks)


@pytest.mark.parametrize("max_enumerated", [14, 0])
@pytest.mark.parametrize(
    ("first", "last", "norm", "upper", "lower"),
    [
        ([[1.0], [-1]], [[1.0, 1]], "l2", 1, 1),
        ([[1.0], [-1]], [[1.0, -1]], "l2", 2, 1),  # relu(x) - relu(-x): FGL 2, constant 1
        ([[1.0], [-1]], [[1.0, -1]], "linf", 2, 1),
        ([[1.0, 1], [1, -1]], [[1.0, 1]], "linf", 2, 2),
        ([[1.0, 1], [1, -1]], [[1.0, 1]], "l2", 2, 2),
        ([[1.0, 0], [0, 1], [-1, -1]], [[1.0, 1, 1]], "linf", 2, 2),
        ([[1.0, 0], [0, 1], [-1, -1]], [[1.0, 1, 1]], "l2", 2**0.5, 2**0.5),
        ([[0.0, 0]], [[1.0]], "l2", 0, 0),
    ],
)
def test_exact_cases(first, last, norm, upper, lower, max_enumerated):
    found = fgl(stack_of(first, last), norm=norm, max_enumerated=max_enumerated)
    assert upper <= float(found[0]) <= upper * (1 + 1e-6)
    assert lower * (1 - 1e-9) <= float(found[1]) <= lower


def test_constant_network_has_no_certified_slope():
    """relu(x) - relu(-x) - relu(x + 1) + relu(-x - 1) = -1."""
    stack = stack_of([[1.0], [-1], [1], [-1]], [[1.0, -1, -1, 1]], bias=[0.0, 0, 1, -1])
    upper, lower = fgl(stack)
    assert float(upper) == pytest.approx(2)
    assert float(lower) == 0.0


@SMALL
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 4)),
    scale=st.sampled_from([1.0, 1e-20, 1e15]),
    slope=st.sampled_from([0.0, 0.25, -0.5]),
    biased=st.booleans(),
    norm=st.sampled_from(["l2", "linf"]),
)
def test_both_sides_enclose_brute_force(seed, sizes, scale, slope, biased, norm):
    first, last = random_layer(seed, *sizes)
    first = first * scale
    bias = np.random.default_rng(seed).standard_normal(len(first)) * scale if biased else None
    stack = stack_of(first, last, bias, activation=lambda: nn.LeakyReLU(slope))
    exact = brute_force(first, last, norm, slope)
    for limit in (14, 0):
        upper, lower = (float(v) for v in fgl(stack, norm=norm, max_enumerated=limit))
        assert exact * (1 - 1e-13) <= upper <= exact * (1 + 2e-6)
        assert lower <= exact * (1 + 1e-13)
    if np.linalg.matrix_rank(first / scale) == len(first):
        assert lower == pytest.approx(upper, rel=3e-6)
    if norm == "linf" and slope >= 0:
        sdp = next(upper_geolip.measure(stack, inputs={}, norms=["linf"], seed=0))
        assert upper <= float(sdp.values) * (1 + 1e-6)


@SMALL
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(["l2", "linf"]))
def test_lower_side_is_at_least_a_dense_search_in_the_plane(seed, norm):
    """More units than inputs: few patterns occur, most of the best do not."""
    first, last = random_layer(seed, 2, 6, 2)
    bias = np.random.default_rng(seed + 1).standard_normal(6)
    _, lower = fgl(stack_of(first, last, bias), norm=norm, candidates=64)
    assert float(lower) >= dense_search(first, last, bias, norm) * (1 - 1e-9)


def test_realised_points_have_the_signs():
    first, _ = random_layer(3, 3, 5, 1)
    weight, bias = torch.from_numpy(first), torch.linspace(-1, 1, 5, dtype=torch.float64)
    patterns = torch.tensor(list(itertools.product([False, True], repeat=5)))
    points = realise(patterns, weight, bias)
    found = {tuple(row) for row in (points @ weight.T + bias > 0).tolist()}
    assert len(found) == len(points)
    # Five planes in general position cut space into 1 + 5 + 10 + 10 cells.
    assert len(found) == 26


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_branch_and_bound_equals_enumeration(norm):
    for seed in range(3):
        first, last = (torch.from_numpy(w) for w in random_layer(seed, 8, 12, 3))
        layer = Layer(first, last, 0.0, 1.0)
        truth, best = enumerate_patterns(layer, norm=norm, keep=3)
        value, patterns = branch_and_bound(
            layer, norm=norm, keep=3, max_nodes=10**5, tolerance=1e-7
        )
        assert float(value) == pytest.approx(float(truth), rel=2e-7)
        assert torch.equal(patterns[0], best[0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_discarded_nodes_count(norm, monkeypatch):
    """With a bad start and a wide tolerance the best pattern is thrown away; FGL must not be."""
    first, last = (torch.from_numpy(w) for w in random_layer(1, 6, 9, 3))
    layer = Layer(first, last, 0.0, 1.0)
    truth, best = enumerate_patterns(layer, norm=norm, keep=200)
    start = best[layer.norms(best, norm) < truth / 1.2][:1]
    assert len(start)
    monkeypatch.setattr(_patterns, "_local_search", lambda layer, norm: start)
    value, _ = branch_and_bound(layer, norm=norm, keep=3, max_nodes=10**5, tolerance=0.6)
    assert float(value) >= float(truth) * (1 - 1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_local_search_finds_the_best_pattern_of_small_networks(norm):
    for seed in range(5):
        first, last = (torch.from_numpy(w) for w in random_layer(seed, 8, 10, 3))
        layer = Layer(first, last, 0.0, 1.0)
        truth, _ = enumerate_patterns(layer, norm=norm, keep=1)
        found = layer.norms(_patterns._local_search(layer, norm), norm).amax()
        assert float(found) == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_spent_budget_leaves_valid_bounds(norm):
    first, last = random_layer(5, 20, 18, 4)
    stack = stack_of(first, last)
    exact, _ = fgl(stack, norm=norm, max_enumerated=0, max_nodes=10**5)
    values = [
        fgl(stack, norm=norm, max_enumerated=0, max_nodes=nodes)[0] for nodes in (1, 100, 1000)
    ]
    assert float(values[0]) > float(exact) * (1 + 1e-5)  # the root alone is not exact
    for above, below in itertools.pairwise([*values, exact]):
        assert float(above) >= float(below) * (1 - 1e-6)


def test_measure_yields_both_sides_for_the_whole_stack():
    layers = [random_layer(seed, 6, 5, 3) for seed in range(4)]
    single = [stack_of(*layer) for layer in layers]
    state = {k: torch.cat([s.state[k] for s in single]).float() for k in single[0].state}
    stack = ModelStack(single[0].module.float(), state, (6,))
    found = list(exact_enumeration.measure(stack, inputs={}, norms=["l2", "linf"], seed=0))
    kinds = [(m.quantity, m.direction, m.norm) for m in found]
    assert kinds == [
        ("exact_enumeration", direction, norm)
        for norm in ("l2", "linf")
        for direction in ("upper", "lower")
    ]
    assert all(m.values.dtype == torch.float64 and m.values.shape == (4,) for m in found)
    for upper, lower in (found[:2], found[2:]):
        assert torch.allclose(upper.values, lower.values, rtol=1e-9)
        assert bool((upper.values >= lower.values).all())
        for i in range(4):
            exact = brute_force(*(state[k][i].double().numpy() for k in state), upper.norm)
            assert float(upper.values[i]) == pytest.approx(exact, rel=1e-12)


def test_what_does_not_fit_is_refused():
    stack = stack_of(*random_layer(0, 3, 4, 2))
    with pytest.raises(NotApplicable, match="4 hidden units, more than max_units = 3"):
        fgl(stack, max_units=3)
    with pytest.raises(NotApplicable, match="l1"):
        list(exact_enumeration.measure(stack, inputs={}, norms=["l1"], seed=0))
    with pytest.raises(NotApplicable, match="one hidden layer of ReLU"):
        fgl(stack_of(*random_layer(0, 3, 4, 2), activation=nn.Tanh))
    with pytest.raises(NotApplicable, match="slopes up to 1"):
        fgl(stack_of(*random_layer(0, 3, 4, 2), activation=lambda: nn.LeakyReLU(1.5)))
    stack.state["0.weight"][0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="infinity"):
        fgl(stack)

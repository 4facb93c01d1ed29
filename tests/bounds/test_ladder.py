"""Every lower against every upper bound on networks that are meant to be awkward."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_budgets import SMALL
from torch import nn

from lipdescent.bracketing.bracket import bracket
from lipdescent.bracketing.ends import check_order
from lipdescent.deadline import until
from lipdescent.measurement import NotApplicable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack

METHODS = {name: SMALL.get(name, {}) for name in lookup.known("bounds")}

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(-0.3),
    "gelu": nn.GELU,
    "prelu": lambda: nn.PReLU(1, -1.5),
}
FAULTS = ("none", "zero row", "zero column", "twins", "rank one", "spread", "zero")


def awkward(sizes: list[int], faults: list[str], activation: str, scale: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out, fault in zip(sizes[:-1], sizes[1:], faults, strict=False):
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(n_in, n_out, bias=seed % 2 == 0).double()
        weight = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64)
        if fault == "zero row":
            weight[0] = 0
        if fault == "zero column":
            weight[:, -1] = 0
        if fault == "twins":
            weight[-1] = -weight[0]
        if fault == "rank one":
            weight = weight[:, :1] @ weight[:1]
        if fault == "spread":
            weight *= 10.0 ** torch.linspace(-40, 40, n_out, dtype=torch.float64)[:, None]
        layer.weight.data = weight * (0.0 if fault == "zero" else 10.0**scale)
        layers += [layer, ACTIVATIONS[activation]().double()]
    return nn.Sequential(*layers[:-1]).eval()


@settings(max_examples=10)
@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=5),
    st.lists(st.sampled_from(FAULTS), min_size=4, max_size=4),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from([0, 0, -30, 30]),
    st.sampled_from(["l2", "linf", "l1"]),
    st.integers(0, 99),
)
def test_no_lower_bound_exceeds_an_upper_one(sizes, faults, activation, scale, norm, seed):
    module = awkward(sizes, faults, activation, scale, seed)
    points = torch.randn(4, sizes[0], generator=torch.Generator().manual_seed(seed)).double()
    frame = bracket(module, (sizes[0],), norm=norm, data=points, methods=METHODS).table
    check_order(frame)
    found = frame[frame.status == "ok"]
    assert found.value.notna().all()
    assert {"lower", "upper"} <= set(found.direction)


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("sizes", [[4, 7, 3], [3, 5, 6, 2]])
def test_searches_whose_time_is_over_still_give_bounds(sizes, norm):
    """At once and after some steps: lower ones below what exact and finished ones say."""
    stack = ModelStack.from_modules([awkward(sizes, ["none"] * 4, "relu", 0, 0)], (sizes[0],))
    points = torch.randn(8, sizes[0], generator=torch.Generator().manual_seed(0)).double()
    lower, upper = [0.0], [float("inf")]
    for name, steps in itertools.product(METHODS, (0, 3, 10**9)):
        bound, ticks = lookup.resolve("bounds", name), itertools.count()
        if name == "upper_local" or norm not in bound.NORMS:
            continue
        options = METHODS[name] if steps else {}  # what is over at once needs no small ones
        with until(steps, clock=lambda ticks=ticks: next(ticks)):
            try:
                found = list(
                    bound.measure(stack, inputs={"": points}, norms=[norm], seed=0, **options)
                )
            except NotApplicable:
                continue
        values = [float(m.values) for m in found if "fgl" not in m.quantity]
        sides = [m.direction for m in found if "fgl" not in m.quantity]
        assert all(value > 0 for value, side in zip(values, sides, strict=True) if side == "lower")
        lower += [value for value, side in zip(values, sides, strict=True) if side == "lower"]
        upper += [value for value, side in zip(values, sides, strict=True) if side == "upper"]
    assert 0 < max(lower) <= min(upper) <= max(upper[1:]) < float("inf")

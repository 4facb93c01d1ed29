"""The verifier finds what is wrong, and nothing in what is right."""

import mpmath
import numpy as np
import pytest
import torch
from pretend_cuda import PretendCuda

from lipdescent.architectures import mlp
from lipdescent.measuring import verifying
from lipdescent.stacks.model_stack import ModelStack


@pytest.fixture
def found(make_stack, generator):
    stack = make_stack(lambda: mlp.build(6, input_shape=(5,), num_classes=3), 1, (5,))
    inputs = {"train": torch.randn(20, 5, generator=generator)}
    return stack, inputs, verifying.ladder(stack, inputs, norm="l2")


def test_sound_bounds_pass_every_check(found):
    stack, inputs, values = found
    checks = [
        *verifying.check_order(values, norm="l2"),
        *verifying.check_rounding(stack, values),
        *verifying.check_lower(stack, inputs, values),
        *verifying.check_stored(values, dict(values), norm="l2"),
    ]
    assert len(checks) > 10
    assert all(check.holds for check in checks)


@pytest.mark.parametrize("quantity", ["upper_lipsdp", "upper_layer_product"])
def test_an_upper_bound_that_is_too_small_is_found(found, quantity):
    stack, _, values = found
    # One part in 10^12 below the certified value is below the truth for the product, whose margin
    # is smaller; LipSDP is not exact, so it has to fall below a lower bound.
    factor = 1 - 1e-12 if quantity == "upper_layer_product" else 0.5
    wrong = values | {(quantity, "upper"): values[(quantity, "upper")] * factor}
    checks = [*verifying.check_order(wrong, norm="l2"), *verifying.check_rounding(stack, wrong)]
    broken = [check for check in checks if not check.holds]
    assert broken
    assert all(quantity in check.name for check in broken)


@pytest.mark.parametrize("factor", [1 + 1e-13, 1 - 1e-8])
def test_a_lower_bound_that_is_off_is_found(found, factor):
    """Either side: above the exact norm by one part in 10^13, or further below than rounding."""
    stack, inputs, values = found
    wrong = values | {("lower_jacobian", "lower"): values["lower_jacobian", "lower"] * factor}
    (check,) = verifying.check_lower(stack, inputs, wrong)
    assert not check.holds
    assert check.name == "l2: lower_jacobian certified"


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("exact_enumeration", "upper_lipsdp"),
        ("upper_lipsdp", "upper_eclipse_fast"),
        ("upper_lipsdp", "upper_combettes_pesquet"),
        ("upper_eclipse_fast", "upper_layer_product"),
        ("upper_combettes_pesquet", "upper_layer_product"),
    ],
)
def test_neighbours_in_the_wrong_order_are_found(found, smaller, larger):
    _, _, values = found
    wrong = values | {(smaller, "upper"): values[larger, "upper"] * (1 + 1e-11)}
    broken = [c.name for c in verifying.check_order(wrong, norm="l2") if not c.holds]
    assert f"l2: {smaller} <= {larger}" in broken


def test_the_order_of_the_state_does_not_matter(found):
    stack, _, values = found
    turned = ModelStack(stack.module, dict(reversed(stack.state.items())), stack.input_shape)
    assert [c.holds for c in verifying.check_rounding(turned, values)] == [True, True]


def test_equal_bounds_may_differ_by_their_rounding(make_stack):
    """A linear network of one layer: every upper bound is the same number."""
    stack = make_stack(lambda: torch.nn.Sequential(torch.nn.Linear(7, 3)), 1, (7,))
    values = verifying.ladder(stack, {"train": torch.ones(2, 7)}, norm="l2")
    assert all(check.holds for check in verifying.check_order(values, norm="l2"))


@pytest.mark.parametrize("factor", [1.001, 1 + 2e-6, 1 - 2e-6])
def test_a_stored_value_that_differs_is_found(found, factor):
    _, _, values = found
    stored = values | {("upper_lipsdp", "upper"): factor * values[("upper_lipsdp", "upper")]}
    broken = [c for c in verifying.check_stored(values, stored, norm="l2") if not c.holds]
    assert [check.name for check in broken] == ["l2: upper_lipsdp as stored"]


def test_exact_spectral_norm():
    with mpmath.workdps(50):
        norm = verifying.exact_spectral_norm(np.outer([3.0, 4.0], [1.0, 2.0, 2.0]))
        assert abs(norm - 15) < mpmath.mpf(10) ** -40


def test_bounds_of_a_device_are_compared_as_closely_as_rounding_allows(found, monkeypatch):
    stack, inputs, values = found
    assert list(verifying.check_devices(stack, inputs, values, norm="l2")) == []  # no device here
    with PretendCuda():
        checks = list(verifying.check_devices(stack, inputs, values, norm="l2"))
    names = {check.name for check in checks}
    assert {f"l2: {name} on the GPU" for name in ("lower_jacobian", "upper_lipsdp")} <= names
    assert all(check.holds for check in checks)
    wrong = {key: value * (1 + 1e-8) for key, value in values.items()}
    with PretendCuda():
        checks = list(verifying.check_devices(stack, inputs, wrong, norm="l2"))
    assert not any(c.holds for c in checks if "upper_lipsdp" not in c.name)

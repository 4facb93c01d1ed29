"""The largest norms among many points against autograd and LAPACK."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lipdescent.bounds import lower_ascent, lower_jacobian
from lipdescent.bounds.jacobians.leading import (
    all_norms,
    all_pay,
    in_single,
    leading_norms,
    pays,
    rough_error,
    rough_norms,
)
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain

ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1}


def network(widths, generator, slope: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = nn.Linear(fan_in, fan_out).double()
        for parameter in layer.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = drawn / fan_in**0.5
        layers += [layer, nn.LeakyReLU(slope)]
    return nn.Sequential(*layers[:-1])


def reference(module: nn.Module, points: torch.Tensor, norm: str) -> torch.Tensor:
    jacobians = torch.func.vmap(torch.func.jacrev(module))(points).detach()
    return torch.linalg.matrix_norm(jacobians, ord=ORDERS[norm])


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("slope", [0.0, -7.5])
@pytest.mark.parametrize("scale", [1.0, 1e-90])
def test_the_eight_largest_are_exact_and_the_others_within_their_bound(
    norm, slope, scale, generator
):
    modules = [network((6, 40, 33, 4), generator, slope) for _ in range(3)]
    for module in modules:
        module[0].weight.data *= scale
        module[0].bias.data *= scale
    points = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    links = chain(ModelStack.from_modules(modules, (6,)))
    found = leading_norms(links, points, norm=norm)
    for index, module in enumerate(modules):
        expected = reference(module, points, norm)
        largest = expected.topk(8)
        assert torch.equal(found[index].topk(8).indices, largest.indices)
        torch.testing.assert_close(
            found[index][largest.indices], largest.values, rtol=1e-12, atol=0
        )
        one = links[index : index + 1]
        true = expected * 2.0 ** -float(links.exponents[index])
        assert ((rough_norms(one, points, norm) - true).abs() <= rough_error(one, norm)).all()


def test_where_float32_says_nothing_all_is_taken_in_float64(generator):
    """The second layer undoes the first but for 1e-6: less than float32's errors."""
    module = network((5, 64, 48, 3), generator)
    with torch.no_grad():
        module[0].bias.fill_(50.0)  # all units on
        basis = torch.linalg.qr(module[0].weight)[0]
        module[2].weight -= module[2].weight @ basis @ basis.T
        module[2].weight += 1e-6 * torch.randn(48, 64, generator=generator, dtype=torch.float64)
        module[2].bias.copy_(-module[2].weight @ module[0].bias)  # some on, by the point
    points = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    found = leading_norms(chain(ModelStack.from_modules([module], (5,))), points, norm="l2")[0]
    expected = reference(module, points, "l2")
    assert len(expected.unique()) > 30
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("slope", [0.0, -7.5, 0.3])
@pytest.mark.parametrize("widths", [(6, 40, 4), (6, 40, 33, 4), (4, 30, 20)])
@pytest.mark.parametrize("scale", [1.0, 1e-90, 1e90])
def test_all_norms_are_close_and_the_largest_exact(slope, widths, scale, generator):
    modules = [network(widths, generator, slope) for _ in range(3)]
    for module in modules:
        module[0].weight.data *= scale
        module[0].bias.data *= scale
    points = torch.randn(200, widths[0], generator=generator, dtype=torch.float64)
    links = chain(ModelStack.from_modules(modules, widths[:1]))
    found = all_norms(links, points, norms=list(ORDERS), count=20)
    for norm, index in itertools.product(ORDERS, range(3)):
        values, expected = found[norm][index], reference(modules[index], points, norm)
        largest = expected.topk(20)
        torch.testing.assert_close(values[largest.indices], largest.values, rtol=1e-12, atol=0)
        torch.testing.assert_close(values, expected, rtol=2e-5, atol=0)
        assert abs(values.mean() / expected.mean() - 1) <= 1e-6
        assert (values <= values[largest.indices].amax()).all()


@pytest.mark.parametrize("factor", [0.0, 1e-25])
def test_where_float32_underflows_all_norms_are_taken_in_float64(factor, generator):
    """Two units are on or not, whose weights are far from those that the chain is scaled by."""
    module = network((5, 40, 3), generator)
    with torch.no_grad():
        module[0].bias[:38] = -100.0
        module[0].bias[38:] = torch.tensor([0.0, 100.0 * factor])
        module[0].weight[38:] *= factor
    points = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    found = all_norms(chain(ModelStack.from_modules([module], (5,))), points, norms=["l2"])["l2"][0]
    expected = reference(module, points, "l2")
    assert factor == 0 or len(expected.unique()) > 1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("widths", [(6, 40, 4), (6, 40, 33, 4)])
def test_of_many_points_the_bound_is_exact_and_averages_are_close(widths, generator):
    module = network(widths, generator)
    points = torch.randn(1000, 6, generator=generator, dtype=torch.float64)
    stack = ModelStack.from_modules([module], (6,))
    found = lower_jacobian.measure(stack, inputs={"": points}, norms=list(ORDERS), quantiles=[0.5])
    values = {(m.quantity, m.norm): m.values.item() for m in found}
    for norm in ORDERS:
        true = reference(module, points, norm)
        largest = true.amax().item()
        assert largest * (1 - 1e-9) <= values["lower_jacobian", norm] <= largest * (1 + 1e-15)
        wanted = {
            "mean": true.mean(),
            "rms": true.square().mean().sqrt(),
            "q50": true.quantile(0.5),
        }
        for name, value in wanted.items():
            assert values[f"jacobian_norm_{name}", norm] == pytest.approx(value.item(), rel=1e-6)


def test_the_ascent_is_never_below_the_largest_norm_at_the_data(generator):
    module = network((6, 40, 33, 4), generator)
    points = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    stack = ModelStack.from_modules([module], (6,))
    for norm in ORDERS:
        options = {"inputs": {"": points}, "norms": [norm], "seed": 0}
        (ascent,) = lower_ascent.measure(stack, steps=1, populations=1, rounds=1, **options)
        data = next(iter(lower_jacobian.measure(stack, **options)))
        assert ascent.values.item() >= data.values.item()


@pytest.mark.parametrize("widths", [(6, 20, 20, 4), (6, 40, 33, 4), (6, 3, 3, 3, 9)])
@pytest.mark.parametrize("scale", [1.0, 1e-90, 1e90])
def test_norms_that_are_not_taken_are_below_and_no_candidate(widths, scale, generator):
    """Norms of points of very different sizes, so that most can be passed over."""
    modules = [network(widths, generator) for _ in range(2)]
    for module in modules:
        module[0].weight.data *= scale
        module[0].bias.data *= scale
    sizes = 10 ** (2 * torch.rand(400, 1, generator=generator, dtype=torch.float64))
    points = torch.randn(400, 6, generator=generator, dtype=torch.float64) * sizes
    links = chain(ModelStack.from_modules(modules, (6,)))
    always = torch.arange(0, 400, 37)
    found = leading_norms(links, points, norm="l2", count=20, always=always)
    for index, module in enumerate(modules):
        expected = reference(module, points, "l2")
        close = {"rtol": 1e-5 if in_single(links) else 1e-12, "atol": 0}
        largest = found[index].topk(20)
        torch.testing.assert_close(largest.values, expected.topk(20).values, **close)
        torch.testing.assert_close(largest.values, expected[largest.indices], **close)
        torch.testing.assert_close(found[index][always], expected[always], **close)
        assert (found[index] <= expected * (1 + close["rtol"])).all()
        if scale == 1 and not in_single(links):
            assert (found[index] < expected * (1 - 1e-3)).sum() > 50  # these were passed over


def test_only_where_float32_is_float32(generator):
    def of(widths):
        return chain(ModelStack.from_modules([network(widths, generator)], (6,)))

    wide, narrow, shallow = of((6, 40, 33, 4)), of((6, 20, 20, 4)), of((6, 40, 4))
    assert pays(wide, 100)
    assert all_pay(wide, 1000)
    assert all_pay(shallow, 1000)
    assert not all_pay(shallow, 999)
    assert all_pay(of((6, 10, 4)), 1000)
    assert not all_pay(of((6, 9, 4)), 1000)
    assert not all_pay(of((6, 12, 12, 4)), 1000)
    assert pays(narrow, 100)
    assert not pays(wide, 8)
    assert not pays(shallow, 100)
    assert not pays(of((6, 12, 12, 4)), 100)
    assert in_single(wide)
    assert not in_single(narrow)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not in_single(wide)
        assert not all_pay(wide, 1000)
    finally:
        torch.set_float32_matmul_precision(before)

"""The largest norms among many points against autograd and LAPACK."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lipdescent.bounds import lower_ascent, lower_jacobian
from lipdescent.bounds.jacobians.leading import leading_norms, pays, rough_error, rough_norms
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


def test_the_ascent_is_never_below_the_largest_norm_at_the_data(generator):
    module = network((6, 40, 33, 4), generator)
    points = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    stack = ModelStack.from_modules([module], (6,))
    for norm in ORDERS:
        options = {"inputs": {"": points}, "norms": [norm], "seed": 0}
        (ascent,) = lower_ascent.measure(stack, steps=1, populations=1, rounds=1, **options)
        data = next(iter(lower_jacobian.measure(stack, **options)))
        assert ascent.values.item() >= data.values.item()


def test_only_where_float32_is_float32(generator):
    links = chain(ModelStack.from_modules([network((6, 40, 33, 4), generator)], (6,)))
    assert pays(links, 100)
    assert not pays(links, 8)
    narrow, shallow = network((6, 20, 20, 4), generator), network((6, 40, 4), generator)
    for module in (narrow, shallow):
        assert not pays(chain(ModelStack.from_modules([module], (6,))), 100)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not pays(links, 100)
    finally:
        torch.set_float32_matmul_precision(before)

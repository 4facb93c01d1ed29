"""Factors of the layer product: norms of layers by singular values, sums, layers that are one."""

import math

import torch
from torch import nn

from lipdescent.networks.expressions import chain, residual
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.composition import bound
from lipdescent.structure.factors import factors
from lipdescent.structure.trace import trace


def spectral(layer):
    return float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))


def explained(module, shape):
    """(depth, name, value) of each, and their product's bound."""
    stack = ModelStack.from_modules([module.eval()], shape)
    node = trace(stack)
    found = [(depth, name, float(value)) for depth, name, value in factors(node, stack, norm="l2")]
    return found, float(bound(node, stack, norm="l2"))


def test_each_layer_has_its_norm_and_they_multiply_to_the_bound():
    net = nn.Sequential(nn.Linear(5, 4), nn.LeakyReLU(2.0), nn.Linear(4, 3))
    found, product = explained(net, (5,))
    assert [name for _, name, _ in found] == ["0 (Linear)", "1 (LeakyReLU)", "2 (Linear)"]
    values = [value for _, _, value in found]
    torch.testing.assert_close(values, [spectral(net[0]), 2.0, spectral(net[2])])
    assert math.isclose(product, math.prod(values), rel_tol=1e-12)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))

    def lipschitz_structure(self):
        return residual(chain(self.first, nn.ReLU(), self.second))


def test_a_sum_is_followed_by_its_branches():
    block, last = Block(), nn.Linear(4, 2)
    found, product = explained(nn.Sequential(block, last), (4,))
    names = [(depth, name.partition(":")[0]) for depth, name, _ in found]
    assert names == [
        (0, "sum of 2 branches"), (1, "branch 1"), (2, "0.first (Linear)"), (2, "0.<ReLU> (ReLU)"),
        (2, "0.second (Linear)"), (1, "branch 2"), (0, "1 (Linear)"),
    ]  # fmt: skip
    branch = spectral(block.first) * spectral(block.second)
    whole = [(1 + branch), branch, spectral(block.first), 1.0, spectral(block.second), 1.0]
    torch.testing.assert_close([value for *_, value in found], [*whole, spectral(last)])
    assert math.isclose(product, (1 + branch) * spectral(last), rel_tol=1e-12)


def test_linear_layers_in_a_row_are_one_factor():
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 2))
    found, product = explained(net, (3,))
    assert [name for _, name, _ in found] == [
        "0 (Linear) to 1 (Linear), one map", "2 (ReLU)", "3 (Linear)",
    ]  # fmt: skip
    both = net[1].weight.detach().double() @ net[0].weight.detach().double()
    assert math.isclose(found[0][2], torch.linalg.matrix_norm(both, 2), rel_tol=1e-9)
    assert math.isclose(product, found[0][2] * found[2][2], rel_tol=1e-12)

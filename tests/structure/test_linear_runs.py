"""Runs of linear layers against the dense matrix that autograd gives of them, and its norms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.networks.expressions import Chain
from lipdescent.networks.operations import Gather
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure import linear_runs
from lipdescent.structure.layer_constants import layer_bound
from lipdescent.structure.linear_runs import cheap_bound, run_bound, runs
from lipdescent.structure.trace import trace

ORDERS = {"l1": 1, "l2": 2, "linf": math.inf}
# Layers that are one map, the shape of their input, and how many of them are in the run.
RUNS = {
    "a pool of one number": (
        lambda: (nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(147, 5)), (3, 1, 1), 3),
    "a pool whose windows overlap": (
        lambda: (nn.AdaptiveAvgPool2d((7, 4)), nn.Flatten(), nn.Linear(56, 5)), (2, 3, 2), 3),
    "two pools": (
        lambda: (nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(50, 6)),
        (2, 3, 2), 4),
    "a pool of two axes": (
        lambda: (nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 5)), (4, 5), 4),
    "a pad": (lambda: (nn.ReplicationPad1d(3), nn.Flatten(), nn.Linear(20, 4)), (2, 4), 3),
    "copies and a constant": (
        lambda: (Gather(torch.tensor([0, 2, 2, -1, 1, 0]), 1.5), nn.Linear(6, 4)), (3,), 2),
    "three matrices": (lambda: (nn.Linear(6, 9), nn.Linear(9, 8), nn.Linear(8, 4)), (6,), 3),
    "a bottleneck": (
        lambda: (nn.Linear(9, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 8)), (9,), 2),
    "pointwise, then wide": (
        lambda: (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, stride=2, padding=1)), (3, 6, 5), 2),
    "depthwise, then pointwise": (
        lambda: (nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1),
                 nn.BatchNorm2d(6)), (4, 6, 7), 2),
    "wide, then every second": (
        lambda: (nn.Conv1d(2, 4, 5, padding=2, dilation=2), nn.Conv1d(4, 3, 1, stride=3)),
        (2, 20), 2),
    "pointwise both": (
        lambda: (nn.Conv2d(6, 2, 1, groups=2), nn.Conv2d(2, 8, 1, stride=2)), (6, 3, 4), 2),
}  # fmt: skip


def network(name: str, seed: int) -> tuple[nn.Sequential, tuple[int, ...], int]:
    torch.manual_seed(seed)
    make, shape, length = RUNS[name]
    net = nn.Sequential(*make()).eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_var, 0.1, 3)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
    return net, shape, length


def matrix(net: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(copy.deepcopy(net).double(), zero)
    return found.reshape(-1, math.prod(shape))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_norm_of_its_matrix(name):
    nets = [network(name, seed) for seed in range(2)]
    shape, length = nets[0][1:]
    stack = ModelStack.from_modules([net for net, *_ in nets], shape)
    node = trace(stack)
    ((begin, end),) = runs(node.parts)
    assert (begin, end) == (0, length)
    for norm, order in ORDERS.items():
        bound = run_bound(node.parts, stack, norm=norm)
        for i, (net, *_) in enumerate(nets):
            exact = float(torch.linalg.matrix_norm(matrix(net, shape), order))
            product = math.prod(
                float(layer_bound(layer, stack, norm=norm)[i]) for layer in node.parts
            )
            assert exact * (1 - 1e-14) <= float(bound[i])
            tight = norm != "l2" or "Conv" not in str(net)  # on a torus: below
            assert not tight or float(bound[i]) <= exact * (1 + 1e-9)
            assert float(bound[i]) <= product * (1 + 1e-9)
            alone = run_bound(node.parts, stack[i : i + 1], norm=norm)
            assert float(alone) == float(bound[i])
        torch.testing.assert_close(layer_product(stack, norm=norm), bound, rtol=0, atol=0)


def test_a_large_pool_has_no_matrix(monkeypatch):
    found = []
    for entries in (linear_runs._POOLED, 0):
        monkeypatch.setattr(linear_runs, "_POOLED", entries)
        net, shape, _ = network("two pools", 0)
        stack = ModelStack.from_modules([net], shape)
        found.append(float(run_bound(trace(stack).parts, stack, norm="l2")))
    assert found[0] == pytest.approx(found[1], rel=1e-13)


def test_where_parts_are_small_the_product_is_more():
    net, shape, _ = network("a pool of one number", 0)
    stack = ModelStack.from_modules([net], shape)
    parts = trace(stack).parts
    product = math.prod(float(layer_bound(layer, stack, norm="l2")) for layer in parts)
    assert float(run_bound(parts, stack, norm="l2")) < 0.9 * product


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9)), (4, 5, 5)),  # larger as one
        ((nn.Flatten(), nn.Linear(16, 3)), (4, 2, 2)),
        ((nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 4)), (5,)),
        ((nn.Linear(5, 9), nn.Linear(9, 4)), (3, 5)),  # row by row
        ((nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)), (2, 8, 8)),
        ((nn.Conv2d(2, 3, 1, padding=1), nn.Conv2d(3, 2, 3)), (2, 8, 8)),
        ((nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular")), (2, 8, 8)),
        ((nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(3, 2, 1)), (2, 8, 8)),
        ((nn.AdaptiveMaxPool2d(7), nn.Flatten(), nn.Linear(49, 3)), (1, 2, 2)),
    ],
)
def test_what_does_not_pay_or_is_not_linear_is_no_run(layers, shape):
    stack = ModelStack.from_modules([nn.Sequential(*layers).eval()], shape)
    node = trace(stack)
    assert isinstance(node, Chain)
    assert runs(node.parts) == []


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e150, 1e300])
def test_weights_at_the_ends_of_the_range(factor):
    """As many digits as float64 has there: the truth is scaled, the weights are not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(16, 3)).double().eval()
    exact = float(torch.linalg.matrix_norm(matrix(net, (2, 2)), 2))
    with torch.no_grad():
        net[2].weight *= factor
    stack = ModelStack.from_modules([net], (2, 2))
    bound = float(layer_product(stack))
    assert exact * (1 - 1e-12) * factor <= bound <= exact * (1 + 1e-9) * factor


def test_an_overflow_on_the_way_leaves_the_product():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double().eval()
    with torch.no_grad():  # what one gives the other leaves out
        net[0].weight[:] = torch.tensor([1e200, 0.0], dtype=torch.float64).diag()
        net[1].weight[:] = net[0].weight.flip(0, 1)
    assert float(layer_product(ModelStack.from_modules([net], (2,)))) == math.inf


def test_a_cheap_bound_is_above_the_norm():
    net, shape, _ = network("three matrices", 0)
    stack = ModelStack.from_modules([net], shape)
    for layer in trace(stack).parts:
        assert float(cheap_bound(layer, stack)) >= float(layer_bound(layer, stack, norm="l2"))


def test_rounding_through_a_run_is_proved():
    """Outputs of float64 against those of the same weights in longer numbers."""
    torch.manual_seed(0)
    layers = nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(98, 4), nn.ReLU(), nn.Linear(4, 3)
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), *layers).eval()
    stack = ModelStack.from_modules([net], (1, 2, 2))
    prover = Prover(stack)
    assert len(prover.forward.runs) == 1
    points = torch.randn(1, 3, 1, 2, 2, dtype=torch.float64)
    proved = prover.certify(points, norm="l2")[0]
    double = copy.deepcopy(net).double()
    for point, found in zip(points[0], proved, strict=True):
        jacobian = torch.autograd.functional.jacobian(double, point[None]).reshape(3, 4)
        exact = float(torch.linalg.matrix_norm(jacobian, 2))
        assert 0.9 * exact <= float(found) <= exact * (1 + 1e-2)
    outputs, error = prover.forward(0, points[0])
    a = points[0] + 1e-3
    apart, slack = prover.precise.difference(0, points[0], a, digits=90)
    plain = outputs - prover.forward(0, a)[0]
    assert bool(((plain - apart).norm(dim=1) <= 2 * error + slack).all())
    assert float(error.max()) < 1e-12

"""LipSDP against cvxpy's solution of the published SDP, enumeration, closed forms, invariances."""

from __future__ import annotations

import math
from itertools import product

import cvxpy as cp
import lipsdp_optimum
import pytest
import torch
from chains import chain, gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds.lipsdp.deep import deep_lipsdp
from lipdescent.bounds.lipsdp.shallow import shallow_lipsdp
from lipdescent.bounds.upper_combettes_pesquet import combettes_pesquet
from lipdescent.bounds.upper_eclipse_fast import eclipse_fast
from lipdescent.bounds.upper_lipsdp import lipsdp, measure
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

FEW = settings(deadline=None, derandomize=True, max_examples=10)
RELU = (0.0, 1.0)


def lipsdp_alone(weights, *, slopes=RELU, tolerance=1e-3, max_steps=60) -> float:
    """The value without the minimum over other bounds."""
    layers = [w.double()[None] for w in weights]
    options = {"tolerance": tolerance, "max_steps": max_steps}
    if len(layers) == 2:
        return float(shallow_lipsdp(*layers, slopes=slopes, **options))
    return float(deep_lipsdp(layers, [slopes] * (len(layers) - 1), **options))


def sdp(weights: list[torch.Tensor], slopes: tuple[float, float] = RELU) -> float:
    problem, square = lipsdp_optimum.problem(weights, slopes)
    problem.solve(solver=cp.CLARABEL)
    assert problem.status == "optimal"
    return math.sqrt(square.value)


def all_patterns(weights: list[torch.Tensor], slopes: tuple[float, float] = RELU) -> float:
    """Largest Jacobian norm over all activation patterns."""
    largest = 0.0
    for pattern in product(slopes, repeat=sum(len(w) for w in weights[:-1])):
        slope = torch.tensor(pattern, dtype=torch.float64)
        jacobian, used = weights[0], 0
        for weight in weights[1:]:
            part = slope[used : used + len(jacobian), None]
            jacobian, used = weight @ (part * jacobian), used + len(part)
        largest = max(largest, float(torch.linalg.matrix_norm(jacobian, 2)))
    return largest


@pytest.mark.parametrize("slopes", [RELU, (0.1, 1.0), (-0.13, 1.13), (-0.9, 0.3)])
@pytest.mark.parametrize(
    "sizes", [[6, 8, 3], [4, 20, 1], [9, 3, 5], [5, 6, 7, 3], [4, 5, 3, 6, 2], [10, 12, 12, 12, 4]]
)
def test_reaches_the_optimum_of_the_sdp(sizes: list[int], slopes: tuple[float, float]) -> None:
    weights = gaussian(sizes, seed=len(sizes))
    optimum = sdp(weights, slopes)
    tight = lipsdp_alone(weights, slopes=slopes, tolerance=1e-5, max_steps=200)
    assert optimum * (1 - 1e-5) <= tight <= optimum * (1 + 2e-5)
    plain = lipsdp_alone(weights, slopes=slopes)
    assert optimum * (1 - 1e-5) <= plain <= optimum * (1 + 1e-3)


@FEW
@given(
    st.sampled_from([[3, 6, 2], [1, 7, 1], [7, 5, 4], [3, 4, 3, 2], [2, 3, 3, 2, 3]]),
    st.sampled_from([RELU, (0.3, 1.0), (-0.13, 1.13)]),
    st.integers(0, 99),
)
def test_order_of_the_bounds(sizes, slopes, seed) -> None:
    weights = gaussian(sizes, seed)
    exact = all_patterns(weights, slopes)
    value = float(lipsdp(weights, slopes=slopes))
    net = chain(weights, slopes)
    eclipse, pesquet = float(eclipse_fast(net)), float(combettes_pesquet(net))
    assert exact <= lipsdp_alone(weights, slopes=slopes)
    assert exact <= value <= min(eclipse, pesquet)
    assert max(eclipse, pesquet) <= float(net.product()) * (1 + 1e-15)
    if len(weights) == 2:
        assert lipsdp_alone(weights, slopes=slopes, tolerance=1e-5) <= pesquet * (1 + 2e-5)


def test_valid_at_every_iterate() -> None:
    for sizes in ([4, 9, 3], [3, 4, 4, 2]):
        weights = gaussian(sizes, seed=5)
        exact = all_patterns(weights)
        values = [lipsdp_alone(weights, max_steps=k) for k in range(8)]
        assert min(values) >= exact
        assert values[7] < values[0]


def test_closed_forms() -> None:
    up, add, subtract = torch.tensor([[1.0], [-1.0]]), torch.ones(1, 2), torch.tensor([[1.0, -1.0]])
    assert float(lipsdp([up, add])) == pytest.approx(1.0, rel=1e-12)
    assert lipsdp_alone([up, add], tolerance=1e-6) == pytest.approx(1.0, rel=1e-6)
    assert float(lipsdp([up, subtract])) == pytest.approx(2.0, rel=1e-12)
    # relu(x) - relu(-x) - relu(x + 1) + relu(-x - 1) is constant, its patterns reach 2.
    constant = [up.repeat(2, 1), torch.tensor([[1.0, -1.0, -1.0, 1.0]])]
    assert all_patterns([w.double() for w in constant]) == pytest.approx(2.0)
    assert 2 <= float(lipsdp(constant)) <= 2 * (1 + 1e-12)
    (weight,) = gaussian([5, 3])
    truth = float(torch.linalg.matrix_norm(weight, 2))
    assert float(lipsdp([weight])) == pytest.approx(truth, rel=1e-13)
    assert float(lipsdp([weight.float().zero_(), torch.ones(2, 3)])) == 0.0


def test_deep_linear_network_has_the_norm_of_the_product() -> None:
    weights = gaussian([6, 5, 7, 3])
    net = nn.Sequential(*(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)).double()
    for layer, weight in zip(net, weights, strict=True):
        layer.weight.data = weight
    (row,) = measure(ModelStack.from_modules([net], (6,)))
    truth = float(torch.linalg.matrix_norm(weights[2] @ weights[1] @ weights[0], 2))
    assert truth * (1 - 1e-15) <= float(row.values[0]) <= truth * (1 + 1e-12)


def rescaled(weights):
    factors = torch.tensor([1e-3, 1.0, 7.0, 1e4], dtype=torch.float64).repeat(9)[: len(weights[0])]
    return [weights[0] * factors[:, None], weights[1] / factors, *weights[2:]]


def permuted(weights):
    order = torch.randperm(len(weights[0]), generator=torch.Generator().manual_seed(1))
    return [weights[0][order], weights[1][:, order], *weights[2:]]


def split(weights):
    first = torch.cat([weights[0], weights[0][:1]])
    second = torch.cat([weights[1], 0.3 * weights[1][:, :1]], 1)
    second[:, 0] *= 0.7
    return [first, second, *weights[2:]]


def with_dead_units(weights):
    """Three units that nothing leaves, two that nothing enters."""
    first = torch.cat([weights[0], 50 * weights[0][:3], torch.zeros_like(weights[0][:2])])
    dead = torch.zeros_like(weights[1][:, :3]), 50 * torch.ones_like(weights[1][:, :2])
    return [first, torch.cat([weights[1], *dead], 1), *weights[2:]]


def scaled_by(power: float):
    return lambda weights: [weights[0] * 10.0**power, weights[1] / 10.0**power, *weights[2:]]


@pytest.mark.parametrize("sizes", [[5, 8, 3], [5, 8, 6, 3]])
@pytest.mark.parametrize(
    "change",
    [rescaled, permuted, split, with_dead_units, scaled_by(-150), scaled_by(100), scaled_by(150)],
)
def test_the_function_counts_not_its_parameters(sizes, change) -> None:
    weights = gaussian(sizes, seed=3)
    value = lipsdp_alone(weights, tolerance=1e-5, max_steps=200)
    same = lipsdp_alone(change(weights), tolerance=1e-5, max_steps=200)
    assert same == pytest.approx(value, rel=3e-5)


def test_stack_of_models_and_leading_axes() -> None:
    for sizes in ([7, 16, 3], [4, 5, 6, 3]):
        nets = [gaussian(sizes, seed) for seed in range(6)]
        nets[2][0].zero_()
        nets[4] = [w * 1e-30 for w in nets[4]]
        stacked = [torch.stack(layer) for layer in zip(*nets, strict=True)]
        together = lipsdp([w.reshape(2, 3, *w.shape[1:]) for w in stacked])
        assert together.shape == (2, 3)
        alone = torch.stack([lipsdp(net) for net in nets])
        assert torch.allclose(together.flatten(), alone, rtol=1e-3, atol=0)
        assert float(alone[2]) == 0.0


def test_wide_network_in_float32_state_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (w.float() for w in gaussian([40, 3000, 10]))
    value = float(lipsdp([first, second]))
    # Gaussian weights: the dual value of the SDP at X built from the primal solution is close.
    tight = float(lipsdp([first, second], tolerance=2e-5))
    assert tight <= value <= tight * (1 + 1e-3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_measure_and_mistakes() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))
    stack = ModelStack.from_modules([net, net], (2, 3))
    (row,) = measure(stack, inputs={}, norms=["l2"], seed=0, tolerance=1e-4)
    assert (row.quantity, row.direction, row.norm, row.split) == ("upper_lipsdp", "upper", "l2", "")
    assert (row.values.shape, row.values.dtype) == ((2,), torch.float64)
    weights = [net[i].weight.detach().double() for i in (1, 3)]
    optimum = sdp(weights, (-0.1289041452, 1.1289041452))
    assert float(row.values[0]) == pytest.approx(optimum, rel=2e-4)
    with pytest.raises(NotApplicable, match="linf"):
        list(measure(stack, norms=["linf"]))
    with pytest.raises(ValueError, match=r"tolerance = 2\.0"):
        list(measure(stack, tolerance=2.0))
    with pytest.raises(ValueError, match="max_steps = -1"):
        list(measure(stack, max_steps=-1))
    with pytest.raises(ValueError, match="do not fit"):
        lipsdp(gaussian([3, 4, 2])[::-1])
    with pytest.raises(ValueError, match="a < b"):
        lipsdp(gaussian([3, 4, 2]), slopes=(1.0, 1.0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        lipsdp([torch.full((3, 4), math.nan), torch.ones(2, 3)])

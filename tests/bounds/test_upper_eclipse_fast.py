"""ECLipsE-Fast against a plain dense version of its recursion, closed forms and the product."""

from __future__ import annotations

import math

import pytest
import torch
from chains import chain, gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds import upper_eclipse_fast
from lipdescent.bounds.upper_eclipse_fast import eclipse_fast, measure
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import AffineChain

FEW = settings(deadline=None, derandomize=True, max_examples=25)


def dense_relu(weights: list[torch.Tensor]) -> float:
    """X_0 = I, l_i = 2 / |W_i X^-1 W_i^T|, X_i = l_i I - l_i^2 W_i X^-1 W_i^T / 4."""
    x = torch.eye(weights[0].shape[1], dtype=torch.float64)
    for weight in weights[:-1]:
        gram = weight @ torch.linalg.inv(x) @ weight.T
        scale = 2 / torch.linalg.matrix_norm(gram, 2)
        x = scale * torch.eye(len(weight), dtype=torch.float64) - scale**2 * gram / 4
    last = weights[-1] @ torch.linalg.inv(x) @ weights[-1].T
    return math.sqrt(float(torch.linalg.matrix_norm(last, 2)))


@FEW
@given(st.lists(st.integers(1, 7), min_size=3, max_size=6), st.integers(0, 99))
def test_equals_the_dense_recursion(sizes: list[int], seed: int) -> None:
    weights = gaussian(sizes, seed)
    value, truth = float(eclipse_fast(chain(weights))), dense_relu(weights)
    assert truth * (1 - 1e-12) <= value <= truth * (1 + 1e-9)


@FEW
@given(
    st.lists(st.integers(1, 7), min_size=3, max_size=5),
    st.sampled_from([(0.2, 1.0), (-0.13, 1.13), (-1.0, 0.3), (-1.0, 1.0), (0.0, 0.25)]),
    st.integers(0, 99),
)
def test_other_slopes_lie_between_sampled_jacobians_and_the_product(sizes, slopes, seed) -> None:
    weights = gaussian(sizes, seed)
    value = float(eclipse_fast(chain(weights, slopes)))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        jacobian = weights[0]
        for weight in weights[1:]:
            coin = torch.rand(len(jacobian), 1, generator=generator, dtype=torch.float64) < 0.5
            jacobian = weight @ (torch.where(coin, *map(torch.tensor, slopes)).double() * jacobian)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= value * (1 + 1e-12)
    assert value <= float(chain(weights, slopes).product())


def test_absolute_value_and_identity() -> None:
    up, add, subtract = torch.tensor([[1.0], [-1.0]]), torch.ones(1, 2), torch.tensor([[1.0, -1.0]])
    assert float(eclipse_fast(chain([up, add]))) == pytest.approx(math.sqrt(2), rel=1e-12)
    assert float(eclipse_fast(chain([up, subtract]))) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("sizes", [[5, 30, 3], [5, 8, 9, 3]])
@pytest.mark.parametrize("scale", [1e-150, 1e-60, 1e60, 1e150])
def test_scaling_one_layer_against_the_other_changes_nothing(sizes, scale: float) -> None:
    first, *middle, last = gaussian(sizes)
    value = float(eclipse_fast(chain([first, *middle, last])))
    scaled = float(eclipse_fast(chain([first * scale, *middle, last / scale])))
    assert scaled == pytest.approx(value, rel=1e-9)
    assert float(eclipse_fast(chain([first * 0, *middle, last]))) == 0.0


def test_stack_is_the_same_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [gaussian([6, 9, 7, 2], seed) for seed in range(5)]
    alone = torch.cat([eclipse_fast(chain(net)) for net in nets])
    stacked = [torch.stack(layer) for layer in zip(*nets, strict=True)]
    none = torch.zeros(5, dtype=torch.float64)
    together = AffineChain(stacked, [], [(0.0, 1.0)] * 2, [none] * 3)
    assert torch.allclose(eclipse_fast(together), alone, rtol=1e-10, atol=0)
    monkeypatch.setattr(upper_eclipse_fast, "_ENTRIES", 1)
    assert torch.allclose(eclipse_fast(together), alone, rtol=1e-10, atol=0)


def test_measure_and_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    stack = ModelStack.from_modules([net], (6,))
    (row,) = measure(stack, inputs={}, norms=["l2"], seed=0)
    weights = [net[i].weight.detach().double() for i in (0, 2, 4)]
    assert (row.quantity, row.direction, row.norm) == ("upper_eclipse_fast", "upper", "l2")
    assert float(row.values[0]) == pytest.approx(dense_relu(weights), rel=1e-9)
    with pytest.raises(NotApplicable, match="linf"):
        list(measure(stack, inputs={}, norms=["linf"], seed=0))
    monkeypatch.setattr(upper_eclipse_fast, "MAX_SIZE", 10)
    with pytest.raises(NotApplicable, match="15 inputs and hidden units"):
        list(measure(stack, inputs={}, norms=["l2"], seed=0))

"""Combettes-Pesquet against its defining sum over all cuts, closed forms and the layer product."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from chains import chain, gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds.upper_combettes_pesquet import combettes_pesquet, measure
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import affine_chain

FEW = settings(deadline=None, derandomize=True, max_examples=25)


def sum_over_cuts(weights: list[torch.Tensor], slopes: tuple[float, float]) -> float:
    middle, radius = abs(sum(slopes)) / 2, (slopes[1] - slopes[0]) / 2
    total = 0.0
    for cuts in product([False, True], repeat=len(weights) - 1):
        term, piece = 1.0, weights[0]
        for cut, weight in zip(cuts, weights[1:], strict=True):
            if cut:
                term, piece = term * radius * float(torch.linalg.matrix_norm(piece, 2)), weight
            else:
                term, piece = term * middle, weight @ piece
        total += term * float(torch.linalg.matrix_norm(piece, 2))
    return total


@FEW
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=6),
    st.sampled_from([(0.0, 1.0), (0.1, 1.0), (-0.13, 1.13), (-1.0, 0.2)]),
    st.integers(0, 99),
)
def test_recursion_equals_the_sum_over_all_cuts(sizes, slopes, seed) -> None:
    weights = gaussian(sizes, seed)
    value = float(combettes_pesquet(chain(weights, slopes)))
    truth = sum_over_cuts(weights, slopes)
    assert truth * (1 - 1e-14) <= value <= truth * (1 + 1e-11)
    assert value <= float(chain(weights, slopes).product()) * (1 + 1e-11)


def test_absolute_value_identity_and_linear_networks() -> None:
    up, add, subtract = torch.tensor([[1.0], [-1.0]]), torch.ones(1, 2), torch.tensor([[1.0, -1.0]])
    assert float(combettes_pesquet(chain([up, add]))) == pytest.approx(1.0, rel=1e-13)
    assert float(combettes_pesquet(chain([up, subtract]))) == pytest.approx(2.0, rel=1e-13)
    weights = gaussian([5, 4, 3])
    net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)).double()
    net[0].weight.data, net[1].weight.data = weights
    value = float(combettes_pesquet(affine_chain(ModelStack.from_modules([net], (5,)))))
    truth = float(torch.linalg.matrix_norm(weights[1] @ weights[0], 2))
    assert truth * (1 - 1e-15) <= value <= truth * (1 + 1e-13)


@pytest.mark.parametrize("scale", [1e-150, 1e-80, 1e80, 1e150])
def test_scaling_one_layer_against_the_other_changes_nothing(scale: float) -> None:
    first, second, third = gaussian([5, 8, 8, 3])
    value = float(combettes_pesquet(chain([first, second, third])))
    scaled = float(combettes_pesquet(chain([first * scale, second, third / scale])))
    assert scaled == pytest.approx(value, rel=1e-12)
    assert float(combettes_pesquet(chain([first * 0, second, third]))) == 0.0


def test_many_layers_and_measure() -> None:
    weights = gaussian([4] * 31)
    assert 0 < float(combettes_pesquet(chain(weights))) <= float(chain(weights).product())
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    stack = ModelStack.from_modules([net, net], (6,))
    (row,) = measure(stack, inputs={}, norms=["l2"], seed=0)
    assert (row.quantity, row.direction, row.norm) == ("upper_combettes_pesquet", "upper", "l2")
    assert (row.values.shape, row.values.dtype) == ((2,), torch.float64)
    weights = [net[0].weight.detach().double(), net[2].weight.detach().double()]
    assert float(row.values[0]) == pytest.approx(sum_over_cuts(weights, (0.0, 1.0)), rel=1e-12)

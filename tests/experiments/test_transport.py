"""Distances of finite samples against closed forms and a linear program; what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from lipdescent.experiments import generated_distances
from lipdescent.experiments._fitting import certified, minimise
from lipdescent.experiments._transport import dual_estimate, exact_distance
from lipdescent.stacks.model_stack import ModelStack


def samples(count, dimension):
    random = torch.Generator().manual_seed(count + dimension)
    return torch.randn(2, count, dimension, generator=random)


def by_linear_program(first, second):
    """All plans between points of equal weight."""
    cost = np.linalg.norm(first[:, None] - second[None], axis=2)
    n = len(first)
    rows = np.kron(np.eye(n), np.ones(n))
    columns = np.kron(np.ones(n), np.eye(n))
    weights = np.full(2 * n, 1 / n)
    return linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=weights).fun


def linear(weight, bias=0.0):
    """A critic x -> weight x + bias."""
    layer = nn.Linear(len(weight), 1).double()
    layer.weight.data = torch.tensor([weight], dtype=torch.float64)
    layer.bias.data = torch.tensor([bias], dtype=torch.float64)
    return ModelStack.from_modules([nn.Sequential(layer)], (len(weight),))


def test_on_a_line_the_sorted_points_are_matched():
    first, second = samples(9, 1).double()
    expected = (first.flatten().sort().values - second.flatten().sort().values).abs().mean()
    found = exact_distance(first, second)
    assert expected <= found <= expected * (1 + 1e-13)


@pytest.mark.parametrize(("count", "dimension"), [(1, 3), (5, 2), (12, 4)])
def test_a_matching_is_as_cheap_as_any_plan(count, dimension):
    first, second = samples(count, dimension).double()
    expected = by_linear_program(first.numpy(), second.numpy())
    assert exact_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_a_sample_shifted_as_a_whole_is_as_far_as_the_shift():
    first = samples(20, 3)[0].double()
    found = exact_distance(first, first + torch.tensor([3.0, 0.0, 4.0]))
    assert 5 <= found <= 5 + 1e-12
    critic = linear([-0.6 * (1 - 1e-12), 0.0, -0.8 * (1 - 1e-12)], bias=7.0)
    estimate = dual_estimate(critic, first, first + torch.tensor([3.0, 0.0, 4.0])).item()
    assert 5 - 1e-10 <= estimate <= 5


def test_critics_stay_below_the_exact_distance_with_samples_of_any_size():
    first, second = samples(8, 2)
    critics = minimise(
        generated_distances._critics([0, 1], 2, 16, "MaxMin"),
        lambda forward, step: (
            forward(second.expand(2, -1, -1)).mean(1) - forward(first.expand(2, -1, -1)).mean(1)
        )[:, 0],
        steps=200,
        learning_rate=0.02,
    )
    found = dual_estimate(certified(critics), first, second)
    exact = exact_distance(first, second)
    assert (found <= exact).all()
    assert (found > 0.9 * exact).all()
    assert dual_estimate(certified(critics), first[:3], second).isfinite().all()


def test_what_is_refused():
    first, second = samples(4, 2)
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 2\): allowed are as many points"):
        exact_distance(first, second[:3])
    with pytest.raises(ValueError, match="empty samples"):
        exact_distance(first[:0], second[:0])
    with pytest.raises(ValueError, match=r"critic 0 has a certified constant of 1\.0"):
        dual_estimate(linear([0.6, math.nextafter(0.8, 1) + 1e-9]), first, second)
    with pytest.raises(ValueError, match="contains NaN or inf"):
        dual_estimate(linear([math.nan, 0.0]), first, second)
    with pytest.raises(ValueError, match="num_points = 701: allowed are 1 to 700, half of digits"):
        generated_distances.load("digits", 701)
    with pytest.raises(ValueError, match="images = 'faces': allowed are digits, fashion_mnist"):
        generated_distances.load("faces", 1)
    with pytest.raises(ValueError, match=r"looks = \[3, 1\]: allowed is an increasing list"):
        generated_distances.run(looks=[3, 1])
    with pytest.raises(ValueError, match=r"the estimate 2\.0 exceeds the exact distance 1\.0"):
        generated_distances._check(2.0, 1.0, "digits")

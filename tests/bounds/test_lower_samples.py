"""Lower bounds over convex combinations, Gaussian points and pairs of points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds import lower_convex_combinations, lower_gaussian, lower_jacobian, lower_pairs
from lipdescent.measurement import NotApplicable
from lipdescent.points import gaussian
from lipdescent.points.convex_combinations import combinations
from lipdescent.stacks.model_stack import ModelStack

ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1}
MODULES = (lower_convex_combinations, lower_gaussian, lower_pairs)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network(*widths: int, seed: int = 0, activation=nn.ReLU) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(widths[0], widths[1]), activation(), nn.Linear(widths[1], widths[2])
        )
    return module


STACK = ModelStack.from_modules([network(5, 9, 3, seed=i) for i in range(3)], (5,))
SMOOTH = ModelStack.from_modules([network(5, 9, 3, activation=nn.Tanh)], (5,))


def values(module, stack, points, norm="l2", **options) -> torch.Tensor:
    measured = list(module.measure(stack, inputs={"test": points}, norms=[norm], **options))
    assert len(measured) == 1
    assert measured[0].quantity == module.__name__.rsplit(".", 1)[1]
    assert (measured[0].split, measured[0].norm) == ("test", norm)
    assert measured[0].direction == "lower"
    return measured[0].values


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("stack", [STACK, SMOOTH], ids=["chain", "smooth"])
def test_pairs_against_all_quotients(norm, stack):
    points = draw(40, 5)
    points[7] = points[3]  # copies have no quotient
    points[9] = points[8] + 1e-6  # and close pairs must be exact
    outputs = stack.to(dtype=torch.float64)(points)
    top = torch.linalg.vector_norm(outputs[:, :, None] - outputs[:, None], ord=ORDERS[norm], dim=-1)
    bottom = torch.linalg.vector_norm(points[:, None] - points, ord=ORDERS[norm], dim=-1)
    expected = (top / torch.where(bottom > 0, bottom, torch.inf)).amax((1, 2))
    found = values(lower_pairs, stack, points, norm)
    assert (found <= expected * (1 + 1e-15)).all()
    assert (found >= expected * (1 - 1e-7)).all()


def test_pairs_in_blocks(monkeypatch):
    points = draw(30, 5)
    whole = values(lower_pairs, STACK, points)
    monkeypatch.setattr(lower_pairs, "_CHUNK", 90)
    assert torch.equal(values(lower_pairs, STACK, points), whole)


@given(st.integers(0, 50), st.floats(1e-12, 1.0))
def test_pairs_below_the_exact_constant(seed, distance):
    """f(x) = |x_1| + 2 |x_2| has the constant sqrt 5; close pairs are dominated by rounding."""
    module = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    module[0].weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    module[2].weight.data = torch.tensor([[1.0, 1, 2, 2]])
    stack = ModelStack.from_modules([module], (2,))
    points = draw(1, 2, seed=seed) + distance * draw(6, 2, seed=seed + 1)
    assert values(lower_pairs, stack, points) <= 5**0.5


def test_combinations_are_combinations():
    points = draw(11, 5)
    mixed = torch.cat(list(combinations(points, num_pairs=40, lambdas=[0.2], seed=3)))
    assert mixed.shape == (40, 5)
    every = 0.2 * points[:, None] + 0.8 * points[None]
    nearest = (mixed[:, None] - every.flatten(0, 1)).abs().amax(-1).amin(1)
    assert nearest.max() < 1e-12
    assert len(torch.unique(mixed[:, 0])) > 20


def test_convex_combinations_contain_the_data():
    points = draw(30, 5)
    data = next(lower_jacobian.measure(STACK, inputs={"test": points})).values
    few, many = (values(lower_convex_combinations, STACK, points, num_pairs=n) for n in (1, 2000))
    assert (few >= data).all()
    assert (many >= few).all()
    assert (many > data).any()
    none = values(lower_convex_combinations, STACK, points, lambdas=[])
    assert torch.equal(none, data)


def test_gaussian_points_have_the_moments():
    points = 3 * draw(200, 2, 3) + torch.arange(6.0).view(2, 3)
    drawn = gaussian.draw(STACK, {"": points}, seed=0, num_points=20000)[""].whole()
    assert drawn.shape == (20000, 2, 3)
    torch.testing.assert_close(drawn.mean(0), points.mean(0), rtol=0, atol=0.1)
    spread = points.std(0, correction=0)
    torch.testing.assert_close(drawn.std(0), spread, rtol=0.03, atol=0)


def test_gaussian_value():
    points = draw(50, 5)
    drawn = gaussian.draw(STACK, {"": points}, seed=5, num_points=77)[""].whole()
    expected = next(lower_jacobian.measure(STACK, inputs={"test": drawn})).values
    found = values(lower_gaussian, STACK, points, num_points=77, seed=5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("norm", ORDERS)
def test_below_the_layer_product(module, norm):
    product = 1.0
    for name in ("0.weight", "2.weight"):
        product *= torch.linalg.matrix_norm(STACK.state[name].double(), ord=ORDERS[norm])
    assert (values(module, STACK, draw(20, 5), norm) < product).all()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("random_state_untouched")
def test_reproducible_and_independent_of_stack_mates(module):
    points = draw(20, 5).float()
    first = values(module, STACK, points, seed=1)
    assert torch.equal(values(module, STACK, points, seed=1), first)
    assert torch.equal(values(module, STACK[2:], points, seed=1), first[2:])


@pytest.mark.parametrize("module", MODULES)
def test_mistakes_are_named(module):
    with pytest.raises(ValueError, match="no split"):
        list(module.measure(STACK, inputs={}))
    with pytest.raises(ValueError, match=r"test: shape \(3, 4\)"):
        values(module, STACK, draw(3, 4))


def test_wrong_options_are_named():
    points = draw(3, 5)
    with pytest.raises(ValueError, match="num_pairs = 0"):
        values(lower_convex_combinations, STACK, points, num_pairs=0)
    with pytest.raises(ValueError, match=r"lambdas: 2; allowed are numbers in \[0, 1\]"):
        values(lower_convex_combinations, STACK, points, lambdas=[2])
    with pytest.raises(ValueError, match="num_points = -1"):
        values(lower_gaussian, STACK, points, num_points=-1)
    with pytest.raises(NotApplicable, match="test: 1 point"):
        values(lower_pairs, STACK, points[:1])

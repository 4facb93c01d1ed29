"""The quotient between points and where attacks from them end."""

import pytest
import torch
from torch import nn

from lipdescent.bounds import exact_enumeration, lower_attack
from lipdescent.points import _parts, pgd
from lipdescent.stacks.model_stack import ModelStack

F64 = torch.float64
LABELS = {"test": torch.arange(30) % 3}


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).eval()


STACK = ModelStack.from_modules([network(seed) for seed in range(3)], (4,))
POINTS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def values(stack=STACK, **options):
    given = {"inputs": {"test": POINTS}, "labels": LABELS} | options
    (found,) = lower_attack.measure(stack, **given)
    assert (found.quantity, found.direction, found.split) == ("lower_attack", "lower", "test")
    return found.values


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_is_the_largest_quotient_of_the_attack(norm):
    order = 2 if norm == "l2" else torch.inf
    ends = pgd.draw(STACK, {"test": POINTS}, labels=LABELS, norm=norm, radius=0.3)["test"].whole()
    wanted = []
    for seed, moved in enumerate(ends):
        model = network(seed).double()
        with torch.no_grad():
            top = torch.linalg.vector_norm(model(moved) - model(POINTS), ord=order, dim=1)
        wanted.append((top / torch.linalg.vector_norm(moved - POINTS, ord=order, dim=1)).max())
    found, wanted = values(norms=[norm], radius=0.3), torch.stack(wanted)
    assert (found <= wanted * (1 + 1e-15)).all()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_it_is_below_the_exact_constant_and_near_it():
    exact = next(
        m.values for m in exact_enumeration.measure(STACK, inputs={}) if m.direction == "upper"
    )
    for radius in (1e-3, 0.1, 3.0):
        assert (values(radius=radius) <= exact).all()
    assert (values(radius=0.1) > 0.4 * exact).all()


@pytest.mark.usefixtures("random_state_untouched")
def test_reproducible_and_independent_of_stack_mates():
    assert torch.equal(values(seed=3), values(seed=3))
    torch.testing.assert_close(values(STACK[2:], seed=3), values(seed=3)[2:])
    assert (values(num_points=5) <= values().amax()).all()


def test_parts_make_no_difference(monkeypatch):
    """Each point against where its own attack ends; the largest of all parts, not of the last."""
    whole = values(num_points=22, seed=3)
    monkeypatch.setattr(_parts, "PART_POINTS", 4)
    torch.testing.assert_close(values(num_points=22, seed=3), whole, rtol=1e-9, atol=0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no split"):
        list(lower_attack.measure(STACK, inputs={}))
    with pytest.raises(ValueError, match="radius = 0"):
        values(radius=0)
    with pytest.raises(ValueError, match="steps = 0"):
        values(steps=0)

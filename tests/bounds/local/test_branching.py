"""Branch and bound closes on the largest Jacobian, holds at any moment and stays in its limits."""

import pytest
import torch
from local_cases import ORDERS, chain, jacobians, network

from lipdescent.bounds.graph import branching as graph_branching
from lipdescent.bounds.graph.conversion import graph_of
from lipdescent.bounds.local import branching
from lipdescent.domains.domain import Box
from lipdescent.stacks.model_stack import ModelStack


def on_a_grid(model, norm, count):
    axis = torch.linspace(-1, 1, count, dtype=torch.float64) + 1e-9
    grid = torch.cartesian_prod(axis, axis)
    return float(torch.linalg.matrix_norm(jacobians(model, grid), ORDERS[norm]).max())


@pytest.mark.parametrize("norm", list(ORDERS))
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_it_closes_on_the_largest_norm_of_a_grid(norm, slope):
    for seed in range(2):
        model = chain(2, 8, 8, 8, 2, slope=slope, seed=seed)
        truth = on_a_grid(model, norm, 150)
        box = Box(-1.0, 1.0).regions((2,))
        found = branching.branch(
            network(model, 2), box, norm=norm, start=1e9, gap=0.02, budget=20.0
        )
        assert truth <= found.upper <= 1.02 * found.lower
        assert found.lower >= 0.9 * truth


def test_what_holds_at_the_start_is_never_exceeded():
    model = chain(3, 12, 12, 2, seed=1)
    own, box = network(model, 3), Box(-1.0, 1.0).regions((3,))
    found = branching.branch(own, box, norm="l2", start=1.5, gap=0.0, budget=1e-9)
    assert found.upper == 1.5


def test_all_moments_are_bounds(monkeypatch):
    """Stopped after any number of rounds."""
    model = chain(2, 10, 10, 2, seed=2)
    own, box, truth = network(model, 2), Box(-1.0, 1.0).regions((2,)), on_a_grid(model, "l2", 80)
    before = torch.inf
    for rounds in (1, 3, 6, 12):
        left = iter([0.0] * (4 * rounds) + [1e9] * 100_000)
        monkeypatch.setattr(branching.time, "monotonic", lambda own=left: next(own))
        found = branching.branch(own, box, norm="l2", start=1e3, gap=0.01, budget=1.0)
        assert truth * (1 - 1e-12) <= found.upper <= before
        before = found.upper


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(branching, "_ROOM", 20_000)
    model = chain(4, 20, 20, 20, 2, seed=3)
    box = Box(-1.0, 1.0).regions((4,))
    found = branching.branch(network(model, 4), box, norm="l2", start=1e9, gap=0.0, budget=60.0)
    assert found.parts * 4 * 8 < 20_000 * (1 + branching._BATCH)
    assert found.upper < 1e9


def test_multipliers_are_inherited_whatever_their_size():
    """A part that is bounded again begins where it ended, and one of its multipliers is 1."""
    model, box = chain(2, 12, 12, 2, seed=1), Box(-1.0, 1.0).regions((2,))
    none, bound = torch.zeros(1, 24, dtype=torch.int8), torch.full((1,), 1e9, dtype=torch.float64)
    effort, part = branching._Effort(24.0, 0.0), None
    for _ in range(2):
        if part is not None:  # multipliers are multiples of the outputs squared
            with torch.no_grad():
                model[-1].weight /= part.multipliers[0, part.state[0] == 0][0].sqrt()
        part = branching._Parts(box.low, box.high, bound, none, none.float(), none[:, 0].long())
        part = part[torch.tensor([0])]
        part = branching._bounded(network(model, 2), part, "l2", 0.0, effort, 1e18, steps=30)
    of_open = part.multipliers[part.state == 0]
    assert len(of_open) > 6
    assert float((of_open.log2().abs()).min()) < 1e-3
    first, part.bound[:] = float(part.bound[0]), 1e9
    again = branching._bounded(network(model, 2), part, "l2", 0.0, effort, 1e18, steps=1)
    assert float(again.bound[0]) <= first * (1 + 1e-6)


def test_effort_follows_success():
    effort = branching._Effort(100.0, 0.5 / 100**3)
    effort.learn(torch.tensor([95, 98]), torch.tensor([True, True]))
    assert effort.most > 100
    effort.learn(torch.tensor([103, 104]), torch.tensor([False, False]))
    effort.learn(torch.tensor([103, 104]), torch.tensor([False, False]))
    assert effort.most < 100


def bent_at_the_end():
    """max(x, 2 x - 1) on [0, 1]: its slope is 1, but both slopes meet at 1."""
    model = chain(1, 2, 1, seed=0)
    with torch.no_grad():
        for name, value in {"0.weight": [[1.0], [1.0]], "0.bias": [0.0, -1.0],
                            "2.weight": [[1.0, 1.0]], "2.bias": [0.0]}.items():  # fmt: skip
            model.get_parameter(name).copy_(torch.tensor(value))
    return model


def test_a_kink_at_the_end_is_not_halved_for_ever():
    model, box = bent_at_the_end(), Box(0.0, 1.0).regions((1,))
    own = {"norm": "l2", "start": 1e9, "gap": 0.05, "budget": 1e9}
    for found in (
        branching.branch(network(model, 1), box, **own),
        graph_branching.branch(graph_of(ModelStack.from_modules([model], (1,)), 0), box, **own),
    ):
        assert 1 <= found.upper <= 2.0001
        assert found.parts < 100


def test_a_box_without_width_ends_at_once():
    model, box = chain(2, 8, 8, 2, seed=3), Box(0.5, 0.5).regions((2,))
    found = branching.branch(network(model, 2), box, norm="l2", start=1e9, gap=0.0, budget=1e9)
    truth = torch.linalg.matrix_norm(jacobians(model, torch.full((1, 2), 0.5).double()), 2)
    assert float(truth) <= found.upper <= 1.0001 * float(truth)

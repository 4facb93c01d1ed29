"""What a bracket has of a network whose methods do not fit its budget."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lipdescent import bracket
from lipdescent.bounds import lower_gaussian, lower_jacobian
from lipdescent.bounds.jacobians import norms as jacobians
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable, domains
from lipdescent.bracketing.shares import NotInBudget, Shares
from lipdescent.domains.domain import Box
from lipdescent.stacks.model_stack import ModelStack


class Kinked(nn.Module):
    """x + max(3 x - 6, 0): of slope 1, and 4 beyond 2."""

    def __init__(self):
        super().__init__()
        self.steep = nn.Linear(1, 1)
        with torch.no_grad():
            self.steep.weight[:], self.steep.bias[:] = 3.0, -6.0

    def forward(self, x):
        return x + nn.functional.relu(self.steep(x))


@pytest.fixture
def network():
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 3, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(75, 4)).eval()


def stopped(stack, *, domain=None, **options):
    raise NotInBudget("stopped after 3 s")
    yield


def test_a_stopped_lower_bound_leaves_what_its_time_was_measured_with(network, monkeypatch):
    whole = bracket(network, (1, 5, 5), methods=["lower_jacobian"])
    monkeypatch.setattr(lower_jacobian, "measure", stopped)
    found = bracket(network, (1, 5, 5), methods=["lower_jacobian"])
    (row,) = found.table.to_dict("records")
    assert 0 < found.lower <= whole.lower
    assert row["status"] == "ok"
    assert row["reason"] == "of one point: stopped after 3 s"


def test_the_bound_is_never_less_than_what_its_time_was_measured_with(network, monkeypatch):
    whole = bracket(network, (1, 5, 5), methods=["lower_jacobian"])
    plain = lower_jacobian.measure

    def less(*args, **options):
        for m in plain(*args, **options):
            yield replace(m, values=m.values / 4) if m.direction == "lower" else m

    monkeypatch.setattr(lower_jacobian, "measure", less)
    found = bracket(network, (1, 5, 5), methods=["lower_jacobian"])
    assert whole.lower / 4 < found.lower <= whole.lower
    means = (one.table.set_index("quantity").value["jacobian_norm_mean"] for one in (whole, found))
    assert next(means) == next(means)


def test_what_is_left_of_a_stopped_bound_on_a_domain_holds_there(monkeypatch):
    monkeypatch.setattr(lower_jacobian, "measure", stopped)
    data = torch.full((3, 1), 9.0)
    network = Kinked().eval()
    everywhere = bracket(network, (1,), data=data, methods=["lower_jacobian"])
    inside = bracket(network, (1,), methods=["lower_jacobian"], domain=Box(0, 1))
    assert everywhere.lower == pytest.approx(4.0)
    assert inside.lower == pytest.approx(1.0)
    assert inside.table["reason"][0] == "of one point: stopped after 3 s"


@pytest.mark.parametrize("activation", [nn.Hardsigmoid(), nn.Hardswish(), nn.Mish()])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_a_quick_proof_is_near_the_norm_and_never_above(activation, norm):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), activation, nn.Flatten(), nn.Linear(100, 150)
    stack = ModelStack.from_modules([nn.Sequential(*layers).eval()], (1, 5, 5))
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64)
    double = copy.deepcopy(stack.module).double()
    jacobian = torch.autograd.functional.jacobian(double, x).reshape(150, 25)
    order = {"l2": 2, "linf": math.inf, "l1": 1}[norm]
    exact = float(torch.linalg.matrix_norm(jacobian, order))
    prover = Prover(stack)
    quick = float(prover.certify(x[None], norm=norm, quick=True))
    found = float(jacobian_norms(stack, x, norms=[norm])[norm])
    assert found == pytest.approx(exact, rel=1e-6)
    assert 0.5 * exact <= quick <= (1 + 1e-3) * exact  # a difference over a short step


def test_the_directions_of_the_norm_are_those_of_the_proof(monkeypatch):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 200)
    stack = ModelStack.from_modules([nn.Sequential(*layers).eval()], (1, 5, 5))
    points = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    norms = jacobian_norms(stack, points)["l2"]
    fresh = float(Prover(ModelStack(stack.module, stack.state, (1, 5, 5))).certify(
        points[None, 1:2], norm="l2"
    ))  # fmt: skip
    monkeypatch.setattr(jacobians, "_lanczos", None)
    assert float(Prover(stack).certify(points[None, 1:2], norm="l2")) == pytest.approx(fresh)
    assert torch.equal(jacobian_norms(stack, points)["l2"], norms)
    with pytest.raises(TypeError):  # of another point, or other weights, nothing is known
        jacobian_norms(stack, points + 1)
    stack.state["3.weight"].mul_(2)
    with pytest.raises(TypeError):
        jacobian_norms(stack, points)


def test_what_is_begun_without_time_has_some(network, monkeypatch):
    """upper_graph refuses a budget of 0."""
    of = Shares.of
    monkeypatch.setattr(Shares, "of", lambda self, name: of(self, name)._replace(seconds=0.0))
    found = bracket(network, (1, 5, 5), methods=["upper_graph", "upper_layer_product"])
    assert set(found.table["status"]) == {"ok"}
    assert domains.LEAST > 0


@pytest.mark.parametrize("budget", ["5", None, True, 0, -1.0, float("nan")])
def test_what_is_no_time_is_refused(network, budget):
    with pytest.raises(ValueError, match=r"budget = .*: allowed are seconds > 0"):
        bracket(network, (1, 5, 5), methods=["upper_layer_product"], budget=budget)


def test_a_time_without_end_stops_nothing(network):
    for budget in (1e10, 1e300, float("inf")):
        found = bracket(network, (1, 5, 5), methods=["lower_jacobian"], budget=budget)
        assert set(found.table["status"]) == {"ok"}


def test_what_one_point_is_too_dear_for_is_not_begun(network, monkeypatch):
    """Its cost is what the first lower bound measured: nothing more is spent to find out."""
    measured = affordable.Rate._seconds_of_a_proof
    proofs = []

    def dear(rate, point):
        proofs.append(measured(rate, point))
        return 100.0

    def begun(stack, **options):
        raise AssertionError("begun")
        yield

    monkeypatch.setattr(affordable.Rate, "_seconds_of_a_proof", dear)
    monkeypatch.setattr(lower_gaussian, "measure", begun)
    found = bracket(network, (1, 5, 5), methods=["lower_gaussian", "lower_jacobian"], budget=9.0)
    rows = found.table.set_index("quantity")
    assert rows.status["lower_gaussian"] == "not_in_budget"
    assert "one point takes about 3e+02 s, more than its share of" in rows.reason["lower_gaussian"]
    assert rows.status["lower_jacobian"] == "ok"
    assert found.lower > 0
    assert len(proofs) == 1

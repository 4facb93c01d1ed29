"""What a bracket has of a network whose methods do not fit its budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipdescent import bracket
from lipdescent.bounds import lower_jacobian
from lipdescent.bracketing import domains
from lipdescent.bracketing.shares import NotInBudget, Shares
from lipdescent.domains.domain import Box


@pytest.fixture
def network():
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 3, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(75, 4)).eval()


def stopped(*args, **options):
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
    inside = bracket(network, (1, 5, 5), methods=["lower_jacobian"], domain=Box(0, 1))
    assert set(inside.table["status"]) == {"not_in_budget"}  # that point may lie elsewhere


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

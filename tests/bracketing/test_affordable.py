"""A bound is stopped near its budget, with a reason, and nothing is left behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch
from torch import nn

from lipdescent.bounds import lower_jacobian, upper_layer_product
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack


def wait(seconds: float) -> float:
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        pass
    return passed


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(affordable, "_SOONEST", 0.0)


def test_what_takes_too_long_is_stopped_with_the_reason():
    before, began = signal.getsignal(signal.SIGALRM), time.perf_counter()
    with (
        pytest.raises(NotApplicable, match=r"stopped after 0\.18 s; the budget is 0\.1 s"),
        affordable.stopped("upper_lipsdp", budget=0.1),
    ):
        wait(20)
    assert time.perf_counter() - began < 5
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_catches_the_first_stop_is_stopped_again():
    def stubborn() -> None:
        try:
            wait(20)
        except NotApplicable:
            wait(20)

    began = time.perf_counter()
    with pytest.raises(NotApplicable), affordable.stopped("upper_lipsdp", budget=0.1):
        stubborn()
    assert time.perf_counter() - began < 10


def test_what_is_quick_is_not_stopped_and_a_timer_of_others_goes_on():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        with affordable.stopped("upper_lipsdp", budget=30):
            pass
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        signal.raise_signal(signal.SIGALRM)
        assert heard == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_never_stopped():
    """The one bound that everything has, an infinite budget, and outside the main thread."""
    with affordable.stopped("upper_layer_product", budget=0.05):
        assert wait(0.3) > 0.2
    with affordable.stopped("upper_lipsdp", budget=float("inf")):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    found: list[float] = []

    def other() -> None:
        with affordable.stopped("upper_lipsdp", budget=0.05):
            found.append(wait(0.3))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(found) == 1


@pytest.mark.parametrize(("outputs", "all_points"), [(3, True), (2000, False)])
def test_a_chain_with_many_outputs_gets_few_points(outputs, all_points):
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))
    stack = ModelStack.from_modules([module], (64,))
    bounds = {"lower_jacobian": lower_jacobian, "upper_layer_product": upper_layer_product}
    points = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    count = affordable.points_within(bounds, Prover(stack), {"": points}, norm="l2", budget=3.0)
    assert (count >= len(points)) == all_points
    for name in ("lower_ascent", "lower_search"):
        assert (affordable.options(name, count) == {}) == all_points

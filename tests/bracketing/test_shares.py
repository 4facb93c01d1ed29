"""All methods together keep to the budget, and what is stopped leaves nothing behind."""

from __future__ import annotations

import math
import signal
import threading
import time

import pytest

from lipdescent import deadline
from lipdescent.bracketing import shares
from lipdescent.bracketing.shares import GRAPH, LOWER, UPPER, NotInBudget, Shares, stopped
from lipdescent.plugins import lookup


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def everything() -> dict[str, str]:
    return {name: name for name in lookup.known("bounds")}


def spent(budget: float, costs: dict[str, float], searches: set[str]) -> tuple[float, set[str]]:
    """Seconds of a bracket whose methods cost this much, searches being ended by their share."""
    clock = Clock()
    shares, begun = Shares(budget, everything(), clock=clock), set()
    for name in shares.order:
        try:
            share = shares.of(name)
        except NotInBudget:
            continue
        begun.add(name)
        cost = costs.get(name, 0.0)
        clock.now += min(cost, share.seconds if name in searches else share.at_most)
    return clock.now - 1000.0, begun


def test_every_bound_has_its_turn_the_dear_ones_last():
    shares = Shares(10.0, everything() | {"mine": "mine"})
    assert sorted(shares.order) == sorted([*everything(), "mine"])
    assert shares.order[:3] == [UPPER, LOWER, GRAPH]
    assert shares.order.index("upper_combettes_pesquet") < shares.order.index("upper_lipsdp")


def test_searches_end_at_the_budget():
    names = set(everything())
    took, begun = spent(10.0, dict.fromkeys(names, math.inf), names)
    assert took == pytest.approx(10.0)
    assert begun == names


@pytest.mark.parametrize("budget", [5.0, 20.0, 60.0])
@pytest.mark.parametrize("cost", [0.2, 1.0, 1e6])
def test_what_cannot_end_itself_takes_less_than_twice_the_budget(budget, cost):
    costs = dict.fromkeys(set(everything()) - {UPPER}, cost * budget)
    took, begun = spent(budget, costs, set())
    assert budget <= took <= 2 * budget
    assert {UPPER, LOWER, GRAPH} <= begun


def test_what_is_quick_leaves_its_share_to_the_others():
    clock = Clock()
    shares = Shares(10.0, everything(), clock=clock)
    early = shares.of(shares.order[3]).seconds
    assert shares.of(shares.order[-1]) == (10.0, 12.5)
    assert early < 0.5
    clock.now += 4.0
    assert shares.of(shares.order[-1]) == (6.0, 8.5)


def test_without_time_only_what_gives_both_ends_is_begun():
    _, begun = spent(1.0, {UPPER: 50.0}, set())
    assert begun == {UPPER, LOWER, GRAPH}
    clock = Clock()
    shares = Shares(1.0, everything(), clock=clock)
    assert shares.of(UPPER).at_most == math.inf
    clock.now += 50
    assert shares.of(LOWER) == shares.of(GRAPH) == (0.0, 5.0)
    with pytest.raises(NotInBudget, match=r"the budget of 1 s was spent"):
        shares.of("upper_lipsdp")


def test_an_infinite_budget_stops_nothing_and_none_is_refused():
    shares = Shares(math.inf, everything())
    assert all(shares.of(name) == (math.inf, math.inf) for name in shares.order)
    for budget in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="allowed are seconds > 0"):
            Shares(budget, everything())


def wait(seconds: float) -> float:
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        pass
    return passed


def test_what_takes_too_long_is_stopped_with_the_reason():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(NotInBudget, match=r"stopped after 0\.1 s"), stopped(0.1):
        assert not wait(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_is_needed_is_stopped_by_the_time_it_worked(monkeypatch):
    """The processor's time stands still: others have it."""
    monkeypatch.setattr(shares, "_AGAIN", 0.01)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    answers = [True, True, False]
    start = time.perf_counter()
    with pytest.raises(NotInBudget), stopped(0.05, needed=lambda: answers.pop(0)):
        wait(60)
    assert not answers
    with pytest.raises(NotInBudget), stopped(0.05, needed=lambda: True):
        wait(60)
    assert 0.05 + 0.05 * 4 <= time.perf_counter() - start < 30
    monkeypatch.setattr(time, "process_time", time.perf_counter)  # nobody else has it
    asked = []
    with pytest.raises(NotInBudget), stopped(0.05, needed=lambda: asked.append(1) or True):
        wait(60)
    assert not asked


def test_an_alarm_at_once_leaves_nothing_behind_either():
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(100):
        with pytest.raises(NotInBudget), stopped(1e-6):
            wait(60)
        assert signal.getsignal(signal.SIGALRM) is before
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_catches_every_exception_is_stopped_all_the_same():
    def stubborn() -> None:
        try:
            wait(60)
        except Exception:
            wait(60)

    def twice() -> None:
        try:
            wait(60)
        except BaseException:
            wait(60)

    for method in (stubborn, twice):
        with pytest.raises(NotInBudget), stopped(0.05):
            method()


def test_what_is_quick_is_not_stopped_and_a_timer_of_others_goes_on():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 3000)
        with stopped(1000):
            pass
        assert 2000 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3000
        signal.raise_signal(signal.SIGALRM)
        assert heard == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_no_alarm_without_an_end_or_outside_the_main_thread():
    with stopped(math.inf):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    found: list[float] = []

    def other() -> None:
        with stopped(0.02):
            found.append(wait(0.1))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(found) == 1


def test_a_deadline_holds_inside_only_and_for_its_thread():
    clock = Clock()
    assert not deadline.over()
    with deadline.until(1005.0, clock=clock):
        assert not deadline.over()
        clock.now = 1005.0
        assert deadline.over()
        elsewhere: list[bool] = []
        thread = threading.Thread(target=lambda: elsewhere.append(deadline.over()))
        thread.start()
        thread.join()
        assert elsewhere == [False]
    assert not deadline.over()

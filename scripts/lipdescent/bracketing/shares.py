"""One budget for all methods: in which order they run, and how long each of them may take.

Methods that cost little come first, and what they leave goes to the dear ones. Each has a share of
what is left, by its worth:

- as many points are used as fit it, and at its end searches stop with what they have
  (``deadline.py``); where one point does not fit, the method is not begun (``affordable.py``);
- what goes on may overdraw it by a quarter of what is left of twice the budget, and is then
  stopped; what it had found is kept;
- once the budget is spent nothing more is begun.

So all of them together end near the budget, and before twice of it: only an operation of torch that
has begun is waited for. Three are begun in any case, so that a network has both ends of a bracket:
``upper_layer_product``, which is never stopped, and ``lower_jacobian`` and ``upper_graph``, which
may take the budget or 5 seconds. Until ``lower_jacobian`` has a first proof, these are seconds of
the processor's: beside other work a large network has a lower bound, too, only later.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

UPPER, LOWER, GRAPH = "upper_layer_product", "lower_jacobian", "upper_graph"
# In the order in which they run.
_WORTH = {
    UPPER: 1,
    LOWER: 2,
    GRAPH: 4,
    "upper_combettes_pesquet": 1,
    "lower_pairs": 1,
    "lower_ascent": 6,
    "lower_search": 6,
    "exact_enumeration": 4,
    "upper_block_lipsdp": 4,
    "upper_scaled_blocks": 6,
    "lower_convex_combinations": 2,
    "lower_gaussian": 2,
    "lower_attack": 2,
    "upper_eclipse_fast": 4,
    "upper_lipsdp": 8,
    "upper_geolip": 8,
}
_OTHERS = 2  # of upper_local, which is no part of the bracket, and of bounds of one's own
_LEAST = 5.0  # seconds for what is begun in any case, however small the budget
_ENDLESS = 1e8  # seconds: three years, and what timers take
_PATIENCE = 4  # times as long may what is needed take where others have the processor
_AGAIN = 0.5  # seconds until the next alarm, should a bound have caught the first


class NotInBudget(BaseException):
    """A bound was not begun, or stopped: no ``except Exception`` of a bound's may hide it."""


class Share(NamedTuple):
    """Seconds that a method may take, and after which it is stopped."""

    seconds: float
    at_most: float


class Shares:
    """The budget of a bracket.

    Parameters
    ----------
    budget : seconds for all methods, above 0.
    files : the bound's file by the name of every method that may give something.
    clock : seconds, from any zero.
    """

    def __init__(
        self,
        budget: float,
        files: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not budget > 0:
            raise ValueError(f"budget = {budget!r}: allowed are seconds > 0")
        budget = float(budget) if budget < _ENDLESS else math.inf
        self.budget, self.files, self.clock = budget, files, clock
        self.began = clock()
        places = {file: place for place, file in enumerate(_WORTH)}
        self.order = sorted(files, key=lambda name: places.get(files[name], len(places)))

    def of(self, name: str) -> Share:
        """The share of a method that begins now, when those before it in ``order`` have ended.

        Raises
        ------
        NotInBudget
            If nothing is left of the budget.
        """
        file, passed = self.files[name], self.clock() - self.began
        if passed >= self.budget and file not in (UPPER, LOWER, GRAPH):
            raise NotInBudget(f"the budget of {self.budget:g} s was spent")
        ahead = [self.files[other] for other in self.order[self.order.index(name) :]]
        worth = _WORTH.get(file, _OTHERS) / sum(_WORTH.get(other, _OTHERS) for other in ahead)
        seconds = max(self.budget - passed, 0.0) * worth
        if file == UPPER or math.isinf(self.budget):
            return Share(seconds, math.inf)
        at_most = seconds + (2 * self.budget - passed - seconds) / 4
        begun = file in (LOWER, GRAPH)
        return Share(seconds, max(at_most, self.budget, _LEAST) if begun else at_most)


@contextlib.contextmanager
def stopped(seconds: float, *, needed: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Whatever runs inside raises NotInBudget after ``seconds`` of the clock.

    While it is ``needed``, the processor's time counts in place of the clock's, up to ``_PATIENCE``
    times as long: on a busy machine the clock says little of what has been done. Only in the main
    thread, and where the system has timers; elsewhere nothing is stopped.
    """
    main = threading.current_thread() is threading.main_thread()
    if not (main and hasattr(signal, "setitimer") and math.isfinite(seconds)):
        yield
        return

    ended: list[bool] = []

    def stop(_number: int, _frame: object) -> None:
        waits = time.process_time() - worked < seconds
        waits = waits and time.perf_counter() - began < _PATIENCE * seconds
        if not ended and not (waits and needed()):
            raise NotInBudget(f"stopped after {seconds:.3g} s")

    left, again = signal.getitimer(signal.ITIMER_REAL)
    began, worked = time.perf_counter(), time.process_time()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            yield
        finally:
            ended.append(True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # another's timer goes on, less the time that has passed
            passed = time.perf_counter() - began
            signal.setitimer(signal.ITIMER_REAL, max(left - passed, 1e-3), again)

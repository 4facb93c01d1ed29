"""Until when a search may go on, where whoever asks for it has little time.

A search of which every iterate is a bound asks :func:`over` between its steps, and stops with what
it has. It is false unless :func:`until` says when: ``bracket`` does, a study never, so that what a
study publishes does not depend on the clock.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_LEFT: ContextVar[Callable[[], float]] = ContextVar("seconds left", default=lambda: math.inf)


def over() -> bool:
    """Whether a search should stop with what it has."""
    return not _LEFT.get()() > 0


@contextlib.contextmanager
def until(end: float, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
    """Searches inside stop once ``clock()``, in seconds, has reached ``end``."""
    token = _LEFT.set(lambda: end - clock())
    try:
        yield
    finally:
        _LEFT.reset(token)

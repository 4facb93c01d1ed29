"""Parts of a job's work in processes of their own, where it has more cores than it needs threads.

They are forks: nothing is imported again, and what the job holds is shared. So they are for
processes without threads of their own and without CUDA; elsewhere the parts are worked on one by
one. What comes back does not depend on the number of processes.
"""

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from lipdescent.jobs import forking

Item = TypeVar("Item")
Result = TypeVar("Result")
_allowed = 1


def allow(count: int) -> None:
    """From now on this job's work may be shared by so many processes, itself among them."""
    global _allowed
    _allowed = count if sys.platform == "linux" else 1


def allowed() -> int:
    """Processes that may share this job's work."""
    return _allowed


def mapped(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``function`` of every item, in their order; each process that is allowed takes every so
    many-th of them.

    Raises
    ------
    OSError
        If a process ended without an answer: it was killed, most likely for its memory.
    Exception
        What ``function`` raised, the first of them by process.
    """
    count = min(allowed(), len(items))
    if count <= 1:
        return [function(item) for item in items]
    context = multiprocessing.get_context("fork")
    running, parent = [], os.getpid()
    for first in range(1, count):  # this process takes the first share
        end, other = context.Pipe(duplex=False)
        share = items[first::count]
        child = context.Process(target=_work, args=(function, share, other, parent), daemon=True)
        child.start()
        other.close()
        running.append((child, end))
    results: list[Any] = [None] * len(items)
    try:
        results[::count] = [function(item) for item in items[::count]]
        for first, (_, end) in enumerate(running, start=1):
            results[first::count] = _answer(end)
    finally:
        for child, end in running:
            child.terminate()  # where it has answered it only ends
            child.join()
            end.close()
    return results


def _work(
    function: Callable[[Item], Result], share: Sequence[Item], end: Connection, parent: int
) -> None:
    forking.die_with(parent, "worker")
    try:
        answer: Any = [function(item) for item in share]
        # Not end.send: PyTorch would hand over shared memory that ends with this process.
        said = pickle.dumps(answer)
    except Exception as error:
        said = _as_bytes(error)
    end.send_bytes(said)


def _as_bytes(error: Exception) -> bytes:
    """The error, or what it says where it cannot be sent: anybody's class may be such a one."""
    try:
        said = pickle.dumps(error)
        pickle.loads(said)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return said


def _answer(end: Connection) -> list:
    try:
        answer = pickle.loads(end.recv_bytes())
    except EOFError:
        raise OSError("a process of this job ended without an answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer

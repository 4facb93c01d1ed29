"""Progress of a job: a line every few seconds in its log and on the terminal."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lipdescent.jobs.terminal import Terminal


def log_to(path: str | Path) -> Terminal:
    """Send stdout and stderr to the job's log; return the terminal, which may go away.

    The streams stay assigned until the process ends: a traceback must land in the log too. The
    log's last line says what the job took; Snakemake's benchmark files know no fork's memory.
    """
    terminal = Terminal(sys.stderr)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    atexit.register(_say_usage, sys.stdout)
    return terminal


def _say_usage(log: TextIO) -> None:
    if log.closed:
        return
    try:
        # Not getrusage: its peak is at least that of the process which started this one.
        status = Path("/proc/self/status").read_text()
        peak = f"{int(status.split('VmHWM:')[1].split()[0]) / 2**10:.0f} MB"
    except (OSError, IndexError):
        peak = "unknown memory"
    print(f"took {time.process_time():.2f} CPU s, {peak} at most", file=log)


@dataclass
class Progress:
    """Epochs done, models per second and time left of one training job.

    Attributes
    ----------
    label : what is running, such as ``mnist1d/mlp/width=64/seeds=0-5``.
    num_models : models in the stack.
    total : epochs in all.
    interval : seconds between lines.
    terminal : a second stream beside stdout, or None. It must take what it is given, as
        :class:`lipdescent.jobs.terminal.Terminal` does: an error of it ends the job.
    """

    label: str
    num_models: int
    total: int
    interval: float = 5.0
    terminal: TextIO | Terminal | None = None
    clock: Callable[[], float] = time.perf_counter
    _start: float = field(default=0.0, init=False)
    _first: int = field(default=0, init=False)
    _last: float = field(default=0.0, init=False)

    def begin(self, epoch: int) -> None:
        """Training starts, or goes on, after ``epoch`` epochs."""
        self._start = self._last = self.clock()
        self._first = epoch

    def update(self, epoch: int) -> None:
        """``epoch`` epochs are done; prints if the interval is over or training has ended."""
        now = self.clock()
        if epoch < self.total and now - self._last < self.interval:
            return
        self._last = now
        elapsed = max(now - self._start, 1e-9)
        rate = (epoch - self._first) / elapsed
        left = (self.total - epoch) / rate if rate > 0 else float("inf")
        self.say(
            f"epoch {epoch}/{self.total}, {self.num_models} models, "
            f"{self.num_models * rate:.0f} model epochs/s, "
            f"{self.num_models * rate / max(self.total, 1):.2f} models/s, {left:.0f} s left"
        )

    def say(self, text: str) -> None:
        """One line in the log and on the terminal."""
        line = f"{self.label}: {text}"
        print(line, flush=True)
        if self.terminal is not None:
            print(line, file=self.terminal, flush=True)

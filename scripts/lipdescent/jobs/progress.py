"""Progress of a job: a line every few seconds in its log and on the terminal."""

import atexit
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lipdescent.jobs.terminal import LIVE, Terminal
from lipdescent.jobs.words import counted

logger = logging.getLogger(__name__)


def log_to(path: str | Path, *, label: str = "") -> None:
    """Send stdout and stderr to the job's log, and what the library logs to the terminal as well.

    The streams stay assigned until the process ends: a traceback must land in the log too. The
    log's last line says what the job took; Snakemake's benchmark files know no fork's memory.

    Parameters
    ----------
    label : what is running, such as ``mnist1d/mlp/width=64/seeds=0-5``; begins logged lines.
    """
    shown = None if os.environ.get(LIVE) else sys.stderr  # a view is being redrawn there
    terminal = Terminal(shown)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    atexit.register(_say_usage, sys.stdout)
    library = logging.getLogger("lipdescent")
    library.setLevel(logging.INFO)
    begin = f"{label}: ".replace("%", "%%") if label else ""
    for stream in (sys.stdout, terminal):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(f"{begin}%(message)s"))
        library.addHandler(handler)


def _say_usage(log: TextIO) -> None:
    if log.closed:
        return
    try:
        # Not getrusage: its peak is at least that of the process which started this one.
        status = Path("/proc/self/status").read_text()
        peak = f"{int(status.split('VmHWM:')[1].split()[0]) / 2**10:.0f} MB"
    except (OSError, IndexError):
        peak = "unknown memory"
    of_workers = sum(os.times()[2:4])
    print(f"took {time.process_time() + of_workers:.2f} CPU s, {peak} at most", file=log)


@dataclass
class Progress:
    """Epochs done, models per second and time left of one training job.

    Attributes
    ----------
    num_models : models in the stack.
    total : epochs in all.
    interval : seconds between lines, which are logged.
    """

    num_models: int
    total: int
    interval: float = 5.0
    clock: Callable[[], float] = time.perf_counter
    _start: float = field(default=0.0, init=False)
    _first: int = field(default=0, init=False)
    _last: float = field(default=0.0, init=False)

    def begin(self, epoch: int) -> None:
        """Training starts, or goes on, after ``epoch`` epochs."""
        self._start = self._last = self.clock()
        self._first = epoch

    def update(self, epoch: int) -> None:
        """``epoch`` epochs are done; logs a line if the interval is over or training has ended."""
        now = self.clock()
        if epoch < self.total and now - self._last < self.interval:
            return
        self._last = now
        elapsed = max(now - self._start, 1e-9)
        rate = (epoch - self._first) / elapsed
        left = (self.total - epoch) / rate if rate > 0 else float("inf")
        logger.info(
            "epoch %d/%d, %s, %.0f model epochs/s, %.2f models/s, %.0f s left",
            epoch,
            self.total,
            counted(self.num_models, "model"),
            self.num_models * rate,
            self.num_models * rate / max(self.total, 1),
            left,
        )

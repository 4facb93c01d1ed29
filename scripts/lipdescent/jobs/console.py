"""What the terminal shows of a run: a view of a few lines that is redrawn, or plain lines.

Snakemake says of every job its inputs, outputs and reasons, pages of them for a study of a hundred
jobs. Its log file keeps all that (.snakemake/log); the terminal has how much is done, what runs and
how long it will take about. Warnings and errors are shown as they are.
"""

import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lipdescent.jobs.terminal import LIVE
from lipdescent.jobs.words import counted

STAGES = {
    "dataset": "data sets",
    "train": "stacks trained",
    "read": "stacks read",
    "measure": "measurements",
    "experiment_part": "experiments",
    "figure": "figures",
    "comparison": "figures",
    "experiment_figure": "figures",
    "verify": "verifications",
}
OTHERS = "tables and pages"
DROPPED = ("job_info", "job_finished", "job_started", "progress", "shellcmd", "resources_info",
           "run_info", "group_info")  # fmt: skip
IDLE = ("Select jobs to execute", "Execute ", "Complete log", "Elapsed time", "Shutting down")
ON_REQUEST = "Terminating processes on user request"
SHOWN_JOBS = 3


class Stream(Protocol):
    """Where it is shown."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> Any: ...


@dataclass(frozen=True)
class Running:
    """A job that has been started."""

    rule: str
    log: str
    since: float


@dataclass
class Console(logging.Filter):
    """A filter of Snakemake's handler of the terminal, which counts the jobs that pass by.

    Attributes
    ----------
    wanted : rule -> jobs of this run.
    at_once : jobs that run at a time, for the time left.
    live : whether the view is redrawn; plain lines, one in ``interval`` seconds, else.
    """

    study: str
    wanted: Counter[str]
    stream: Stream
    at_once: int = 1
    live: bool = False
    interval: float = 5.0
    clock: Callable[[], float] = time.monotonic
    interrupted: bool = False
    running: dict[int, Running] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.began = self.clock()
        self._last, self._drawn, self._quiet_until = self.began, 0, 0.0
        self._lock, self._ended = threading.RLock(), threading.Event()

    def start(self) -> None:
        """Redraw the view until :meth:`stop`."""
        if self.live:
            os.environ[LIVE] = "1"
            threading.Thread(target=self._redraw, daemon=True).start()

    def stop(self) -> None:
        """The view is taken away; what is printed from now on stays."""
        self._ended.set()
        with self._lock:
            self._erase()

    def filter(self, record: logging.LogRecord) -> bool:
        """Count a job's start or end; True for what is shown as it is."""
        event = getattr(getattr(record, "event", None), "value", "")
        text = record.getMessage()
        with self._lock:
            if event == "job_info":
                log = next(iter(getattr(record, "log", None) or []), "")
                rule, number = getattr(record, "rule_name", ""), getattr(record, "jobid", -1)
                self.running[number] = Running(rule, str(log), self.clock())
            elif event == "job_finished":
                self._finish(getattr(record, "job_id", -1))
            if text.startswith(ON_REQUEST):
                self.interrupted = True
            if event in DROPPED or self.interrupted or (not event and text.startswith(IDLE)):
                return False
            self._erase()
            self._quiet_until = self.clock() + 0.3  # it is printed now
        return True

    def _finish(self, number: int) -> None:
        job = self.running.pop(number, None)
        if job is None or job.rule not in self.wanted:
            return  # the target
        now = self.clock()
        self.done[job.rule] += 1
        self.seconds[job.rule] = self.seconds.get(job.rule, 0.0) + now - job.since
        if not self.live and (now - self._last >= self.interval or self.done == self.wanted):
            self._last = now
            self.stream.write(f"{self.summary()}; {self.stages()}\n")
            self.stream.flush()

    def summary(self) -> str:
        """``45 of 101 jobs in 2 min, about 3 min left``."""
        text = f"{self.done.total()} of {counted(self.wanted.total(), 'job')} in "
        text += spell(self.clock() - self.began)
        left = self.seconds_left()
        return text if left is None or not left else f"{text}, about {spell(left)} left"

    def stages(self) -> str:
        """``stacks trained 12/12, measurements 30/72``."""
        wanted, done = (_by_stage(counts) for counts in (self.wanted, self.done))
        return ", ".join(f"{name} {done[name]}/{count}" for name, count in wanted.items())

    def seconds_left(self) -> float | None:
        """By the mean time of a rule's jobs; None while a rule of several has none that ended."""
        left = 0.0
        for rule, count in self.wanted.items():
            remaining = count - self.done[rule]
            if remaining and not self.done[rule] and count > 1:
                return None
            left += remaining * self.seconds.get(rule, 0.0) / max(self.done[rule], 1)
        return left / self.at_once

    def lines(self, width: int) -> list[str]:
        """The view, at most ``width`` letters wide."""
        share = self.done.total() / max(self.wanted.total(), 1)
        bar = ("#" * round(20 * share)).ljust(20, ".")
        shown = [f"study {self.study} [{bar}] {self.summary()}", f"  {self.stages()}"]
        jobs = sorted(self.running.values(), key=lambda job: job.since)
        for job in [one for one in jobs if one.rule in self.wanted][:SHOWN_JOBS]:
            shown.append(f"  {place(job.log, job.rule)} {last_line(job.log)}".rstrip())
        return [line[: width - 1] for line in shown]

    def _redraw(self) -> None:
        while not self._ended.wait(0.5):
            with self._lock:
                if self._ended.is_set() or self.clock() < self._quiet_until:
                    continue
                self._erase()
                shown = self.lines(shutil.get_terminal_size().columns)
                self.stream.write("".join(f"{line}\n" for line in shown))
                self.stream.flush()
                self._drawn = len(shown)

    def _erase(self) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}F\x1b[J")
            self.stream.flush()
            self._drawn = 0


def _by_stage(counts: Counter[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for rule in sorted(counts, key=[*STAGES, *counts].index):  # in the order of a run
        found[STAGES.get(rule, OTHERS)] += counts[rule]
    return found


def place(log: str, rule: str) -> str:
    """``train mnist1d/mlp/width=64/seeds=0-5`` of a job, by the place of its log."""
    parts = Path(log.removesuffix(".log")).parts
    below = parts[parts.index("logs") + 1 :] if "logs" in parts else ()
    return " ".join([below[0], "/".join(below[1:])]).strip() if below else rule


def last_line(log: str) -> str:
    """What a job said last."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 500))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1].split(": ", 1)[-1] if lines else ""


def spell(seconds: float) -> str:
    """``45 s``, ``13 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan(rules: Iterable[str]) -> Counter[str]:
    """Jobs of a run by their rule, without the target."""
    return Counter(rule for rule in rules if rule != "all")

"""Which jobs of a run failed for good, what their logs say of it, and what is said at its end."""

import logging
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lipdescent.jobs import folder_lock
from lipdescent.jobs.console import place
from lipdescent.jobs.words import counted

SHOWN, LONGEST = 5, 300  # jobs that are named, letters of what a log says
REFUSAL = re.MULTILINE | re.DOTALL
KILLED = "ended without an error of its own: killed, perhaps for want of memory or time"
NEVER = "has no log: it never started"


@dataclass
class Failures(logging.Filter):
    """A filter of Snakemake's logger that shows everything and keeps the jobs that failed.

    One that is tried again and ends well is no failure.
    """

    found: dict[int, tuple[str, str]] = field(default_factory=dict)  # job -> rule, log

    def __post_init__(self) -> None:
        super().__init__()

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep or drop a job; always True."""
        event = getattr(getattr(record, "event", None), "value", "")
        if event == "job_error":
            log = next(iter(getattr(record, "log", None) or []), "")
            rule, number = getattr(record, "rule_name", ""), getattr(record, "jobid", -1)
            self.found[number] = str(rule), str(log)
        elif event == "job_finished":
            self.found.pop(getattr(record, "job_id", -1), None)
        return True

    def lines(self, study: str, command: str, datasets: Mapping[str, str]) -> list[str]:
        """What failed and why, where to read on, and the command that goes on.

        ``datasets`` : name of a data set's file -> its entry in the configuration.
        """
        count = len(self.found)
        what = f"{counted(count, 'job')} failed; " if count else ""
        told = [f"study {study} is not complete: {what}what is done stays"]
        for rule, log in list(self.found.values())[:SHOWN]:
            why = reason(log)
            if rule == "dataset":  # its file is given options, and knows no key
                name = Path(log).name.removesuffix(".log")
                key = f"datasets.{datasets.get(name, name)}.data_dir"
                why = why.replace("data_dir", key)
            told += [f"  {place(log, rule)}: {why}", *([f"    log: {log}"] if log else [])]
        if count > SHOWN:
            told.append(f"  and {count - SHOWN} more: make status STUDY={study} names them")
        return [*told, f"to go on, when the cause is gone, say the same again: {command}"]


def reason(log: str | Path) -> str:
    """The error that a job's log ends with, in a line."""
    try:
        said = Path(log).read_text(errors="replace").splitlines()
    except OSError:
        return NEVER
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    starts = [n for n, line in enumerate(said) if line.startswith("Traceback ")]
    if starts:
        behind = [line for line in said[starts[-1] + 1 :] if re.match(r"[\w.]+(:|$)", line)]
        errors = behind[:1] or errors
    return errors[-1][:LONGEST] if errors else KILLED


class Advice(logging.Filter):
    """A filter of Snakemake's logger: in place of its advice to --unlock, ours.

    Snakemake cannot tell a living owner of its lock from a dead one. Of a target that the study
    does not have our words are left, without the places in the workflow where they were said.
    """

    BEGUN: ClassVar[str] = (
        "another Snakemake has just begun in this folder, or was killed as it began: say the same "
        "again in a minute; if it is still locked, and no Snakemake runs here, with --unlock, then "
        "without"
    )

    def __init__(self, study: str) -> None:
        super().__init__()
        self.study = study

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the words of a folder that is locked, or of a target; always True."""
        if getattr(record, "exception", "") == "LockException":
            owner = folder_lock.owner(self.study)
            told = self.BEGUN
            if owner is not None and owner.alive is not False:
                told = folder_lock.what_to_do(owner)
            record.msg = f"not started: {told}"
            record.args = ()
        if getattr(record, "exception", "") == "InputFunctionException":
            refusal = re.search(r"^ *WorkflowError:\n(.*)\nWildcards:$", str(record.msg), REFUSAL)
            if refusal:
                record.msg = f"not started: {textwrap.dedent(refusal[1]).strip()}"
                record.args = ()
        return True

"""In what state a study in results/ of the current folder is.

lipdescent status [STUDY]                     (in a clone: make status STUDY=name)
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lipdescent.jobs import folder_lock, status, time_left
from lipdescent.study import archive, published

OTHERS = {state: state for state in ("running", "failed", "stopped", "waiting", "removed")} | {
    "outdated": "to be made anew (of another configuration, code or version)"
}
STAGES = {
    "dataset": "data sets",
    "train": "stacks trained",
    "read": "stacks read",
    "measure": "measurements",
    "experiment": "experiments",
}


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Print it; ``arguments`` are the command line's if not given."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", default="default")
    try:
        print(report(parser.parse_args(arguments).study), flush=True)
    except BrokenPipeError:  # status | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None


def report(study: str) -> str:
    """The study's state as text."""
    config, runs = status.plan(study)
    owner, base = folder_lock.owner(study), Path("results", study)
    found = status.jobs(config, runs, owner)
    lines = [f"study {study}: {_who(owner)}"]
    for stage, unit in STAGES.items():
        count = Counter(job.state for job in found if job.stage == stage)
        shown = [f"{count[state]} {word}" for state, word in OTHERS.items() if count[state]]
        if count:
            done = f"{unit}: {count['done']} of {count.total()} done"
            lines.append(", ".join([done, *shown]))
    made = [job for job in found if job.stage in ("train", "read") and job.state == "done"]
    trained = [job.run for job in made if job.run]
    if trained:
        bad = {run: status.diverged(config, run) for run in trained}
        of = len(config["grid"]["label_noise"]) * sum(len(run.seeds) for run in trained)
        lines.append(f"models diverged: {sum(bad.values())} of {of}")
        lines += [f"  {run.path}: {count}" for run, count in bad.items() if count]
    wanted = published.files(config)
    there = sum((base / file).exists() for file in wanted)
    older = archive.differs(base, config) if there else ""
    if there == len(wanted) and not older:
        older = archive.mixes(base, config)
    lines.append(f"published: {there} of {len(wanted)} files{older and '; ' + older}")
    lines.append(f"disk: {status.disk_bytes(base) / 2**20:.1f} MiB")
    lines.append(_time_left(config, found))
    for job in [*found, *status.failed_others(study, found)]:
        lines += _explained(job)
    return "\n".join(lines)


def _who(owner: folder_lock.Owner | None) -> str:
    if owner is None:
        return "nobody has computed it in this folder"
    said = f"{owner}, started {time.strftime('%d %b %H:%M', time.localtime(owner.since))}"
    running = {
        True: "is being computed by",
        False: "not being computed; last by",
        None: "computed (perhaps still) by",
    }
    return f"{running[owner.alive]} {said}"


def _time_left(config: dict, found: list[status.Job]) -> str:
    left = time_left.seconds_left(config, found)
    if left is None:
        return "time left: unknown, nothing has been measured yet"
    running = sum(job.state == "running" for job in found)
    wall = f", {left / running / 60:.1f} min with the {running} that run" if running else ""
    return f"time left: {left / 60:.1f} min of jobs{wall}"


def _explained(job: status.Job) -> list[str]:
    """What there is to say of a job that is not as it should be."""
    if job.state == "failed":
        last = [f"  | {line}" for line in status.last_lines(job.log)]
        return [f"failed: {job.name}", *last, f"  log: {job.log}"]
    if job.state == "stopped":
        epochs, saved = status.epochs_done(job), job.saved_state.exists()
        if epochs and epochs[0] == epochs[1]:
            return [f"gone: {job.output} had been made; the same command makes it anew"]
        where = f" after epoch {epochs[0]} of {epochs[1]}" if epochs else ""
        then = "goes on from its saved state" if saved else "starts again"
        return [f"stopped: {job.name}{where}, without an error (killed?); the same command {then}"]
    if job.state == "removed":
        return [status.removed(job.output)]
    return []

"""In what state a study is, from its files and this host's processes; no scheduler is asked."""

import json
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lipdescent.jobs import open_files
from lipdescent.jobs.folder_lock import Owner
from lipdescent.storage import stamps
from lipdescent.study.recipes import Recipes
from lipdescent.study.runs import Run, experiment_parts, plan_file, runs_of

# On a cluster: a job whose log has been silent for this many progress intervals, or seconds, and
# whose Snakemake does not live, does not run.
SILENT_INTERVALS, SILENT_SECONDS = 10, 120
LAST_LINES = 3
# Of a plan, what is read here; what plans of earlier versions may be without.
MAPPINGS = ("grid", "execution", "datasets", "architectures", "training", "bounds")
KINDS = {"study": str, "figures": list, **dict.fromkeys(MAPPINGS, dict)}
LATER: dict[str, Any] = {
    "experiments": {},
    "certificates": None,
    "quantities": {},
    "comparisons": [],
}


@dataclass(frozen=True)
class Job:
    """One job of the plan: a data set, a training, a measurement, a part of an experiment.

    Attributes
    ----------
    run : the stack; None for an experiment or a data set.
    measure : name of the measurement or data, or an experiment and its part; empty for training.
    state : ``done``, ``outdated`` (done, but not as the plan asks or with the code that is here),
        ``running``, ``failed`` (an error is in its log), ``stopped`` (it ended without an error:
        killed, or at its time limit), ``waiting``, or ``removed`` (all that it was for is there,
        but the checkpoints or data are gone).
    """

    stage: str
    run: Run | None
    measure: str
    state: str
    log: Path
    output: Path

    @property
    def name(self) -> str:
        """Stage, stack and measurement."""
        return " ".join(filter(None, [self.stage, self.run.path if self.run else "", self.measure]))

    @property
    def saved_state(self) -> Path:
        """Where a training job saves what it goes on from."""
        return self.output.with_suffix(".state")


def plan(study: str) -> tuple[dict[str, Any], list[Run]]:
    """Configuration and runs of the study's last start.

    Raises
    ------
    FileNotFoundError
        If the study was never started here; the message lists those that were.
    ValueError
        If the plan is broken, or of a version that is read no more.
    """
    path = plan_file(study)
    try:
        config = json.loads(path.read_text())["config"]
        if wrong := [key for key, kind in KINDS.items() if not isinstance(config[key], kind)]:
            raise ValueError(f"{', '.join(wrong)}: not as it is written")
        config = LATER | config
        return config, runs_of(config)
    except OSError:
        known = sorted(path.parent.name for path in Path("results").glob("*/plan.json"))
        raise FileNotFoundError(
            f"no study {study!r} has been started in {Path.cwd()}; "
            f"there are: {', '.join(known) or 'none'}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: broken ({error}); starting the study writes it anew") from error


def jobs(config: dict[str, Any], runs: list[Run], owner: Owner | None = None) -> list[Job]:
    """Every job of data, training, measuring or experiments with its state."""
    base = Path("results", config["study"])
    state = _States(config, base, owner)
    if config["experiments"]:
        parts = [
            f"{name}/{part}"
            for name in config["experiments"]
            for part, _ in enumerate(experiment_parts(config, name))
        ]
        return [
            state.job("experiment", None, part, f"experiments/{part}.parquet", f"experiment/{part}")
            for part in parts
        ]
    certificates = ["certificates"] if config["certificates"] else []
    measures = ["metrics", *config.get("quantities", {}), *config["bounds"], *certificates]
    found, make = [], "read" if config.get("checkpoints") else "train"
    for run in runs:
        measured = [
            state.job(
                "measure", run, name,
                f"measurements/{run.path}/{name}.parquet", f"measure/{run.path}/{name}",
            )
            for name in measures
        ]  # fmt: skip
        trained = state.job(
            make, run, "", f"checkpoints/{run.path}.safetensors", f"{make}/{run.path}"
        )
        gone = trained.state not in ("done", "running")
        if gone and all(job.state == "done" for job in measured):
            trained = Job(make, run, "", "removed", trained.log, trained.output)
        found += [trained, *measured]
    complete = all(job.state in ("done", "removed") for job in found)
    data = [
        state.job("dataset", None, name, f"datasets/{name}.npz", f"dataset/{name}")
        for name in state.data_files
    ]
    data = [replace(job, state="removed") if complete and _gone(job) else job for job in data]
    return [*data, *found]


def _gone(job: Job) -> bool:
    return job.state not in ("done", "running", "outdated")


def removed(output: Path) -> str:
    """What is said of checkpoints or data that are gone, while all that they were for is there."""
    return (
        f"removed: {output}; nothing published needs it, and it is made anew when something does "
        f"(at once: snakemake ... {output})"
    )


def failed_others(study: str, found: list[Job]) -> list[Job]:
    """Jobs that are not ``found``, as of figures, with an error in a log of this start."""
    known, since = {job.log for job in found}, plan_file(study).stat().st_mtime
    folder, others = Path("results", study, "logs"), []
    for log in sorted(folder.rglob("*.log")):
        if log not in known and _has_error(log, since):
            stage, _, name = log.relative_to(folder).with_suffix("").as_posix().partition("/")
            others.append(Job(stage, None, name, "failed", log, log))
    return others


def _has_error(log: Path, since: float) -> bool:
    try:
        new = log.stat().st_mtime >= since
        return new and "Traceback" in log.read_text(errors="replace")
    except OSError:
        return False


class _States:
    """The state of each job, by its output, its log and who has the log open."""

    def __init__(self, config: dict[str, Any], base: Path, owner: Owner | None) -> None:
        self.base, self.owner = base, owner
        try:
            recipes = Recipes(config)
            self.wanted = {Path(one.path): one.recipe for one in recipes.parts()}
            self.data_files = [] if config["experiments"] else list(recipes.data_files)
            data = [recipes.dataset(dataset=name) for name in self.data_files]
            self.wanted |= {Path(one.path): one.recipe for one in data}
        except (KeyError, TypeError, ValueError, OSError):  # keys or files of an earlier version
            self.wanted, self.data_files = {}, []
        interval = config["execution"]["progress_interval"]
        self.silent = max(SILENT_SECONDS, SILENT_INTERVALS * interval)
        self.open = open_logs(owner, base / "logs")

    def job(self, stage: str, run: Run | None, measure: str, output: str, log: str) -> Job:
        made, said = self.base / output, self.base / "logs" / f"{log}.log"
        return Job(stage, run, measure, self._state(made, said, stage), said, made)

    def _state(self, output: Path, log: Path, stage: str) -> str:
        if output.exists():
            stamp = stamps.read(output)
            made_so = stamp is not None and stamp["recipe"] == self.wanted.get(output)
            return "done" if made_so else "outdated"
        try:
            text, changed = log.read_text(errors="replace"), log.stat().st_mtime
        except OSError:
            return "waiting"
        if self.open is not None:
            running = str(log.resolve()) in self.open
        elif self.owner and self.owner.alive and stage != "train":
            running = changed >= self.owner.since  # no line between its first and its last
        else:
            running = time.time() - changed < self.silent
        if "Traceback" in text:
            return "failed"
        return "running" if running else "stopped"


def open_logs(owner: Owner | None, folder: Path) -> set[str] | None:
    """Logs below ``folder`` that processes of this host have open.

    None where that says nothing: the jobs run elsewhere, or are another user's.
    """
    if owner is None or owner.submits or not owner.seen or not Path("/proc/self/fd").exists():
        return None
    if owner.alive and not os.access(f"/proc/{owner.process}/fd", os.R_OK):
        return None
    return set(open_files.below(folder))


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a job's log."""
    try:
        return log.read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def epochs_done(job: Job) -> tuple[int, int] | None:
    """Epochs done and wanted, by the last line of a training job's log that tells."""
    told = re.findall(r"epoch (\d+)/(\d+)", "\n".join(last_lines(job.log, 50)))
    return (int(told[-1][0]), int(told[-1][1])) if told else None


def diverged(config: dict[str, Any], run: Run) -> int:
    """Models of a trained stack that diverged."""
    path = Path("results", config["study"], "checkpoints", f"{run.path}.safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            return int((file.get_tensor("diverged_epoch") >= 0).sum())
    except (SafetensorError, OSError):
        return 0


def disk_bytes(folder: Path) -> int:
    """Bytes on disk of a folder; a file with two names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except OSError:
            continue
        seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(seen.values())

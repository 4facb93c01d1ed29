"""In what state a study is, from its files alone: nothing is asked of Snakemake or a scheduler."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lipdescent import config as study_config
from lipdescent import resources

# A job whose log has been silent for this many progress intervals, or seconds, does not run.
SILENT_INTERVALS, SILENT_SECONDS = 10, 120
LAST_LINES = 3


@dataclass(frozen=True)
class Job:
    """One training or measuring job of the plan."""

    stage: str
    run: study_config.Run
    measure: str  # empty for training
    state: str  # done, running, failed or waiting
    log: Path


def plan(study: str) -> tuple[dict[str, Any], list[study_config.Run]]:
    """Configuration and runs of the study's last start.

    Raises
    ------
    FileNotFoundError
        If the study was never started here; the message lists those that were.
    """
    try:
        config = json.loads(study_config.plan_file(study).read_text())["config"]
    except OSError:
        known = sorted(path.parent.name for path in Path("results").glob("*/plan.json"))
        raise FileNotFoundError(
            f"no study {study!r} has been started in {Path.cwd()}; "
            f"there are: {', '.join(known) or 'none'}"
        ) from None
    return config, study_config.runs(config)


def jobs(config: dict[str, Any], runs: list[study_config.Run]) -> list[Job]:
    """Every training and measuring job with its state."""
    base = Path("results", config["study"])
    measures = ["metrics", *config["bounds"]]
    if config.get("certificates"):
        measures.append("certificates")
    interval = config["execution"]["progress_interval"]
    silent = max(SILENT_SECONDS, SILENT_INTERVALS * interval)
    found = []
    for run in runs:
        log = base / "logs/train" / f"{run.path}.log"
        output = base / "checkpoints" / f"{run.path}.safetensors"
        found.append(Job("train", run, "", _state(output, log, silent), log))
        for measure in measures:
            log = base / "logs/measure" / run.path / f"{measure}.log"
            output = base / "measurements" / run.path / f"{measure}.parquet"
            found.append(Job("measure", run, measure, _state(output, log, silent), log))
    return found


def _state(output: Path, log: Path, silent: float) -> str:
    if output.exists():
        return "done"
    if not log.exists():
        return "waiting"
    if "Traceback" in log.read_text(errors="replace"):
        return "failed"
    return "running" if time.time() - log.stat().st_mtime < silent else "failed"


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a job's log."""
    try:
        return log.read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def diverged(config: dict[str, Any], run: study_config.Run) -> int:
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


def seconds_left(config: dict[str, Any], found: list[Job]) -> float | None:
    """Seconds of job time left, from the measured times of jobs that are done.

    The expected time of each job (resources.py) is scaled by what the done jobs of its stage took;
    a training job that runs says itself how long it needs. None while nothing has been measured.
    """
    scale = {}
    for stage in ("train", "measure"):
        pairs = [(_measured(config, job), _expected(config, job)) for job in found]
        pairs = [p for p, job in zip(pairs, found, strict=True) if job.stage == stage and p[0]]
        if pairs:
            scale[stage] = sum(p[0] for p in pairs) / sum(p[1] for p in pairs)
    if not scale:
        return None
    total = 0.0
    for job in found:
        if job.state != "done":
            said = re.findall(r"(\d+) s left", " ".join(last_lines(job.log, 1)))
            factor = scale.get(job.stage, next(iter(scale.values())))
            expected = _expected(config, job) * factor
            total += float(said[-1]) if said and job.state == "running" else expected
    return total


def _expected(config: dict[str, Any], job: Job) -> float:
    if job.stage == "train":
        return resources.train_seconds(config, job.run)
    return resources.measure_seconds(config, job.run)


def _measured(config: dict[str, Any], job: Job) -> float:
    """Wall-clock seconds of a done job, from its benchmark file; 0 if there is none."""
    place = f"{job.stage}/{job.run.path}" + (f"/{job.measure}" if job.measure else "")
    path = Path("results", config["study"], "benchmarks", f"{place}.tsv")
    try:
        return float(path.read_text().splitlines()[1].split("\t")[0]) if job.state == "done" else 0
    except (OSError, IndexError, ValueError):
        return 0

"""How long a study still takes, from the measured times of its jobs that are done."""

import re
from pathlib import Path
from typing import Any

from lipdescent.jobs import resources, status
from lipdescent.jobs.status import Job


def seconds_left(config: dict[str, Any], found: list[Job]) -> float | None:
    """Seconds of job time left; None where nothing has been measured yet.

    The expected time of each job (resources.py) is scaled by what the done jobs of its stage took;
    a training job that runs says itself how long it needs, one that was stopped goes on from its
    saved state.
    """
    todo = [job for job in found if job.state not in ("done", "removed")]
    if not todo:
        return 0.0
    scale = {}
    for stage in ("train", "measure"):
        pairs = [(_measured(config, j), _expected(config, j)) for j in found if j.stage == stage]
        pairs = [pair for pair in pairs if pair[0]]
        if pairs:
            scale[stage] = sum(p[0] for p in pairs) / sum(p[1] for p in pairs)
    if not scale:
        return None
    return sum(_left(job, _expected(config, job), scale) for job in todo)


def _left(job: Job, expected: float, scale: dict[str, float]) -> float:
    said = re.findall(r"(\d+) s left", " ".join(status.last_lines(job.log, 1)))
    if said and job.state == "running":
        return float(said[-1])
    whole = expected * scale.get(job.stage, next(iter(scale.values())))
    epochs = status.epochs_done(job) if job.stage == "train" else None
    if job.state in ("stopped", "failed") and epochs and job.saved_state.exists():
        whole *= 1 - epochs[0] / epochs[1]
    return whole


def _expected(config: dict[str, Any], job: Job) -> float:
    if job.run is None:
        return 0.0
    if job.stage == "train":
        return resources.train_seconds(config, job.run, count=False)
    return resources.measure_seconds(config, job.run, name=job.measure or "metrics", count=False)


def _measured(config: dict[str, Any], job: Job) -> float:
    """Wall-clock seconds of a done job, from its benchmark file; 0 if there is none."""
    parts = [job.stage, job.run.path if job.run else "", job.measure]
    place = "/".join(filter(None, parts))
    path = Path("results", config["study"], "benchmarks", f"{place}.tsv")
    try:
        return float(path.read_text().splitlines()[1].split("\t")[0]) if job.state == "done" else 0
    except (OSError, IndexError, ValueError):
        return 0

"""The workflow end to end on a device, and its table against that of the processor; see gpu.sh.

Snakemake and what it needs travel as wheels where a machine has no network: ``make gpu-wheels``.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
NEEDED = (
    "snakemake", "pyarrow", "pandas", "matplotlib", "jsonschema", "mnist1d", "yaml", "plotly"
)  # fmt: skip
# Of the default study, for a rehearsal.
SMALL = """\
grid: {width: [4, 16], label_noise: [0, 0.2], seed: [0, 1, 2, 3], epoch: [0, 2, 5]}
datasets: {mnist1d: {num_train: 200, num_test: 100}}
"""


def missing() -> list[str]:
    """Packages without which the workflow does not start."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def run_study(study: str, device: str, folder: Path, *, small: bool) -> tuple[float, float]:
    """The default study from the data to the report, trained and measured on a device.

    Returns
    -------
    When it began, in seconds since the epoch, and how many seconds it took.

    Raises
    ------
    RuntimeError
        If the run fails, with the end of what it said; all of it is in ``folder``/``study``.log.
    """
    arguments = ["--config", f"study={study}", f"device={device}"]
    if small:
        overlay = folder / "small.yaml"
        overlay.write_text(SMALL)
        arguments += ["--configfile", str(overlay)]
    begin = time.time()
    snakemake(arguments, folder / f"{study}.log")
    return begin, time.time() - begin


def bounds_apart(study: str, device: str) -> dict[str, tuple[float, int]]:
    """Quantity -> largest relative difference of bounds on a device and on the processor, of how
    many checkpoints: the first model of each stack at its last epoch.
    """
    from lipdescent import datasets
    from lipdescent.measuring import verifying
    from lipdescent.measuring.measure import checkpoint_stack
    from lipdescent.storage import checkpoints

    folder = ROOT / "results" / study
    dataset = datasets.read(folder / "datasets/mnist1d.npz")
    inputs = {"train": torch.from_numpy(dataset.train_inputs)}
    there = {split: x.to(device) for split, x in inputs.items()}
    found: dict[str, list[float]] = {}
    for path in sorted((folder / "checkpoints").rglob("*.safetensors")):
        saved = checkpoints.read(path)
        last = len(saved.epoch) - 1
        one = checkpoint_stack(saved, dataset)[last * saved.num_replicas :][:1]
        ends = [
            verifying.ladder(stack, points, norm="l2", names=verifying.ON_DEVICES)
            for stack, points in ((one, inputs), (one.to(device=device), there))
        ]
        for key, value in ends[0].items():
            found.setdefault(key[0], []).append(abs(ends[1][key] - value) / abs(value))
    return {name: (max(each), len(each)) for name, each in found.items()}


@dataclass(frozen=True)
class Job:
    """A job of a study: ``start`` and ``end`` in seconds since the epoch, ``cpu`` its own seconds.

    Snakemake takes the seconds between the two, and writes them down where it ends.
    """

    rule: str
    name: str
    start: float
    end: float
    cpu: float

    @property
    def stage(self) -> str:
        return f"measure: {Path(self.name).name}" if self.rule == "measure" else self.rule


def jobs(study: str) -> list[Job]:
    """All that the study's files tell of, in the order of their start."""
    found, folder = [], ROOT / "results" / study
    for path in (folder / "benchmarks").rglob("*.tsv"):
        name = path.relative_to(folder / "benchmarks").with_suffix("")
        seconds = float(path.read_text().splitlines()[1].split("\t")[0])
        end = path.stat().st_mtime
        log = folder / "logs" / name.parent / f"{name.name}.log"
        took = re.findall(r"took ([\d.]+) CPU s", log.read_text())
        cpu = float(took[-1]) if took else math.nan
        found.append(Job(name.parts[0], "/".join(name.parts[1:]), end - seconds, end, cpu))
    return sorted(found, key=lambda job: job.start)


def stages(all_jobs: Iterable[Job]) -> dict[str, tuple[int, float, float]]:
    """Stage -> number of jobs, seconds of all, seconds of the longest; as Snakemake measured it."""
    found: dict[str, list[float]] = {}
    for job in all_jobs:
        found.setdefault(job.stage, []).append(job.end - job.start)
    return {name: (len(s), sum(s), max(s)) for name, s in sorted(found.items())}


def chain(all_jobs: Sequence[Job]) -> list[Job]:
    """What the end waited for: the job that ended last, the last that had ended before it began...

    A job that waited for a core has whichever job freed one before it.
    """
    found = [max(all_jobs, key=lambda job: job.end)]
    while before := [job for job in all_jobs if job.end <= found[0].start + 0.05]:
        found.insert(0, max(before, key=lambda job: job.end))
    return found


def snakemake(arguments: Sequence[str], log: Path) -> None:
    cores = str(len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "snakemake", "--cores", cores, *arguments]
    with log.open("w") as file:
        code = subprocess.call(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-2000:]}")


def apart(study: str, other: str, quantity: str) -> str:
    """Largest difference of a quantity's mean over seeds between two studies' last epochs.

    In standard errors of the difference: float32 training amplifies rounding, so that single
    networks differ and means should not.

    Raises
    ------
    ValueError
        Where one of the two tables has no such numbers.
    """
    import pandas as pd

    means, errors = [], []
    for name in (study, other):
        table = pd.read_parquet(ROOT / "results" / name / "table.parquet")
        rows = table[(table.quantity == quantity) & (table.epoch == table.epoch.max())]
        if rows.empty:
            raise ValueError(f"{quantity}: not in the table of {name}")
        groups = rows.groupby(["norm", "width", "label_noise"], observed=True, dropna=False).value
        means.append(groups.mean())
        errors.append(groups.sem())
    difference = (means[0] - means[1]).abs()
    scores = difference / (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    return f"{difference.max():.3g}, {scores.max():.1f} standard errors, of {len(scores)} means"

"""The workflow end to end on a device, and its table against that of the processor; see gpu.sh.

Snakemake and what it needs travel as wheels where a machine has no network: ``make gpu-wheels``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("snakemake", "pyarrow", "pandas", "matplotlib", "jsonschema", "mnist1d", "yaml")
# Of the default study, for a rehearsal.
SMALL = """\
grid: {width: [4, 16], label_noise: [0, 0.2], seed: [0, 1, 2, 3], epoch: [0, 2, 5]}
datasets: {mnist1d: {num_train: 200, num_test: 100}}
"""


def missing() -> list[str]:
    """Packages without which the workflow does not start."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def run_study(study: str, device: str, folder: Path, *, small: bool) -> float:
    """Seconds from the data to the report of the default study, trained and measured on a device.

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
    begin = time.perf_counter()
    snakemake(arguments, folder / f"{study}.log")
    spent = time.perf_counter() - begin
    snakemake(
        [*arguments, "--forcerun", "verify", "--", f"results/{study}/verification.json"],
        folder / f"{study}_verify.log",
    )
    return spent


def snakemake(arguments: Sequence[str], log: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), *arguments]
    with log.open("w") as file:
        code = subprocess.call(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-2000:]}")


def checked(folder: Path, study: str) -> str:
    """How many invariants of sampled checkpoints hold, in the words of the rule ``verify``.

    Among them: stored bounds equal fresh ones of the processor, and those of the device.
    """
    said = re.findall(
        r"\d+ checks on \d+ checkpoints, \d+ broken", (folder / f"{study}_verify.log").read_text()
    )
    return said[-1] if said else "what verify said was not found"


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

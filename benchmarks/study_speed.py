"""Time and memory of a study, from nothing to its figures, in clones of this checkout.

    python benchmarks/study_speed.py [default | one_hidden_layer] [--runs N]

Writes docs/numbers/STUDY_speed.json, and the pages with it. CPU seconds are
those that every job writes into the last line of its log; memory is sampled over all processes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import docs_numbers
import psutil
from checkout import ROOT
from machine import machine

TOOK = re.compile(r"took ([\d.]+) CPU s")
# Row of the table -> the jobs in it: rules, or measurements.
ROWS = {
    "training": ["train"],
    "`lower_jacobian`, `lower_ascent`": ["lower_jacobian", "lower_ascent"],
    "`upper_lipsdp`, `upper_geolip`, `upper_layer_product`": [
        "upper_lipsdp", "upper_geolip", "upper_layer_product",
    ],
    "losses, accuracies, distances": ["metrics"],
    "dataset, table, figures, findings, provenance": [
        "dataset", "table", "figure", "findings", "provenance",
    ],
}  # fmt: skip
SAMPLED_EVERY = 2.0  # seconds


def run(folder: Path, name: str) -> dict:
    """Seconds, CPU seconds by kind of job, and the largest sum of all processes' PSS in bytes."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    start, peak = time.perf_counter(), 0
    with (folder / "log").open("w") as log:
        overlay = [] if name == "default" else ["--configfile", f"config/studies/{name}.yaml"]
        command = [sys.executable, "-m", "snakemake", "--cores", "all", *overlay]
        study = subprocess.Popen(command, cwd=clone, stdout=log, stderr=log)
        while study.poll() is None:
            peak = max(peak, _memory(psutil.Process(study.pid)))
            try:
                study.wait(SAMPLED_EVERY)
            except subprocess.TimeoutExpired:
                continue
    seconds = time.perf_counter() - start
    if study.returncode:
        raise SystemExit(f"the study failed:\n{(folder / 'log').read_text()[-2000:]}")
    logs, cpu = clone / "results" / name / "logs", Counter()
    for path in logs.rglob("*.log"):
        kind = path.relative_to(logs).with_suffix("").parts
        if took := TOOK.search(path.read_text()):
            cpu[kind[-1] if kind[0] == "measure" else kind[0]] += float(took[1])
    return {"seconds": seconds, "cpu": cpu, "peak": peak}


def _memory(root: psutil.Process) -> int:
    """Shared pages count once: each process has its part of them."""
    found = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            found += process.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def texts(runs: list[dict]) -> dict[str, object]:
    """What the pages say; medians of all runs but for the times of each."""
    cpu = {kind: median(one["cpu"][kind] for one in runs) for kind in runs[0]["cpu"]}
    if other := set(cpu) - {kind for kinds in ROWS.values() for kind in kinds}:
        raise SystemExit(f"jobs that no row has: {sorted(other)}")
    seconds, memory = sorted(one["seconds"] for one in runs), max(one["peak"] for one in runs)
    span = " to ".join(dict.fromkeys(_minutes(one) for one in (seconds[0], seconds[-1])))
    rows = [["wall clock", span], ["CPU, all jobs", f"{sum(cpu.values()):.0f} s"]]
    for name, kinds in ROWS.items():
        there = [kind for kind in kinds if kind in cpu]
        if name.startswith("`"):
            named = ", ".join(f"`{kind}`" for kind in there)
            rows.append([f"- {named}", ", ".join(f"{cpu[kind]:.0f} s" for kind in there)])
        else:
            rows.append([f"- {name}", f"{sum(cpu[kind] for kind in there):.0f} s"])
    rows.append(["memory at the peak, all processes (PSS)", f"{memory / 2**30:.1f} GiB"])
    short = (
        f"{span} ({len(runs)} runs, {sum(cpu.values()):.0f} CPU seconds of jobs) and "
        f"{memory / 2**30:.1f} GiB"
    )
    about = f"{len(runs)} runs on {machine()}"
    return {"table": {"header": ["", ""], "rows": rows}, "readme": short, "repetitions": about}


def _minutes(seconds: float) -> str:
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", default="default")
    parser.add_argument("--runs", type=int, default=2)
    asked = parser.parse_args()
    runs = []
    for _ in range(asked.runs):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run(Path(folder), asked.study))
            print(f"{runs[-1]['seconds']:.0f} s, {dict(runs[-1]['cpu'])}", flush=True)
    docs_numbers.record(
        f"{asked.study}_speed",
        command=f"python benchmarks/study_speed.py {asked.study}",
        machine=machine(),
        repetitions=f"{len(runs)} runs",
        texts=texts(runs),
    )


if __name__ == "__main__":
    main()

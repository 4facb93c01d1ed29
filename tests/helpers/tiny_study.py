"""The workflow started as a user does, on a study of seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
TINY = {
    "study": "tiny",
    "device": "cpu",
    "grid": {"width": [2, 5], "label_noise": [0, 0.2], "seed": [0, 1], "epoch": [0, 1, 3]},
    "datasets": {"mnist1d": {"num_train": 60, "num_test": 30}},
    "architectures": {"mlp": {"module": "mlp", "depth": 1, "bias": False}},
    "bounds": dict.fromkeys(yaml.safe_load((ROOT / "config/config.yaml").read_text())["bounds"])
    | {name: {"norms": ["l2", "linf"]} for name in ("lower_jacobian", "upper_layer_product")},
}


def command(folder, *arguments, config=TINY):
    """What is typed to compute a study in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(config))
    return [
        *SNAKEMAKE, "--snakefile", str(source(folder) / "Snakefile"), "--directory", str(folder),
        "--cores", "2", "--configfile", str(overlay), *arguments,
    ]  # fmt: skip


def run(folder, *arguments, config=TINY, ok=True):
    """What it said; it has to end well, or not where ``ok`` says so."""
    done = subprocess.run(
        command(folder, *arguments, config=config), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def source(folder):
    """A copy of the workflow, so that a test can change its code."""
    copy = folder / "source"
    if not copy.exists():
        copy.mkdir(parents=True)
        for name in ("Snakefile", "workflow", "scripts", "config", "profiles", "envs"):
            origin = ROOT / name
            if origin.is_dir():
                shutil.copytree(origin, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, copy / name)
    return copy


def planned(output):
    """Rules that a dry run would execute, with counts, without the target rule."""
    jobs = {}
    for line in output.partition("Job stats:")[2].partition("total")[0].splitlines():
        parts = line.split()
        if len(parts) == 2 and parts[1].isdigit() and parts[0] != "all":
            jobs[parts[0]] = int(parts[1])
    return jobs

"""The workflow started as a user does, on a study of seconds.

What a user types is :func:`command`. It imports Snakemake and PyTorch anew, and so does the server
that its jobs are forks of: seconds each time, so :func:`run` has both forked from one process.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import yaml

from lipdescent.jobs import fork_server, forking, job_environment
from lipdescent.study import asked_once

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
# What every Snakemake imports, a sixth of the time of a dry run, and its jobs of such a study.
SNAKEMAKES = (
    "snakemake.cli", "snakemake.iocontainers", "snakemake.profiles", "jsonschema", "smart_open",
    "snakemake.report.html_reporter", "yte", "mnist1d", "scipy.stats",
)  # fmt: skip
NO_BOUNDS = dict.fromkeys(yaml.safe_load((ROOT / "config/config.yaml").read_text())["bounds"])
TINY = {
    "study": "tiny",
    "device": "cpu",
    "grid": {"width": [2, 5], "label_noise": [0, 0.2], "seed": [0, 1], "epoch": [0, 1, 3]},
    "datasets": {"mnist1d": {"num_train": 60, "num_test": 30}},
    "architectures": {"mlp": {"module": "mlp", "depth": 1, "bias": False}},
    "bounds": NO_BOUNDS
    | {name: {"norms": ["l2", "linf"]} for name in ("lower_jacobian", "upper_layer_product")},
    "figures": ["alignment", "bound_gap", "double_descent"],
    "execution": {"fork_server": False},  # there is one already, or none is wanted
}


def arguments(folder, *more, config=TINY):
    """Of the command that computes a study in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / asked_once.FOLDER).exists():
        shutil.copytree(answers(), folder / asked_once.FOLDER)
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(config))
    own = folder / "source"
    return [
        "--snakefile", str((own if own.exists() else code()) / "Snakefile"),
        "--directory", str(folder), "--cores", "2", "--configfile", str(overlay), *more,
    ]  # fmt: skip


def command(folder, *more, config=TINY):
    """What is typed to compute a study in a folder."""
    return [*SNAKEMAKE, *arguments(folder, *more, config=config)]


def run(folder, *more, config=TINY, ok=True, forks=True):
    """What it said; it has to end well, or not where ``ok`` says so. ``forks``: its jobs are."""
    with start(
        folder, *more, config=config, forks=forks, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode == 0) is ok, stdout + stderr
    keep_answers(folder)
    return stdout + stderr


def start(folder, *more, config=TINY, forks=True, **streams):
    """The process that waits for Snakemake."""
    environ = server()
    forked = [sys.executable, str(Path(__file__).with_name("forked_snakemake.py"))]
    given = [environ[forking.ADDRESS], "forks" if forks else "alone"]
    return subprocess.Popen(
        [*forked, *given, *arguments(folder, *more, config=config)],
        env={name: value for name, value in environ.items() if name != forking.ADDRESS},
        text=True, **streams,
    )  # fmt: skip


@functools.cache
def answers() -> Path:
    """What networks cost and which bounds they have, as it was asked in any folder so far.

    The code and the options that an answer is about are in its key, so whatever a test changes is
    asked anew. Else every new folder would ask, in processes that import PyTorch.
    """
    place = Path(tempfile.mkdtemp(prefix="lipdescent-answers-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def keep_answers(folder) -> None:
    """For the folders after it."""
    for path in (folder / asked_once.FOLDER).glob("*.json"):
        kept = answers() / path.name
        known = json.loads(kept.read_text()) if kept.exists() else {}
        kept.write_text(json.dumps(known | json.loads(path.read_text())))


@functools.cache
def server() -> dict[str, str]:
    """The environment of what is to be a fork, with the server's address."""
    with mock.patch.dict(os.environ):
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        os.environ.update(dict.fromkeys(fork_server.THREADS, "1"))
        job_environment.fix(code() / "scripts")
        fork_server.start(threads=1, modules=SNAKEMAKES)
        return dict(os.environ)


# What Python compiled goes with its files, or every copy would be compiled anew; but for what is
# just being written.
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*")


@functools.cache
def code() -> Path:
    """A copy of the workflow: the checkout may change under a long test."""
    place = Path(tempfile.mkdtemp(prefix="lipdescent-source-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for name in ("workflow", "scripts", "config", "profiles", "envs"):
        shutil.copytree(ROOT / name, place / name, ignore=HALF_WRITTEN)
    shutil.copy(ROOT / "Snakefile", place)
    return place


def source(folder):
    """A copy of the folder's own, so that a test can change its code."""
    own = folder / "source"
    if not own.exists():
        shutil.copytree(code(), own, ignore=HALF_WRITTEN)
    return own


def planned(output):
    """Rules that a dry run would execute, with counts, without the target rule."""
    jobs = {}
    for line in output.partition("Job stats:")[2].partition("total")[0].splitlines():
        parts = line.split()
        if len(parts) == 2 and parts[1].isdigit() and parts[0] != "all":
            jobs[parts[0]] = int(parts[1])
    return jobs

"""Which jobs use a GPU, and how much of it they ask for."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from configurations import DEFAULT, checked

from lipdescent.jobs import gpus, resources
from lipdescent.study.runs import runs_of

ROOT = Path(__file__).parents[2]
DRIVER = """#!/bin/sh
case "$1" in -L) echo "GPU 0: A (UUID: x)";; *) echo 81559;; esac
"""


@pytest.fixture(scope="module")
def config():
    wanted = copy.deepcopy(DEFAULT)
    wanted["grid"]["width"] = [8, 192, 2048]
    return checked(wanted)


@pytest.mark.parametrize(
    ("asked", "name", "expected"),
    [
        ("auto", "upper_lipsdp", [False, True, True]),
        ("auto", "metrics", [False, True, True]),
        ("auto", "lower_ascent", [False, False, True]),
        ("device", "lower_ascent", [True, True, True]),
        ("cpu", "upper_lipsdp", [False, False, False]),
    ],
)
def test_large_networks_are_measured_on_the_gpu(config, counted_here, asked, name, expected):
    config = config | {"execution": config["execution"] | {"measuring_device": asked}}
    runs = sorted(runs_of(config), key=lambda run: run.width)
    assert [resources.measures_on_gpu(config, run, name) for run in runs] == expected


def test_wide_stacks_take_more_of_a_gpu(config, counted_here):
    runs = sorted(runs_of(config), key=lambda run: run.width)
    for needs in (resources.train_gpu_mb, resources.measure_gpu_mb):
        narrow, middle, wide = (needs(config, run) for run in runs)
        assert gpus.CONTEXT_MB < narrow < middle < wide


@pytest.mark.parametrize(
    ("says", "expected"), [("81559", 8), ("8192", 3), ("81559\\n4096", 1), ("[N/A]", 1)]
)
def test_shares_of_a_gpu_are_what_its_memory_holds(monkeypatch, says, expected):
    monkeypatch.setattr(gpus, "_driver_says", lambda *_: says.split("\\n"))
    gpus.shares.cache_clear()
    try:
        assert gpus.shares() == expected
    finally:
        gpus.shares.cache_clear()


def test_jobs_of_a_study_ask_for_shares(tmp_path, counted_here):
    """The default study on a machine whose driver shows one GPU: a dry run."""
    if gpus.visible_gpus():
        pytest.skip("this machine has GPUs of its own")
    default = checked(copy.deepcopy(DEFAULT))
    resources.train(default, runs_of(default))
    assert counted_here  # Snakemake finds in its folder what its networks take
    (tmp_path / "nvidia-smi").write_text(DRIVER)
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    rules = re.findall(
        r"^rule (\w+):.*?resources: [^\n]*?gpu=(\d+)", said, re.MULTILINE | re.DOTALL
    )
    trained = [gpu for rule, gpu in rules if rule == "train"]
    measured = [gpu for rule, gpu in rules if rule == "measure"]
    assert set(trained) == {"1"}
    assert (measured.count("1"), measured.count("0")) == (4, 41)  # of width 192, but its ascent

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


@pytest.mark.parametrize(
    ("asked", "training", "expected"),
    [
        ("auto", {}, [False, True, True]),
        ("auto", {"precision": "tf32"}, [True, True, True]),
        ("device", {}, [True, True, True]),
        ("cpu", {"precision": "tf32"}, [False, False, False]),
    ],
)
def test_trainings_of_seconds_stay_on_the_processor(
    config, counted_here, asked, training, expected
):
    config = config | {
        "execution": config["execution"] | {"training_device": asked},
        "training": config["training"] | training,
    }
    runs = sorted(runs_of(config), key=lambda run: run.width)
    assert [resources.trains_on_gpu(config, run) for run in runs] == expected
    # Ten times the epochs are no training of seconds.
    longer = config | {"grid": config["grid"] | {"epoch": [0, 3000]}}
    if asked == "auto":
        assert all(resources.trains_on_gpu(longer, run) for run in runs)


@pytest.mark.parametrize("asked", ["cpu", "device"])
def test_what_stays_on_the_processor_asks_for_its_time(config, counted_here, asked):
    config = config | {
        "grid": config["grid"] | {"epoch": [0, 10_000]},
        "execution": config["execution"] | {"training_device": asked, "measuring_device": asked},
    }
    run = runs_of(config)[-1]
    needs = [
        (resources.train(config, [run], gpus=n), resources.measure(config, run, gpus=n))
        for n in (0, 1)
    ]
    assert (needs[0] == needs[1]) == (asked == "cpu")
    if asked == "device":
        assert needs[0][0]["runtime"] > needs[1][0]["runtime"]


def test_long_measurements_have_processes_where_there_are_cores_for_them(config, counted_here):
    narrow, middle, wide = sorted(runs_of(config), key=lambda run: run.width)

    def workers(run, name="lower_ascent", cores=16, own=config):
        return resources.measure_workers(own, run, name=name, cores=cores)

    assert [workers(run) for run in (narrow, middle, wide)] == [1, 4, 4]
    assert [workers(wide, cores=cores) for cores in (1, 2, 7, 8, 64)] == [1, 1, 1, 2, 8]
    assert workers(wide, "metrics") == 1
    threaded = config | {"execution": config["execution"] | {"threads": 2}}
    assert workers(wide, own=threaded) == 1
    drawn = config["bounds"] | {"lower_pairs": {"points": "convex_combinations"}}
    assert workers(wide, "lower_pairs", own=config | {"bounds": drawn}) == 1


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


@pytest.mark.parametrize(("told", "expected"), [(8, [2, 2, 4, 8]), (3, [1, 1, 3, 3])])
def test_no_more_than_four_trainings_share_a_gpu(monkeypatch, told, expected):
    monkeypatch.setattr(gpus, "shares", lambda: told)
    assert [gpus.shares_of_training(mb) for mb in (1, 2500, 8000, 1e6)] == expected


def test_jobs_of_a_study_ask_for_shares(tmp_path, counted_here):
    """The default study on a machine of 16 cores whose driver shows one GPU: a dry run."""
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
        [*command, "--directory", str(tmp_path), "--cores", "16"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    rules = re.findall(
        r"^rule (\w+):.*?resources: [^\n]*?gpu=(\d+)", said, re.MULTILINE | re.DOTALL
    )
    trained = [gpu for rule, gpu in rules if rule == "train"]
    measured = [gpu for rule, gpu in rules if rule == "measure"]
    assert sorted(trained) == ["0"] * 5 + ["2"] * 4  # up to width 32 a core takes seconds
    assert sorted(measured) == ["0"] * 41 + ["1"] * 4  # of the widest, all but its ascents
    cores, held = {}, {}
    for job in re.split(r"^rule ", said, flags=re.MULTILINE):
        threads = re.search(r"threads: (\d+)", job)
        if job.startswith("train"):
            held[re.search(r"width=(\d+)", job)[1]] = int(threads[1]) if threads else 1
        if job.startswith("measure"):
            width, measure = re.search(r"width=(\d+), seeds=[^,]+, measure=(\w+)", job).groups()
            cores[f"{width} {measure}"] = int(threads[1]) if threads else 1
    assert len(cores) == 45
    assert cores["192 lower_ascent"] == 4  # a quarter of the machine
    assert cores["96 lower_ascent"] == 2
    # On the GPU trainings hold what their stack's ascents take, on the processor one core.
    assert {width: count for width, count in held.items() if count > 1} == {"192": 4, "96": 2}
    assert cores["192 upper_lipsdp"] == cores["192 metrics"] == cores["4 lower_ascent"] == 1

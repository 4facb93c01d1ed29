"""What `make status` says of a study in every state."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from lipdescent.commands import status
from lipdescent.jobs import folder_lock, resources, time_left
from lipdescent.jobs import status as study_status
from lipdescent.storage import checkpoints, stamped_parquet
from lipdescent.study.config import prepare
from lipdescent.study.recipes import Recipes
from lipdescent.study.runs import plan_file, record_plan

ROOT = Path(__file__).parents[2]
STACK = "mnist1d/mlp/width={}/seeds=0-1"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A started study of four stacks with the metrics as its only measurement."""
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    given |= {"study": "s", "bounds": {}, "figures": [], "comparisons": []}
    given["grid"] |= {"width": [2, 3, 4, 5], "seed": [0, 1]}
    schema = ROOT / "workflow/schemas/config.schema.yaml"
    config = prepare(given, schema=schema, figures=[], comparisons=[])
    record_plan(config)
    return config


def write_log(width, text, age=0, stage="train"):
    name = STACK.format(width) + ("/metrics" if stage == "measure" else "")
    path = Path(f"results/s/logs/{stage}/{name}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


def train(width, diverged=-1):
    never = checkpoints.empty_epochs(2)
    saved = checkpoints.Checkpoints(
        {}, torch.tensor([0]), torch.zeros(2), torch.tensor([0, 1]), never,
        torch.tensor([-1, diverged]),
    )  # fmt: skip
    path = f"results/s/checkpoints/{STACK.format(width)}.safetensors"
    checkpoints.write(path, saved, stamp_of(path))
    write_log(width, "done", age=900)


def save_state(width):
    path = Path(f"results/s/checkpoints/{STACK.format(width)}.state")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def measure(width):
    path = Path(f"results/s/measurements/{STACK.format(width)}/metrics.parquet")
    stamped_parquet.write(path, pa.table({"x": [1]}), stamp_of(path))


def stamp_of(path, **changes):
    """The stamp that a file of the plan is to have, or that of one under another plan."""
    known, _ = study_status.plan("s")
    parts = Recipes(known | changes).parts()
    return next(one.stamp() for one in parts if one.path == str(path)) | {"content": ""}


def states(stage="train"):
    config, runs = study_status.plan("s")
    jobs = study_status.jobs(config, runs, folder_lock.owner("s"))
    return {job.run.width: job.state for job in jobs if job.stage == stage}


def test_a_study_that_was_never_started_names_those_that_were(config):
    with pytest.raises(FileNotFoundError, match=r"no study 'x' has been started in .*there are: s"):
        study_status.plan("x")
    broken = [{"config": config | {key: None}} for key in ("grid", "bounds", "study", "figures")]
    without = {"config": {key: value for key, value in config.items() if key != "execution"}}
    for text in ("cut in ha", *map(json.dumps, ([], {"config": []}, without, *broken))):
        plan_file("s").write_text(text)
        with pytest.raises(ValueError, match=r"plan\.json: broken .* writes it anew"):
            study_status.plan("s")


def test_a_plan_of_an_earlier_version_and_a_log_that_vanishes_have_a_state(config):
    later = {"experiments", "certificates", "quantities", "comparisons"}
    old = {key: value for key, value in config.items() if key not in later}
    record_plan(old)
    assert set(states()) == {2, 3, 4, 5}
    gone = write_log(2, "").with_name("gone.log")
    gone.symlink_to("nowhere")
    assert study_status.failed_others("s", []) == []


def test_states_by_the_logs_age_where_the_jobs_are_elsewhere(config):
    folder_lock.claim("s", submits=True)
    train(2)
    write_log(3, "epoch 1/9, 5 s left")
    write_log(4, "epoch 4/9, 1 s left", age=4000)
    assert states() == {2: "done", 3: "running", 4: "stopped", 5: "waiting"}
    write_log(3, "Traceback (most recent call last):\nValueError: what happened")
    assert states()[3] == "failed"
    # A measurement writes its log at the end: it runs as long as its Snakemake lives.
    os.utime(folder_lock.OWNERS / "s.json", (time.time() - 5000,) * 2)
    write_log(2, "", age=4000, stage="measure")
    assert states("measure")[2] == "running"
    write_log(2, "", age=6000, stage="measure")  # of an earlier Snakemake
    assert states("measure")[2] == "stopped"
    # Of another host, by whose lock nothing is known.
    note = folder_lock.OWNERS / "s.json"
    note.write_text(
        json.dumps(json.loads(note.read_text()) | {"host": "other", "machine": "other"})
    )
    for lock in [note.with_suffix(".lock"), Path("results/s/.lock")]:
        lock.unlink()
    write_log(2, "", age=4000, stage="measure")
    assert states("measure")[2] == "stopped"


def test_jobs_of_this_host_run_while_they_have_their_log_open(config):
    folder_lock.claim("s")
    write_log(4, "epoch 4/9, 1 s left")
    path = write_log(3, "epoch 1/9, 5 s left", age=4000)
    with path.open("a"):
        assert states() == {2: "waiting", 3: "running", 4: "stopped", 5: "waiting"}
    assert states()[3] == "stopped"


def test_the_report_says_what_happened_and_what_to_do(config):
    folder_lock.claim("s")
    train(2, diverged=4)
    train(5)
    measure(2)
    write_log(3, "Traceback (most recent call last):\nValueError: what happened")
    write_log(4, "epoch 290/500, 30 models, 5 s left\n")
    done = Path(f"results/s/benchmarks/train/{STACK.format(2)}.tsv")
    done.parent.mkdir(parents=True)
    done.write_text("s\th:m:s\n600.0\t0:10:00\n")
    save_state(4)
    said = status.report("s")
    assert f"study s: is being computed by process {os.getpid()} on" in said
    assert "stacks trained: 2 of 4 done, 1 failed, 1 stopped\n" in said
    assert "measurements: 1 of 4 done, 3 waiting\n" in said
    models = 2 * 2 * len(config["grid"]["label_noise"])  # two stacks of two seeds
    assert f"models diverged: 1 of {models}\n  {STACK.format(2)}: 1\n" in said
    assert "published: 0 of 9 files\n" in said
    assert f"failed: train {STACK.format(3)}\n" in said
    assert "  | ValueError: what happened\n" in said
    assert f"stopped: train {STACK.format(4)} after epoch 290 of 500" in said
    assert "goes on from its saved state" in said
    Path(f"results/s/checkpoints/{STACK.format(4)}.state").unlink()
    assert "starts again" in status.report("s")


def test_what_another_configuration_made_is_not_done(config):
    for width in (2, 3):
        train(width)
        measure(width)
    assert states() == {2: "done", 3: "done", 4: "waiting", 5: "waiting"}
    training = config["training"] | {"learning_rate": 0.7}
    record_plan(config | {"training": training})
    train(3)
    assert states() == {2: "outdated", 3: "done", 4: "waiting", 5: "waiting"}
    # Of the networks that there were.
    assert states("measure") == dict.fromkeys((2, 3), "outdated") | dict.fromkeys((4, 5), "waiting")
    said = status.report("s")
    assert "stacks trained: 1 of 4 done, 2 waiting, 1 to be made anew (of another conf" in said
    assert "measurements: 0 of 4 done, 2 waiting, 2 to be made anew" in said


def test_checkpoints_that_were_deleted_are_no_failure(config):
    train(2)
    measure(2)
    checkpoint = Path(f"results/s/checkpoints/{STACK.format(2)}.safetensors")
    checkpoint.unlink()
    assert states()[2] == "removed"
    said = status.report("s")
    assert "stacks trained: 0 of 4 done, 3 waiting, 1 removed" in said
    assert f"removed: {checkpoint}; nothing published needs it" in said


def test_time_left_follows_what_was_measured(config):
    _, runs = study_status.plan("s")

    def left():
        return time_left.seconds_left(config, study_status.jobs(config, runs))

    assert left() is None
    train(5)
    done = Path(f"results/s/benchmarks/train/{STACK.format(5)}.tsv")
    done.parent.mkdir(parents=True)
    done.write_text("s\th:m:s\n100.0\t0:01:40\n")
    whole = left()
    assert 200 < whole < 100 * 8  # three narrower stacks and four measurements
    write_log(4, "epoch 250/500, 1 s left", age=4000)
    assert left() == whole
    save_state(4)
    by_width = {run.width: resources.train_seconds(config, run, count=False) for run in runs}
    share = 100 * by_width[4] / by_width[5]
    assert left() == pytest.approx(whole - share / 2)  # half of one stack is saved
    write_log(4, "epoch 250/500, 3 s left")
    assert left() == pytest.approx(whole - share + 3)


def test_results_of_an_earlier_configuration_are_said_so(config):
    Path("results/s/provenance.json").write_text(
        json.dumps({"config": config | {"training": config["training"] | {"momentum": 0.5}}})
    )
    said = status.report("s")
    assert "published: 1 of 9 files; what is published was made with another training" in said


def test_a_study_of_experiments(config):
    record_plan(config | {"experiments": {"isometry": {}}})
    Path("results/s/logs/experiment/isometry").mkdir(parents=True)
    Path("results/s/logs/experiment/isometry/0.log").write_text("Traceback\nValueError: oh")
    said = status.report("s")
    assert "experiments: 0 of 1 done, 1 failed\n" in said
    assert "failed: experiment isometry/0\n  | Traceback\n  | ValueError: oh\n" in said
    assert "stacks" not in said


def log(name, text, age=0):
    path = Path(f"results/s/logs/{name}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


def test_data_sets_and_figures_that_failed_are_named(config):
    said = status.report("s")
    assert "data sets: 0 of 1 done, 1 waiting\n" in said
    log("dataset/mnist1d", "Traceback\nFileNotFoundError: no file")
    log("figure/mnist1d/mlp/double_descent", "Traceback\nValueError: no line")
    log("findings", "Traceback\nValueError: of an earlier start", age=1e6)
    log("explorer", "done")
    said = status.report("s")
    assert "data sets: 0 of 1 done, 1 failed\n" in said
    assert "failed: dataset mnist1d\n  | Traceback\n  | FileNotFoundError: no file\n" in said
    assert "failed: figure mnist1d/mlp/double_descent\n  | Traceback\n  | ValueError: no" in said
    assert "logs/figure/mnist1d/mlp/double_descent.log" in said
    assert "findings" not in said
    assert "explorer" not in said


def test_data_of_a_study_that_is_complete_were_removed(config):
    for width in (2, 3, 4, 5):
        train(width)
        measure(width)
    log("dataset/mnist1d", "done", age=900)
    assert "removed: results/s/datasets/mnist1d.npz; nothing published needs it" in (
        status.report("s")
    )


def test_disk_counts_a_file_with_two_names_once(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(8192))
    alone = study_status.disk_bytes(tmp_path)
    os.link(path, tmp_path / "b")
    assert study_status.disk_bytes(tmp_path) == alone > 0


def test_the_command_says_what_there_is(config):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/status.py", "other"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no study 'other'" in done.stderr
    assert "Traceback" not in done.stderr

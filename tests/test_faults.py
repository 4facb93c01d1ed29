"""Kills, full and read-only disks, broken and foreign files, two writers, two Snakemakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_study
import torch

from lipdescent.jobs import folder_lock, open_files
from lipdescent.storage import atomic, checkpoints, stamps, table
from lipdescent.study.config import last_start
from lipdescent.study.runs import plan_file, record_plan, seed_blocks

STUDY = {
    "study": "faults",
    "device": "cpu",
    "grid": {"width": [2], "label_noise": [0], "seed": [0, 1], "epoch": [0, 2]},
    "datasets": {"mnist1d": {"num_train": 40, "num_test": 20}},
    "bounds": tiny_study.NO_BOUNDS,
    "figures": [],
    "execution": {"seeds_per_block": 2},
}
TARGET = "results/faults/table.parquet"
RUN = "mnist1d/mlp/width=2/seeds=0-1"


def run(folder, *arguments, config=STUDY, ok=True, forks=True):
    """Snakemake for the table, as a fork of one process, and its jobs too (tiny_study.py)."""
    config = config | {"execution": config["execution"] | {"fork_server": False}}
    return tiny_study.run(folder, *arguments, "--", TARGET, config=config, ok=ok, forks=forks)


def typed(folder, *arguments, config=STUDY):
    """The command that a user would type."""
    return tiny_study.command(folder, *arguments, config=config)


def rows(folder):
    """The table's rows in a fixed order."""
    frame = table.read(folder / TARGET).to_pandas()
    text = [name for name in frame.columns if frame[name].dtype == "category"]
    keys = ["width", "label_noise", "seed", "epoch", "split", "quantity", "norm"]
    return frame.astype(dict.fromkeys(text, str)).sort_values(keys, ignore_index=True)


def some_checkpoints(value=0.0):
    state = {"0.weight": torch.full((2, 3, 50, 50), value)}
    seed, stopped, diverged = (checkpoints.empty_epochs(3) for _ in range(3))
    return checkpoints.Checkpoints(
        state, torch.tensor([0, 1]), torch.zeros(3), seed, stopped, diverged
    )


def some_table(study="faults", width=2, seed=0, rows=10):
    return table.from_columns(
        rows, study=study, dataset="mnist1d", architecture="mlp", width=width, num_parameters=1,
        label_noise=0.0, seed=seed, epoch=0, split="test", quantity="loss", direction="metric",
        norm="", value=1.0, status="ok",
    )  # fmt: skip


def environ():
    """That of a process of its own that imports the library."""
    return os.environ | {"PYTHONPATH": str(tiny_study.ROOT / "scripts")}


# Files


WRITER = """
import sys, time
from lipdescent.storage import atomic as files
with files.complete(sys.argv[1]) as partial:
    with open(partial, "wb") as file:
        file.write(b"half of it")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
"""


def test_a_killed_writer_leaves_no_file_and_its_remains_are_swept(tmp_path):
    path = tmp_path / "result"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ()) as writer:
        assert writer.stdout.readline() == "writing\n"
        with atomic.complete(path) as partial:  # a second writer beside the first
            partial.write_text("all of it")
        assert path.read_text() == "all of it"
        assert len(list(tmp_path.iterdir())) == 2  # the living writer's file is left alone
        writer.send_signal(signal.SIGKILL)
    with atomic.complete(path) as partial:
        partial.write_text("again")
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_results_can_be_read_by_the_group(tmp_path):
    mask = os.umask(0o027)
    try:
        checkpoints.write(tmp_path / "c.safetensors", some_checkpoints())
        table.write(tmp_path / "t.parquet", some_table())
    finally:
        os.umask(mask)
    for name in ("c.safetensors", "t.parquet"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, leave):
    place = os.statvfs(folder)
    with open(folder / "other", "ab") as file:
        file.write(bytes(place.f_bavail * place.f_bsize - leave))


def test_a_full_disk_is_named_and_the_old_file_stays(small_disk):
    path = small_disk / "c.safetensors"
    table.write(small_disk / "t.parquet", some_table())
    checkpoints.write(path, some_checkpoints(1.0))
    fill(small_disk, leave=30_000)
    with pytest.raises(OSError, match=r"c\.safetensors: .*No space left"):
        checkpoints.write(path, some_checkpoints(2.0))
    assert checkpoints.read(path).state["0.weight"].eq(1.0).all()
    fill(small_disk, leave=8_000)
    with pytest.raises(OSError, match="No space left"):
        table.write(small_disk / "t.parquet", some_table(rows=100_000))
    assert table.read(small_disk / "t.parquet").num_rows == 10
    assert not list(small_disk.glob(".*.partial"))


def test_a_read_only_folder_is_named(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"Read-only file system.*t\.parquet"):
        table.write(small_disk / "t.parquet", some_table())


def test_a_broken_input_is_put_aside_and_said_so_at_every_attempt(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoints.write(path, some_checkpoints())
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"truncated.*c\.safetensors\.broken.*made anew"):  # noqa: SIM117
        with atomic.sound(path):
            checkpoints.read(path)
    assert not path.exists()
    with pytest.raises(ValueError, match=r"was broken and is now c\.safetensors\.broken"):  # noqa: SIM117
        with atomic.sound(path):
            checkpoints.read(path)


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("table.parquet", {"study": "other"}, "holds study other, but its place is that of study"),
        (f"measurements/{RUN}/metrics.parquet", {"width": 3}, "holds width 3"),
        (f"measurements/{RUN}/metrics.parquet", {"seed": 7}, "holds seed 7"),
    ],
)
def test_a_table_of_another_study_or_run_is_refused(tmp_path, place, content, message):
    path = tmp_path / "results/faults" / place
    table.write(path, some_table())
    assert table.read(path).num_rows == 10
    table.write(path, some_table(**content))
    with pytest.raises(ValueError, match=message):
        table.read(path)


# The folder's lock


CLAIM = """
import os, sys, time
from lipdescent.jobs import folder_lock
try:
    folder_lock.claim("s")
except folder_lock.BusyError as error:
    print(error)
    sys.exit(1)
print("claimed", flush=True)
sys.stdin.read()
"""
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]


def claimant(*prefix):
    """A process that has claimed study s in this folder, and ends with its stdin."""
    found = subprocess.Popen(
        [*prefix, sys.executable, "-c", CLAIM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ(),
    )  # fmt: skip
    if prefix and found.poll() is not None:
        pytest.skip("PID namespaces need root")
    return found, found.stdout.readline().strip()


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """A folder with Snakemake's locks of studies s and s2."""
    monkeypatch.chdir(tmp_path)
    folder_lock.LOCKS.mkdir(parents=True)
    for number, study in enumerate(["s", "s2"]):
        lock = folder_lock.LOCKS / f"{number}.output.lock"
        lock.write_text(f"results/{study}/table.parquet\nresults/{study}/table.csv\n")
    return sorted(folder_lock.LOCKS.iterdir())


def test_a_dead_owners_lock_is_removed_and_a_living_ones_is_not(locks):
    assert not folder_lock.clear_stale("s")  # nobody knows whose it is
    process, said = claimant()
    assert said == "claimed"
    assert folder_lock.owner("s").alive
    assert not folder_lock.clear_stale("s")
    with pytest.raises(folder_lock.BusyError, match=f"by process {process.pid} on .*kill"):
        folder_lock.claim("s")
    process.kill()
    process.communicate()
    assert folder_lock.owner("s").alive is False
    younger = folder_lock.LOCKS / "2.output.lock"
    younger.write_text(locks[0].read_text())
    os.utime(younger, (time.time() + 10,) * 2)  # another Snakemake is about to start
    assert folder_lock.clear_stale("s")
    assert sorted(folder_lock.LOCKS.iterdir()) == [locks[1], younger]
    folder_lock.claim("s")
    assert folder_lock.owner("s").process == os.getpid()


@pytest.mark.skipif(os.geteuid() != 0, reason="PID namespaces need root")
def test_an_owner_in_a_container_of_this_host_is_known_by_its_lock(locks):
    """Its number, 1 or 2, is another process's here, which must neither be asked nor killed."""
    process, said = claimant(*CONTAINER)
    assert said == "claimed"
    owner = folder_lock.owner("s")
    assert (owner.alive, owner.seen) == (True, False)
    assert owner.process < 10
    assert not folder_lock.clear_stale("s")
    assert "(kill" not in folder_lock.what_to_do(owner)
    other, said = claimant(*CONTAINER)  # beside it, with the same number
    assert "is being computed in this folder by process" in said
    other.communicate(timeout=60)
    assert other.returncode == 1
    folder_lock.forget("s")
    assert folder_lock.owner("s") is not None, "--unlock is not for the living"
    process.communicate(timeout=60)  # ends by itself, and says so
    assert folder_lock.owner("s").alive is False


@pytest.mark.skipif(os.geteuid() != 0, reason="PID namespaces need root")
def test_a_reader_without_proc_sees_the_living_by_the_lock_and_calls_nobody_dead(locks):
    process, _ = claimant()
    look = """
from lipdescent.jobs import folder_lock
print(folder_lock.owner("s").alive)
(folder_lock.OWNERS / "s.lock").unlink(missing_ok=True)
__import__("pathlib").Path("results/s/.lock").unlink(missing_ok=True)
print(folder_lock.owner("s").alive)
"""
    without = ["unshare", "--mount", "sh", "-c", 'umount -l /proc; exec "$@"', "sh"]
    command = [*without, sys.executable, "-c", look]
    told = subprocess.run(command, capture_output=True, text=True, env=environ())
    process.communicate(timeout=60)
    assert told.stdout.split() == ["True", "None"], told.stderr


@pytest.mark.parametrize("change", [{"machine": "another start", "host": "elsewhere"}])
def test_an_owner_on_another_host_is_neither_alive_nor_dead_until_it_says_so(locks, change):
    process, _ = claimant()
    process.kill()
    process.communicate()
    note = folder_lock.OWNERS / "s.json"
    since = note.stat().st_mtime
    note.write_text(json.dumps(json.loads(note.read_text()) | change))
    os.utime(note, (since, since))
    assert folder_lock.owner("s").alive is None
    assert not folder_lock.clear_stale("s")
    with pytest.raises(folder_lock.BusyError, match=r"on elsewhere, of which nothing.*--unlock"):
        folder_lock.claim("s")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"ended": True}))
    assert folder_lock.owner("s").alive is False
    note.write_text(json.dumps(json.loads(note.read_text()) | {"ended": False}))
    folder_lock.forget("s")
    folder_lock.claim("s")
    assert folder_lock.owner("s").alive


def test_a_process_that_ends_says_so_and_its_claim_keeps_its_time(locks):
    process, _ = claimant()
    before = folder_lock.owner("s")
    process.communicate(timeout=60)
    after = folder_lock.owner("s")
    assert (before.ended, after.ended) == (False, True)
    assert after.since == before.since


def test_a_copy_of_a_folder_that_is_being_computed_is_nobodys(locks, tmp_path, monkeypatch):
    process, _ = claimant()
    shutil.copytree(tmp_path, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert folder_lock.owner("s").process == process.pid
    assert folder_lock.clear_stale("s")
    folder_lock.claim("s")
    process.communicate(timeout=60)


def test_folders_that_share_their_results_share_the_claim(locks, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "results").mkdir(exist_ok=True)
    (tmp_path / "other/results").symlink_to(tmp_path / "results")
    process, _ = claimant()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(folder_lock.BusyError, match=r"holds a lock of results/s/\.lock"):
        folder_lock.claim("s")
    process.communicate(timeout=60)
    folder_lock.claim("s")


def test_a_file_that_a_container_writes_is_not_swept(tmp_path):
    """Host name and number are not enough: the writer's number is nobody's here."""
    path = tmp_path / "result"
    with atomic.complete(path) as partial:
        place, number, _ = partial.name.rsplit(".", 2)
        partial.write_text("1")
    assert number == str(os.getpid())
    theirs = tmp_path / f"{place.rsplit('-', 1)[0]}-1234.4194000.partial"
    ours = tmp_path / f"{place}.4194000.partial"  # beyond the largest number that is in use
    for left in (theirs, ours):
        left.touch()
    atomic.sweep(path)
    assert theirs.exists()
    assert not ours.exists()


# Seed blocks


def test_added_seeds_leave_the_blocks_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def config(seeds, size):
        return {"study": "s", "grid": {"seed": seeds}, "execution": {"seeds_per_block": size}}

    assert seed_blocks(config([0, 1, 2, 3], 3)) == [(0, 1, 2), (3,)]
    record_plan(config([0, 1, 2, 3], 3))
    more = config([0, 1, 2, 3, 4, 5, 6, 7], 3)
    assert seed_blocks(more) == [(0, 1, 2), (3,), (4, 5, 6), (7,)]
    assert seed_blocks(config([0, 1, 2, 3], 2)) == [(0, 1, 2), (3,)]
    assert seed_blocks(config([1, 2, 3], 3)) == [(3,), (1, 2)]
    for broken in (
        "cut in ha", "[]", "null", '{"seed_blocks": 3}', '{"seed_blocks": [["0"], [1, [2]]]}',
        '{"seed_blocks": [[0, 1], [1, 2]]}', '{"seed_blocks": [[0, 1, 1], []]}',
    ):  # fmt: skip
        plan_file("s").write_text(broken)
        assert seed_blocks(more) == [(0, 1, 2), (3, 4, 5), (6, 7)], broken
        assert last_start("s") == {}


# The whole workflow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


def copy_data(finished, folder):
    """The prepared data set of a finished study."""
    shutil.copytree(finished / "results/faults/datasets", folder / "results/faults/datasets")


def test_jobs_that_start_as_forks_give_the_same(finished, tmp_path):
    copy_data(finished, tmp_path)
    run(tmp_path, forks=False)
    assert rows(tmp_path).equals(rows(finished))


def test_snakemake_killed_two_at_once_then_broken_files(finished, tmp_path):
    """SIGKILL of Snakemake alone, whose jobs are processes of their own; a second Snakemake beside
    a living one; files cut in half."""
    own = STUDY["execution"] | {"fork_server": False}
    slow = STUDY | {"grid": STUDY["grid"] | {"epoch": [0, 2, 50_000]}, "execution": own}
    log = tmp_path / "results/faults/logs/train" / f"{RUN}.log"
    first = subprocess.Popen(
        typed(tmp_path, "--", TARGET, config=slow),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (log.exists() and "models on cpu" in log.read_text()):
            assert first.poll() is None, "ended before it trained"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = run(tmp_path, ok=False)
        assert f"by process {first.pid} on" in second
        advice = second.rpartition("Building DAG")[2]  # the last that is said
        assert "not started: study faults is being computed in this folder by" in advice
        assert advice.rstrip().endswith("do not say --unlock")
        assert with_log_open(tmp_path)
    finally:
        first.kill()
        first.wait()
    time.sleep(0.5)
    assert not with_log_open(tmp_path), "jobs outlive their Snakemake"
    assert "lock is removed" in run(tmp_path)
    assert rows(tmp_path).equals(rows(finished))
    # A file that was cut short is known by its length, and made anew.
    saved = tmp_path / "results/faults/checkpoints" / f"{RUN}.safetensors"
    os.truncate(saved, saved.stat().st_size // 2)
    measured = tmp_path / "results/faults/measurements" / RUN / "metrics.parquet"
    measured.unlink()
    assert "train: carries no sound record of what made it" in run(tmp_path)
    assert rows(tmp_path).equals(rows(finished))


def test_a_study_whose_locks_were_taken_away_is_not_computed_twice(tmp_path, monkeypatch):
    """By --unlock, or by another study's Snakemake: it removes every lock when it ends."""
    monkeypatch.chdir(tmp_path)
    folder_lock.claim("faults")
    second = run(tmp_path, ok=False)
    assert f"study faults is being computed in this folder by process {os.getpid()} on" in second
    assert "cannot be locked" not in second
    assert not (tmp_path / "results/faults/plan.json").exists()  # nothing was done


def test_training_told_to_stop_saves_its_state_and_goes_on(finished, tmp_path):
    """SIGTERM, then SIGUSR1: what schedulers send before they kill. The terminal goes away too."""
    target = f"results/faults/checkpoints/{RUN}.safetensors"
    execution = STUDY["execution"] | {"progress_interval": 0.1}
    config = STUDY | {"grid": STUDY["grid"] | {"epoch": [0, 2, 6000]}, "execution": execution}
    whole, told = tmp_path / "whole", tmp_path / "told"
    for folder in (whole, told):
        copy_data(finished, folder)
    forked = config | {"execution": execution | {"fork_server": False}}
    tiny_study.run(whole, "--", target, config=forked)
    signals = [signal.SIGTERM, signal.SIGUSR1]
    log = told / "results/faults/logs/train" / f"{RUN}.log"
    terminal, writing = os.pipe()
    process = subprocess.Popen(
        typed(told, "--retries", "2", "--", target, config=config),
        stdout=writing, stderr=writing,
    )  # fmt: skip
    os.close(writing)
    said = {}
    while process.poll() is None:
        # Who has a log open is asked of every process, so not before a job has computed.
        if signals and log.exists() and " s left" in log.read_text():
            training = [job for job, rule in with_log_open(told).items() if rule == "train"]
            if training and training[:1] not in said.values():
                if not said:
                    os.close(terminal)
                said[signals[0]] = training[:1]
                os.kill(training[0], signals.pop(0))
        time.sleep(0.05)
    assert process.returncode == 0
    assert list(said) == [signal.SIGTERM, signal.SIGUSR1]
    assert "going on from epoch" in log.read_text()
    assert not (told / target).with_suffix(".state").exists()
    one, other = (checkpoints.read(folder / target).state for folder in (whole, told))
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


def with_log_open(folder):
    """Processes of jobs: process -> rule."""
    logs = folder / "results/faults/logs"
    return {
        process: Path(path).relative_to(logs.resolve()).parts[0].removesuffix(".log")
        for path, processes in open_files.below(logs).items()
        for process in processes
    }


def test_the_first_job_of_every_rule_killed(finished, tmp_path):
    """SIGKILL of a dataset, training, measuring, aggregating, plotting, ... job; then a retry."""
    config = STUDY | {"figures": ["double_descent"]}
    config["execution"] = STUDY["execution"] | {"fork_server": False}
    killed, log = set(), tmp_path / "snakemake.txt"
    with log.open("w") as output:
        process = tiny_study.start(
            tmp_path, "--retries", "1", config=config, stdout=output, stderr=output
        )
        while process.poll() is None:
            for job, rule in with_log_open(tmp_path).items():
                if rule not in killed:
                    killed.add(rule)
                    os.kill(job, signal.SIGKILL)
            time.sleep(0.03)  # who has a log open is asked of every process
    assert process.returncode == 0, log.read_text()
    pages = {"findings", "explorer", "start_page"}
    expected = {"dataset", "train", "measure", "table", "figure", "provenance"} | pages
    assert killed >= expected - pages - {"dataset"}  # these may be over before they are seen
    assert killed <= expected
    assert rows(tmp_path).equals(rows(finished))
    figure = tmp_path / "results/faults/figures/mnist1d/mlp/double_descent.pdf"
    assert b"%%EOF" in figure.read_bytes()
    assert stamps.read(figure) is not None  # its seal is that of all before it
    assert not list((tmp_path / "results").rglob(".*.partial"))


def test_a_measurement_of_another_study_is_replaced(finished, tmp_path):
    subprocess.run(["cp", "-a", f"{finished}/.", tmp_path], check=True)
    path = tmp_path / "results/faults/measurements" / RUN / "metrics.parquet"
    foreign = pq.read_table(path).to_pandas()
    foreign["study"], foreign["value"] = "other", 123.0
    table.write(path, table.pa.Table.from_pandas(foreign, table.COLUMNS, preserve_index=False))
    assert "measure: carries no sound record of what made it" in run(tmp_path)
    assert rows(tmp_path).equals(rows(finished))


@pytest.mark.parametrize("added", [{"width": [2, 9]}, {"seed": [0, 1, 2]}])
def test_added_widths_and_seeds_train_only_what_is_new(finished, tmp_path, added):
    subprocess.run(["cp", "-a", f"{finished}/.", tmp_path], check=True)
    plan = run(tmp_path, "-n", "--quiet", "rules", config=STUDY | {"grid": STUDY["grid"] | added})
    counts = dict(line.split() for line in plan.splitlines() if len(line.split()) == 2)
    assert (counts["train"], counts["measure"], counts["table"]) == ("1", "1", "1")
    assert "dataset" not in counts

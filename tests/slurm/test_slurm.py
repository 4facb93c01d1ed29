"""A real Slurm, started and stopped here: the study runs on it, also under faults.

Needs root and Debian's slurm-wlm and munge. Compares with a run on this machine, row by row.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lipdescent.jobs import open_files
from lipdescent.storage import table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGET = "results/slurm/table.parquet"
STUDY = {
    "study": "slurm",
    "device": "cpu",
    "grid": {"width": [2, 3], "label_noise": [0], "seed": [0, 1], "epoch": [0, 2, 12_000]},
    "datasets": {"mnist1d": {"num_train": 40, "num_test": 20}},
    "bounds": dict.fromkeys(yaml.safe_load((ROOT / "config/config.yaml").read_text())["bounds"]),
    "figures": [],
    "execution": {"seeds_per_block": 2, "state_interval": 0.5, "stop_before_limit": 0},
}
QUICK = STUDY | {"grid": STUDY["grid"] | {"epoch": [0, 2]}}
PATIENCE = 900
STARTED = []

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm is started as root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
        reason="no Slurm here: apt-get install slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A controller and two nodes of 2 CPUs, 4.5 GB and a GPU on paper each."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(
        [HERE / "start.sh", folder / "state"], capture_output=True, text=True, timeout=120
    )
    if started.returncode in (1, 2) and "cluster" in started.stderr:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stdout + started.stderr
    yield folder
    subprocess.run([HERE / "stop.sh"], check=True, timeout=120)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the workflow: the checkout may change under a long test."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("workflow", "scripts", "config", "envs", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    return folder


def command(source, folder, *arguments, config=QUICK, target=TARGET, on_slurm=True):
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(config))
    where = ["--cores", "2"]
    if on_slurm:
        where = [
            "--workflow-profile", str(source / "profiles/slurm"), "--latency-wait", "10",
            "--slurm-init-seconds-before-status-checks", "2",
        ]  # fmt: skip
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(source / "Snakefile"),
        "--directory", str(folder), "--configfile", str(overlay), *where, *arguments, "--", target,
    ]  # fmt: skip


def run(*arguments, ok=True, **keywords):
    done = subprocess.run(
        command(*arguments, **keywords), capture_output=True, text=True, timeout=PATIENCE
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) is ok, output
    return output


def rows(folder):
    frame = table.read(folder / TARGET).to_pandas()
    text = [name for name in frame.columns if frame[name].dtype == "category"]
    keys = ["width", "label_noise", "seed", "epoch", "split", "quantity", "norm"]
    return frame.astype(dict.fromkeys(text, str)).sort_values(keys, ignore_index=True)


def queue(*columns):
    """Fields of all jobs, ended ones included, in no order."""
    done = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--array", "--format", "|".join(columns)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("|") for line in done.stdout.splitlines()]


def wait_for(what, condition, process=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        assert process is None or process.poll() is None, f"{what}: Snakemake ended before"
        time.sleep(0.2)


def training_log(folder, width):
    return folder / f"results/slurm/logs/train/mnist1d/mlp/width={width}/seeds=0-1.log"


def test_the_table_equals_the_local_one_and_gpus_go_to_gpu_jobs(slurm, source, tmp_path):
    local, remote = tmp_path / "local", tmp_path / "remote"
    local.mkdir()
    remote.mkdir()
    run(source, local, on_slurm=False)
    # There is no GPU here: the jobs ask for one as they would with device cuda.
    run(source, remote, "--set-resources", "train:gpu=1", "measure:gpu=1")
    assert rows(remote).equals(rows(local))
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "jobs"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    asked = {}
    for line in shown:
        rule = line.split("Comment=rule_")[1].split("_")[0].split()[0]
        asked.setdefault(rule, set()).add("gres:gpu:1" in line)
    assert asked == {"dataset": {False}, "train": {True}, "measure": {True}, "table": {False}}
    # A failed task of an array would delete another's outputs; measurements share a submission.
    assert not any("ArrayTaskId" in line for line in shown)
    assert sum("rule_measure" in line for line in shown) == 1
    assert list((remote / "results/slurm/logs/train").rglob("*.log"))


def hold(folder):
    """Stop training processes that have saved a state, before they can end: job -> process."""
    jobs = {}
    logs = folder / "results/slurm/logs/train"
    for log, processes in open_files.below(logs).items():
        run = Path(log).relative_to(logs.resolve()).with_suffix(".state")
        if (folder / "results/slurm/checkpoints" / run).exists():
            for process in processes:
                with contextlib.suppress(OSError):  # it has ended
                    environment = Path(f"/proc/{process}/environ").read_bytes()
                    os.kill(process, signal.SIGSTOP)
                    variables = dict(v.split(b"=", 1) for v in environment.split(b"\0") if v)
                    jobs[variables[b"SLURM_JOB_ID"].decode()] = process
    return jobs


def training_jobs(state="RUNNING"):
    """(raw id, id for people, node) of training jobs in this state."""
    found = queue("%A", "%i", "%N", "%T", "%k")
    return [(raw, job, node) for raw, job, node, s, c in found if s == state and "train" in c]


def held(folder, count, process, known=()):
    """``count`` more training jobs, stopped as soon as they have saved a state: job -> process."""
    jobs = {}

    def all_held():
        jobs.update({job: p for job, p in hold(folder).items() if job not in known})
        return len(jobs) == count

    wait_for("training jobs", all_held, process)
    return jobs


def start(source, folder, *arguments, config):
    with open(folder / "snakemake.txt", "a") as log:
        STARTED.append(
            subprocess.Popen(
                command(source, folder, *arguments, config=config),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )
        )  # fmt: skip
    return STARTED[-1]


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path):
    """A test leaves no Snakemake, no job and no stopped process.

    Without cgroups Slurm does not see what a job has started once its parent is dead.
    """
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    STARTED.clear()
    jobs = [raw for raw, state in queue("%A", "%T") if state in ("RUNNING", "PENDING")]
    for raw in jobs:
        subprocess.run(["scancel", "--full", "--signal=KILL", raw], check=False)
        subprocess.run(["scancel", raw], check=False)
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(place / "cwd")).is_relative_to(tmp_path):
                os.kill(int(place.name), signal.SIGKILL)


def finish(process, folder):
    process.wait(timeout=PATIENCE)
    output = (folder / "snakemake.txt").read_text()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(slurm, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(source, folder, config=STUDY, on_slurm=False)
    return rows(folder)


def test_over_memory_then_cancelled_preempted_and_over_time(undisturbed, source, tmp_path):
    before = {job for (job,) in queue("%i")}
    memory = "train:mem_mb=200 if attempt == 1 else 1800"
    process = start(source, tmp_path, "--set-resources", memory, config=STUDY)
    first = held(tmp_path, 2, process)
    (_, cancelled, _), (_, late, _) = training_jobs()
    subprocess.run(["scancel", cancelled], check=True)
    subprocess.run(["scontrol", "update", f"jobid={late}", "timelimit=1"], check=True)
    # The next attempt of the cancelled one is preempted: SIGTERM, and time to end by itself.
    ((raw, stopped),) = held(tmp_path, 1, process, known=first).items()
    subprocess.run(["scancel", "--signal=TERM", raw], check=True)
    os.kill(stopped, signal.SIGCONT)
    logs = [training_log(tmp_path, width) for width in STUDY["grid"]["width"]]
    wait_for(
        "a saved state",
        lambda: any("stopped after epoch" in log.read_text() for log in logs),
        process,
    )
    output = finish(process, tmp_path)
    states = sorted(s for i, s, c in queue("%i", "%T", "%k") if i not in before and "train" in c)
    ended = ["CANCELLED", "COMPLETED", "COMPLETED", "FAILED", "FAILED", "FAILED", "TIMEOUT"]
    assert states == ended
    assert rows(tmp_path).equals(undisturbed), output
    assert all("going on from epoch" in log.read_text() for log in logs)
    assert not list((tmp_path / "results").rglob("seeds=0-1.state"))


def test_snakemake_killed_with_jobs_running_then_a_node_goes_down(undisturbed, source, tmp_path):
    process = start(source, tmp_path, config=STUDY)
    orphans = held(tmp_path, 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for orphan in orphans.values():  # they run on beside the jobs of the next Snakemake
        os.kill(orphan, signal.SIGCONT)
    process = start(source, tmp_path, config=STUDY)
    old = set(orphans)
    wait_for("a new job", lambda: {j[0] for j in training_jobs()} - old, process)
    raw, job, node = next(j for j in training_jobs() if j[0] not in old)
    # Of a job that a lost node has not launched yet, Slurm holds what it requeues.
    wait_for("its processes", lambda: processes(raw), process)
    subprocess.run(
        ["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True
    )
    wait_for("requeued", lambda: raw not in {j[0] for j in training_jobs()}, process)
    wait_for("the node's processes are gone", lambda: not end_processes(raw), process)
    wait_for("the node is up again", lambda: resumed(node), process)
    # Slurm lets a requeued job wait two minutes.
    subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], capture_output=True)
    output = finish(process, tmp_path)
    assert "lock is removed" in output
    assert rows(tmp_path).equals(undisturbed), output


def end_processes(job):
    """Kill what runs of a job, as the loss of its node does; how many processes there were."""
    found = processes(job)
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def processes(job):
    """What runs of a job."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, environment = ((place / n).read_bytes() for n in ("cmdline", "environ"))
            step = command.startswith(f"slurmstepd: [{job}.".encode())
            if step or f"SLURM_JOB_ID={job}".encode() in environment.split(b"\0"):
                found.append(int(place.name))
    return found


def resumed(node):
    """Ask for it; refused where the node's daemon has registered again by itself."""
    ask = ["scontrol", "update", f"nodename={node}", "state=resume"]
    subprocess.run(ask, capture_output=True, check=False)
    state = subprocess.run(
        ["sinfo", "--noheader", "--nodes", node, "--format", "%T"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return "down" not in state and "drain" not in state


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--default-resources", "slurm_partition=nowhere"], "this cluster has main"),
        (["--set-resources", "train:mem_mb=900000"], "the largest node of the cluster has 4500 MB"),
        (["--set-resources", "train:gpu=1", "train:slurm_partition=nowhere"], "has main"),
    ],
)
def test_what_the_cluster_cannot_run_is_refused_before_submission(
    slurm, source, tmp_path, arguments, message
):
    before = len(queue("%i"))
    output = run(source, tmp_path, *arguments, ok=False)
    assert message in output
    assert len(queue("%i")) == before


def test_a_folder_that_the_nodes_do_not_see(slurm, source, tmp_path):
    """A file system that only Snakemake sees: the job fails at once and the hint says why."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    target = "results/slurm/datasets/mnist1d.npz"
    arguments = command(source, hidden, "--retries", "0", target=target)
    shutil.move(hidden / "overlay.yaml", tmp_path)
    script = f'mount -t tmpfs none {hidden} && cp {tmp_path}/overlay.yaml {hidden} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, "bash", *arguments],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert "Do the nodes see" in output, output

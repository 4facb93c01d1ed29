"""What a cluster can run, what jobs ask for, and in what state a study is."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from lipdescent.jobs import resources, slurm, time_limit
from lipdescent.study.config import prepare
from lipdescent.study.runs import runs_of
from lipdescent.study.schema import ConfigError

ROOT = Path(__file__).parents[2]
NODES = [
    slurm.Node("main", True, 4000, 2, 120.0, False, "n1"),
    slurm.Node("gpu", False, 64_000, 16, float("inf"), True, "n2"),
]


@pytest.fixture
def config():
    given = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"figures": []}
    schema = ROOT / "workflow/schemas/config.schema.yaml"
    return prepare(given, schema=schema, figures=[], comparisons=[])


def ask(**changes):
    given = {"mem_mb": 1000, "cpus": 1, "minutes": 10, "gpus": 0, "partition": None}
    return slurm.Request(rule="train", **(given | changes))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", float("inf")), ("30", 30), ("1:30", 1.5), ("2:00:00", 120),
        ("1-00:00:00", 1440), ("2-03", 48 * 60 + 180),
    ],
)  # fmt: skip
def test_slurm_times(text, minutes):
    assert time_limit.minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask(partition="mian"), "slurm_partition = 'mian'.*this cluster has gpu, main"),
        (ask(mem_mb=5000, partition="main"), "mem_mb = 5000 MB: the largest node .* has 4000 MB"),
        (ask(mem_mb=65_000), "the largest node of the cluster has 64000 MB"),
        (ask(cpus=3, partition="main"), "cpus = 3: .* has 2"),
        (ask(gpus=1, partition="main"), "asks for a GPU: no node of partition 'main' has one"),
    ],
)
def test_what_no_node_can_run_is_refused(request_, message):
    slurm.check([ask(), ask(mem_mb=60_000), ask(gpus=1, partition="gpu")], NODES)
    with pytest.raises(ConfigError, match=message):
        slurm.check([ask(), request_], NODES)


def test_time_limits_of_partitions():
    assert slurm.longest(None, NODES) == 120
    assert slurm.longest("gpu", NODES) == float("inf")


def fake_command(folder, name, output, status=0):
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {status}\n")
    path.chmod(0o755)


def test_nodes_by_sinfo(tmp_path, monkeypatch):
    fake_command(
        tmp_path, "sinfo", "main*|4000|2|2:00:00|(null)|n1\ngpu|64000+|16|infinite|gpu:2|n2"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.nodes() == NODES
    fake_command(tmp_path, "sinfo", "", status=1)
    with pytest.raises(ConfigError, match="Slurm does not answer"):
        slurm.nodes()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no Slurm on this machine"):
        slurm.nodes()


def test_the_end_of_a_job(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert time_limit.job_end() is None
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    fake_command(tmp_path, "squeue", "5:00")
    assert time_limit.job_end() == pytest.approx(time.time() + 300, abs=10)
    fake_command(tmp_path, "squeue", "UNLIMITED")
    assert time_limit.job_end() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1234")
    assert time_limit.job_end() == 1234


def test_a_folder_in_memory_is_refused_where_nodes_are_elsewhere(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw\nb {tmp_path} tmpfs rw\nc {tmp_path}/home nfs4 rw\n")
    assert slurm.file_system(tmp_path / "x", mounts) == "tmpfs"
    assert slurm.file_system(tmp_path / "home/y", mounts) == "nfs4"
    monkeypatch.setattr(slurm, "file_system", lambda _: "tmpfs")
    with pytest.raises(ConfigError, match=r"on a tmpfs .*\(n1, \.\.\.\) do not see"):
        slurm.check_shared(tmp_path, NODES)
    monkeypatch.setattr(slurm, "file_system", lambda _: "nfs4")
    slurm.check_shared(tmp_path, NODES)


def test_slurm_profile_without_slurm_says_so(tmp_path, config, counted_here):
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("there is a Slurm here")
    resources.train(config, runs_of(config))  # Snakemake finds in its folder what its networks take
    done = subprocess.run(
        [
            "python", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"),
            "--directory", str(tmp_path), "--workflow-profile", str(ROOT / "profiles/slurm"),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Slurm" in done.stdout + done.stderr, done.stderr
    assert not (tmp_path / "results").exists()


def test_needs_grow_with_the_study_and_the_attempt(config, counted_here):
    runs = runs_of(config)
    widest, narrowest = resources.train(config, runs[:1]), resources.train(config, runs[-1:])
    assert resources.train(config, runs) == widest
    assert widest["mem_mb"] > narrowest["mem_mb"]
    assert widest["runtime"] > narrowest["runtime"]
    again = resources.train(config, runs, 2)
    assert again["mem_mb"] >= 1.45 * widest["mem_mb"]
    assert again["runtime"] >= 2 * widest["runtime"] - 1
    first, second = (resources.measure(config, runs[0], attempt) for attempt in (1, 2))
    assert second["runtime"] > first["runtime"]
    assert resources.publish(config, runs)["mem_mb"] > resources.BASE_MB

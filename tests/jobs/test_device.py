"""Which device a job takes, on pretended ones."""

import fcntl
import os
import types
from pathlib import Path

import pytest
from pretend_cuda import PretendCuda

from lipdescent.jobs import device, gpus


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where locks of devices lie; this process has none yet."""
    monkeypatch.setattr(device.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(device, "_taken", {})
    yield tmp_path
    the_process_ends()


def the_process_ends():
    while device._taken:
        os.close(device._taken.popitem()[1])


def another_process_takes(folder, index):
    place = next(folder.glob("lipdescent-gpus-*"))
    file = (place / f"pretended-{index}").open("a")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


@pytest.mark.parametrize(("threads", "said"), [(1, "cpu (1 thread)"), (2, "cpu (2 threads)")])
def test_a_processor_is_told_with_its_threads(threads, said, monkeypatch):
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: threads)
    assert device.describe(device.torch.device("cpu")) == said


def test_jobs_spread_over_the_devices(folder):
    with PretendCuda(count=3) as pretence:
        assert device.choose("auto").index == 0
        assert device.choose("cuda").index == 0, "a process stays with its device"
        the_process_ends()
        others = [another_process_takes(folder, 0)]
        assert device.choose("auto").index == 1
        assert pretence.current == 1
        others[0].close()
        the_process_ends()
        assert device.choose("auto").index == 0
        the_process_ends()
        others = [another_process_takes(folder, index) for index in range(3)]
        assert device.choose("cuda").index in range(3), "more jobs than devices share them"
        for file in others:
            file.close()


def test_a_device_by_its_number_is_the_one_and_current(folder):
    with PretendCuda(count=2) as pretence:
        assert device.choose("cuda:1").index == 1
        assert pretence.current == 1
        with pytest.raises(ValueError, match="'cuda:2': this machine has 2 usable CUDA devices"):
            device.choose("cuda:2")
    assert not list(folder.iterdir()), "nothing to choose, nothing to lock"


def test_without_a_lock_jobs_may_share_a_device(folder, capsys):
    """A foreign or broken place for locks is neither followed nor written to, and no error."""
    place = folder / f"lipdescent-gpus-{os.getuid()}"
    place.mkdir()
    precious = folder / "precious"
    precious.write_text("kept")
    (place / "pretended-0").symlink_to(precious)
    with PretendCuda(count=2):
        assert device.choose("auto").index in (0, 1)
        assert precious.read_text() == "kept"
        assert "no lock of a CUDA device" in capsys.readouterr().out
        (place / "pretended-0").unlink()
        place.rmdir()
        place.write_text("a file")
        assert device.choose("auto").index in (0, 1)
        place.unlink()
        assert device.choose("auto").index == 0
        assert device._taken


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        *((None, 4), ("", 0), ("-1", 0), ("0", 1), ("0,2", 2), ("1,-1,2", 1), ("GPU-1,GPU-2", 2)),
        *(("0,9,1", 1), ("5", 0), ("none", 0), (",", 0), ("0,,1", 1), (" 1, 3", 2)),
    ],
)
def test_gpus_that_jobs_may_choose(monkeypatch, hidden, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(gpus, "_devices", lambda: 4)
    assert gpus.visible_gpus() == expected
    monkeypatch.setattr(gpus, "shares", lambda: 3)
    assert gpus.shares_of_machine("auto") == 3 * max(1, expected)
    assert gpus.shares_of_machine("cuda:1") == 3
    assert [gpus.shares_of_job(mb) for mb in (1, 2500, 2501, 1e6)] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("says", "expected"),
    [("GPU 0: A (UUID: x)\nGPU 1: B (UUID: y)", 2), ("No devices were found", 0)],
)
def test_devices_that_only_the_driver_shows(monkeypatch, tmp_path, says, expected):
    monkeypatch.setattr(
        gpus, "Path", lambda path: types.SimpleNamespace(glob=lambda pattern: range(0))
    )
    monkeypatch.setattr(gpus, "WSL", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    gpus._devices.cache_clear()
    try:
        if Path("/usr/bin/nvidia-smi").exists():
            pytest.skip("this machine has a driver of its own")
        assert gpus._devices() == 0
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        gpus._devices.cache_clear()
        assert gpus._devices() == expected
    finally:
        gpus._devices.cache_clear()

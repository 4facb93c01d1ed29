"""Processes that share a job's work: the same answers in the same order, and no process is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lipdescent.jobs import workers

SCRIPTS = Path(workers.__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one process")


@pytest.fixture(autouse=True)
def one_again():
    yield
    workers.allow(1)


@pytest.mark.parametrize(("allowed", "items", "processes"), [(1, 5, 1), (3, 7, 3), (8, 2, 2)])
def test_answers_come_in_the_order_of_the_items(allowed, items, processes):
    workers.allow(allowed)
    found = workers.mapped(lambda i: (torch.full((3,), float(i)), os.getpid()), range(items))
    assert [tensor.tolist() for tensor, _ in found] == [[float(i)] * 3 for i in range(items)]
    assert len({pid for _, pid in found}) == processes
    assert found[0][1] == os.getpid()


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_one_raises_is_raised(bad):
    workers.allow(3)

    def share(i):
        if i == bad:
            raise ValueError(f"item {i}")
        return i

    with pytest.raises(ValueError, match=f"item {bad}"):
        workers.mapped(share, range(3))


def test_a_killed_process_is_a_fault_of_the_machine():
    workers.allow(2)
    mine = os.getpid()
    with pytest.raises(OSError, match="ended without an answer"):
        workers.mapped(
            lambda _: None if os.getpid() == mine else os.kill(os.getpid(), signal.SIGKILL),
            range(2),
        )


def test_a_killed_job_takes_them_along():
    body = (
        "import os, time\nfrom lipdescent.jobs import workers\nworkers.allow(2)\n"
        "def share(i):\n    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(60)\n"
        "workers.mapped(share, range(2))"
    )
    environ = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-c", body]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as job:
        (other,) = {int(job.stdout.readline()) for _ in range(2)} - {job.pid}
        job.kill()
    began = time.monotonic()
    while not ended(other) and time.monotonic() - began < 10:
        time.sleep(0.02)
    outlived = not ended(other)
    if outlived:
        os.kill(other, signal.SIGKILL)
    assert not outlived


def ended(pid):
    """Whether a process is gone, or waits for nothing but somebody who asks after it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (lambda i: (_ for _ in ()).throw(Odd(1, 2)) if i else i, "Odd: 1 and 2"),
        (lambda i: (lambda: i) if i else i, "pickle"),  # an answer that cannot be sent
    ],
)
def test_what_cannot_be_sent_is_told_in_words(share, said):
    workers.allow(2)
    with pytest.raises(Exception, match=f"(?i){said}") as found:
        workers.mapped(share, range(2))
    assert not isinstance(found.value, OSError)  # which is the machine's fault

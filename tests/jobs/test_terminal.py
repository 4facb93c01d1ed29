"""Terminals that go away, pipes that nobody reads, and what a user's environment may not change."""

import fcntl
import io
import logging
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipdescent.jobs import job_environment
from lipdescent.jobs.progress import Progress, log_to
from lipdescent.jobs.terminal import Terminal

SCRIPTS = Path(job_environment.__file__).parents[2]


def pipe():
    """Reading end, and a stream of the writing end."""
    read, write = os.pipe()
    return read, open(write, "w", encoding="utf-8")


def test_what_is_written_arrives_as_it_is():
    read, stream = pipe()
    with stream:
        print("L ≤ 3", "x" * 2000, file=Terminal(stream), flush=True)
        assert os.read(read, 10_000).decode() == "L ≤ 3 " + "x" * 2000 + "\n"
    os.close(read)


@pytest.fixture
def as_a_job(monkeypatch):
    """Streams and logging are put back afterwards."""
    library = logging.getLogger("lipdescent")
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setattr(library, "level", library.level)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


@pytest.mark.usefixtures("as_a_job")
@pytest.mark.parametrize("kind", ["pipe", "terminal", "closed", "none", "raising"])
def test_a_terminal_that_went_away_costs_nothing(kind, tmp_path, monkeypatch):
    """EPIPE, EIO, a closed stream, no stream, and one that is no file."""

    class Raising(io.StringIO):
        def write(self, text):
            raise OSError("gone")

    if kind in ("pipe", "terminal"):
        read, write = os.pipe() if kind == "pipe" else pty.openpty()
        stream = open(write, "w")  # noqa: SIM115
        os.close(read)
    elif kind == "closed":
        stream = open(tmp_path / "file", "w")  # noqa: SIM115
        stream.close()
    else:
        stream = {"none": None, "raising": Raising()}[kind]
    monkeypatch.setattr(sys, "stderr", stream)
    log_to(tmp_path / "log", label="100 % {0}")
    count = 1 if kind == "none" else 2
    progress = Progress(count, 3, interval=0)
    progress.begin(0)
    for epoch in range(3):
        progress.update(epoch + 1)
    logging.getLogger("lipdescent.x").debug("of no interest")
    sys.stdout.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line[:20] for line in lines] == [f"100 % {{0}}: epoch {i}/3" for i in (1, 2, 3)]
    assert all((", 1 model, " if count == 1 else ", 2 models, ") in line for line in lines)
    if kind in ("pipe", "terminal"):
        os.write(stream.fileno(), b"a process started from here writes to nowhere")
        stream.close()


def test_a_pipe_that_nobody_reads_is_not_waited_for():
    read, stream = pipe()
    fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 16384)
    terminal = Terminal(stream, patience=0.3)
    begin = time.monotonic()
    for number in range(3000):
        terminal.write(f"line {number:04}\n")
    assert 0.3 <= time.monotonic() - begin < 1.5  # once, not three thousand times
    first = os.read(read, 16384).decode()
    assert first.startswith("line 0000\nline 0001\n")
    terminal.write("read again\n")
    os.set_blocking(read, False)
    assert os.read(read, 16384).decode().endswith("read again\n")
    stream.close()
    os.close(read)


def test_a_slow_reader_gets_everything():
    text = "".join(f"line {number}\n" for number in range(5000))
    program = "import sys, time\nfor line in sys.stdin: time.sleep(1e-5); print(line, end='')"
    reader = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    terminal = Terminal(reader.stdin, patience=10)
    for line in text.splitlines(keepends=True):
        terminal.write(line)
    assert reader.communicate()[0] == text


OUTLIVES = """
import logging, os, signal, sys
from lipdescent.jobs import terminal
logger = logging.getLogger("x")
logger.addHandler(logging.StreamHandler(sys.stderr))
logger.addHandler(logging.FileHandler("log"))
logger.error("before")
terminal.outlive(logger.handlers)
sys.stdin.readline()
for number in range(100):
    print("printed", number)
    print("printed", number, file=sys.stderr)
    logger.error("logged %d", number)
os.system("echo from a child; echo from a child >&2")
"""


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_process_and_its_logging_outlive_the_terminal(kind, tmp_path):
    read, write = os.pipe() if kind == "pipe" else pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", OUTLIVES], cwd=tmp_path, stdin=subprocess.PIPE,
        stdout=write, stderr=write, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
    )  # fmt: skip
    os.close(write)
    assert os.read(read, 100).strip() == b"before"
    os.close(read)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "log").read_text().splitlines()[-1] == "logged 99"


@pytest.mark.usefixtures("as_a_job")
def test_the_library_logs_to_log_and_terminal_and_prints_to_the_log(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    log_to(tmp_path / "log", label="a")
    print("printed")
    logging.getLogger("lipdescent.x").info("%s", "told")
    logging.getLogger("other").warning("of another library")
    assert terminal.getvalue() == "a: told\n"
    sys.stdout.close()
    said = (tmp_path / "log").read_text().splitlines()
    assert said[:2] == ["printed", "a: told"]


# The environment of jobs


def job(program, tmp_path, **environ):
    """What a program prints that is started as Snakemake starts jobs in such an environment."""
    start = f"""
import runpy, subprocess, sys
job_environment = runpy.run_path({job_environment.__file__!r})
job_environment["fix"]({str(SCRIPTS)!r})
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]], cwd="/").returncode)
"""
    done = subprocess.run(
        [sys.executable, "-c", start, program], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], **environ}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_another_lipdescent_in_the_path_is_not_taken(tmp_path):
    (tmp_path / "lipdescent").mkdir()
    (tmp_path / "lipdescent/__init__.py").write_text("raise SystemExit('another one')")
    program = "import lipdescent.storage.atomic as atomic, sys; print(atomic.__file__, sys.path[2])"
    found, theirs = job(program, tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert Path(found) == SCRIPTS / "lipdescent/storage/atomic.py"
    assert theirs == str(tmp_path)  # what else is there is still found


def test_files_are_utf8_in_every_language(tmp_path):
    program = "print(open('/dev/null').encoding)"
    languages = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert job(program, tmp_path, **languages).lower() == "utf-8"


def test_a_backend_that_does_not_exist_is_no_error(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: 30")
    program = "import matplotlib; print(matplotlib.rcParams['backend'])"
    assert job(program, tmp_path, MPLBACKEND="nonsense", HOME=str(tmp_path)) == "agg"


def test_a_users_word_on_tensor_cores_is_not_heard(tmp_path):
    program = "import os; print(sorted(name for name in os.environ if 'TF32' in name))"
    given = dict.fromkeys(job_environment.REMOVED, "1")
    assert job(program, tmp_path, **given) == "[]"

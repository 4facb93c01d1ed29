"""Jobs that start as forks: they end, fail, die and see what a process of their own would."""

import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipdescent.jobs import fork_server
from lipdescent.jobs.terminal import LIVE

SCRIPTS = Path(fork_server.__file__).parents[2]
SNAKEMAKE = """
import os, subprocess, sys
from lipdescent.jobs import fork_server
fork_server.MODULES = ("numpy",)
fork_server.start(threads=1, modules=["decimal", "no_such_module"])
print(os.environ[fork_server.ADDRESS], flush=True)
sys.stdin.read()
"""
HEAD = """
import sys
from lipdescent.jobs import fork_server
fork_server.hand_over(patience=float(sys.argv[-1]))
sys.argv.pop()
import os
"""

# pytest changes a variable from test to test; a server and its jobs share one environment.
ENVIRON = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
ENVIRON["PYTHONPATH"] = str(SCRIPTS)


class Job(subprocess.Popen):
    """A script in a file of its own, started as Snakemake starts it."""

    def __init__(
        self, folder, body, *arguments, address=None, threads="1", patience=60, head=HEAD, **environ
    ):
        script = folder / f"script{time.monotonic_ns()}.py"
        script.write_text(head + body)
        environ |= dict.fromkeys(fork_server.THREADS, threads)
        if address:
            environ[fork_server.ADDRESS] = address
        super().__init__(
            [sys.executable, str(script), *arguments, str(patience)], cwd=folder, text=True,
            env=ENVIRON | environ, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self):
        """Exit status, stdout, stderr."""
        out, err = self.communicate(timeout=60)
        return self.returncode, out, err

    def says(self, timeout=60):
        """The next line that it writes; each is asked for before it writes another."""
        ready, _, _ = select.select([self.stdout], [], [], timeout)
        if not ready:
            self.kill()
            pytest.fail(f"the job wrote nothing for {timeout} s")
        return self.stdout.readline()


def started():
    """A process that stands for Snakemake, and the address that its jobs get."""
    process = subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRON,
    )  # fmt: skip
    return process, process.stdout.readline().strip()


@pytest.fixture(scope="module")
def address():
    process, address = started()
    yield address
    process.communicate(timeout=60)
    assert not Path(address).parent.exists()


def has_ended(pid):
    """True once the process is gone."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


ABOUT = """
import json
seen = [__name__, sys.argv[1:], os.getcwd(), sys.path[0], fork_server.ADDRESS in os.environ]
seen += [name for name in sys.modules if name.startswith("lipdescent")]
print(json.dumps([os.getpid(), "decimal" in sys.modules, seen]))
print(sys.stdin.readline().strip(), file=sys.stderr)
"""


@pytest.mark.parametrize(("threads", "forks"), [("1", True), ("2", False)])
def test_a_script_finds_what_it_would_find_in_its_own_process(address, tmp_path, threads, forks):
    """The server was started for one thread; another environment is not its business."""
    seen = []
    for place in (None, address):
        job = Job(tmp_path, ABOUT, "a", "b c", address=place, threads=threads)
        out, err = job.communicate("said\n", timeout=60)
        assert (job.returncode, err) == (0, "said\n")
        pid, imported, found = json.loads(out)
        assert (pid != job.pid) is imported is (forks and place is not None)
        seen.append(found)
    assert seen[0] == seen[1]


def test_jobs_that_set_their_threads_and_those_below_a_live_view_are_forks_too(address, tmp_path):
    body = "print(os.getpid())"
    job = Job(tmp_path, body, address=address, **{LIVE: "1"})
    assert int(job.end()[1]) != job.pid
    head = HEAD.replace("[-1])", "[-1]), any_threads=True")
    assert head != HEAD
    job = Job(tmp_path, body, address=address, threads="4", head=head)
    assert int(job.end()[1]) != job.pid


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("os._exit(7)", 7, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('in words')", 1, "in words"),
        ("raise ValueError('bad value')", 1, "ValueError: bad value"),
        ("sys.stderr = open('log', 'w')\nraise ValueError('bad value')", 1, ""),
        ("import atexit\natexit.register(print, 'bye', file=sys.stderr)", 0, "bye"),
        ("raise KeyboardInterrupt", -signal.SIGINT, ""),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("os.kill(os.getpid(), 11)", -signal.SIGSEGV, ""),
    ],
)
def test_ends_as_its_own_process_would(address, tmp_path, body, status, said):
    for place in (None, address):
        found, _, err = Job(tmp_path, body, address=place).end()
        assert found == status
        assert said in err
        assert ("Traceback" in err) is ("ValueError" in said)  # Ctrl-C is no error
        if "log" in body:
            assert "ValueError: bad value" in (tmp_path / "log").read_text()


def test_a_log_has_the_traceback_and_what_the_job_took(address, tmp_path):
    body = """
from lipdescent.jobs.progress import log_to
log_to("log")
sum(range(10**6))
raise ValueError("bad value")
"""
    for place in (None, address):
        assert Job(tmp_path, body, address=place).end()[0] == 1
        *_, said, took = (tmp_path / "log").read_text().splitlines()
        assert said == "ValueError: bad value"
        seconds, megabytes = re.fullmatch(r"took (\S+) CPU s, (\d+) MB at most", took).groups()
        assert 0 < float(seconds) < 10
        assert 5 < int(megabytes) < 500


def test_signals_reach_the_script(address, tmp_path):
    body = """
import signal
import time
for number in (10, 12, 15):
    signal.signal(number, lambda n, _: os.write(1, b"%d\\n" % n))
signal.signal(2, signal.default_int_handler)  # background jobs of a shell start with it ignored
print(os.getpid(), flush=True)
while True:  # a read that begins while a signal comes may miss it
    time.sleep(0.01)
"""
    job = Job(tmp_path, body, address=address)
    assert int(job.says()) != job.pid
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        job.send_signal(number)
        assert int(job.says(timeout=20)) == number
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=60) == -signal.SIGINT
    job.end()


SLEEP = """
with open("pids", "a") as file:
    print(os.getpid(), file=file)
if len(open("pids").readlines()) == 1:
    print("sleeping", flush=True)
    sys.stdin.read()
"""


def sleeping(folder, address):
    """A job, and the fork that sleeps for it."""
    job = Job(folder, SLEEP, address=address)
    assert job.says() == "sleeping\n"
    return job, int((folder / "pids").read_text())


def test_a_killed_job_takes_its_fork_along(address, tmp_path):
    job, fork = sleeping(tmp_path, address)
    assert fork != job.pid
    job.kill()
    assert has_ended(fork)
    job.end()


def test_a_killed_server_leaves_the_job_to_its_own_process(tmp_path):
    snakemake, address = started()
    job, fork = sleeping(tmp_path, address)
    server = int(Path(f"/proc/{fork}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(server, signal.SIGKILL)
    assert job.end()[0] == 0
    assert has_ended(fork)
    assert (tmp_path / "pids").read_text().split() == [str(fork), str(job.pid)]
    assert Job(tmp_path, "print(os.getpid())", address=address).end()[0] == 0  # a stale address
    snakemake.communicate(timeout=60)


def test_a_killed_snakemake_takes_server_forks_and_jobs_along(tmp_path):
    snakemake, address = started()
    job, fork = sleeping(tmp_path, address)
    server = int(Path(f"/proc/{fork}/stat").read_text().rsplit(")", 1)[1].split()[1])
    snakemake.kill()
    assert has_ended(server)
    assert has_ended(fork)
    assert job.wait(timeout=60) == -signal.SIGKILL
    assert not Path(address).parent.exists()
    job.end()
    snakemake.communicate()


OWNER = """
import os, subprocess, sys
from lipdescent.jobs import lifeline
lifeline.let_out()
os.chdir("/" if "{end}" else ".")
os.environ[lifeline.VARIABLE] = {variable}
job = subprocess.Popen(["bash", "-c", "{before}; {python} {script} 0; true"])
sys.stdin.read()
if "{end}":
    sys.exit()
job.wait()
"""
BUSY = """
print("busy", os.getpid(), flush=True)
{how}
"""
# Python's own threads get no turn while a pattern is matched.
IN_C = 'import re\nre.match("(a+)+$", "a" * 60 + "b")'
ASLEEP = "import time\nwhile True:\n    time.sleep(60)"


def owner(folder, how, *, variable="os.environ[lifeline.VARIABLE]", before="true", end=""):
    """A process that stands for Snakemake, whose job has a shell between."""
    script = folder / "busy.py"
    script.write_text(HEAD + BUSY.format(how=how))
    told = OWNER.format(
        python=sys.executable, script=script, variable=variable,
        before=before, end=end,
    )  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", told], cwd=folder, env=ENVIRON, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def said_in_time(process, timeout=60):
    ready, _, _ = select.select([process.stdout], [], [], timeout)
    return process.stdout.readline().split() if ready else None


@pytest.mark.skipif(sys.platform != "linux", reason="a thread does it, when it gets its turn")
@pytest.mark.parametrize("how", [IN_C, ASLEEP])
def test_a_killed_snakemake_takes_jobs_of_their_own_process_along(tmp_path, how):
    """Whatever they do, and though a shell is between."""
    with owner(tmp_path, how) as snakemake:
        _, job = said_in_time(snakemake)
        shell = int(Path(f"/proc/{job}/stat").read_text().rsplit(")", 1)[1].split()[1])
        assert shell != snakemake.pid
        snakemake.kill()
        killed = time.monotonic()
        assert has_ended(int(job))
        assert time.monotonic() - killed < 2
        assert has_ended(shell)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread does it, when it gets its turn")
@pytest.mark.skipif(os.geteuid() != 0, reason="PID namespaces need root")
@pytest.mark.parametrize("after", ["", "; true"])
def test_so_does_one_in_another_pid_namespace(tmp_path, after):
    """Where its Snakemake has no number, and it may be the first, which signals do not kill."""
    inside = "exec unshare --pid --fork --mount-proc bash -c"
    script = f"{sys.executable} busy.py 0{after}"
    with owner(tmp_path, ASLEEP, before=f"{inside} '{script}'") as snakemake:
        assert said_in_time(snakemake)[0] == "busy"
        (job,) = (
            int(process)
            for process in filter(str.isdigit, os.listdir("/proc"))
            if command(process)[1:2] == ["busy.py"] and folder_of(process) == str(tmp_path)
        )
        snakemake.kill()
        assert has_ended(job)


def command(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return []


def folder_of(process):
    try:
        return os.readlink(f"/proc/{process}/cwd")
    except OSError:
        return ""


def test_a_job_that_starts_when_its_snakemake_has_gone_does_nothing(tmp_path):
    before = "read line < go"
    os.mkfifo(tmp_path / "go")
    with owner(tmp_path, "sys.exit()", before=before) as snakemake:
        go = os.open(tmp_path / "go", os.O_RDWR)
        snakemake.kill()
        snakemake.wait()
        os.write(go, b"go\n")
        assert said_in_time(snakemake) == []  # the shell has ended, and nothing was said
        os.close(go)


@pytest.mark.parametrize("variable", ["'elsewhere:' + os.environ[lifeline.VARIABLE]", "'x:/no'"])
def test_a_job_that_cannot_see_its_snakemake_goes_on(tmp_path, variable):
    """On a node of a cluster; where the folder is not seen: unknown is not dead."""
    with owner(tmp_path, "sys.stdin.read()", variable=variable) as snakemake:
        _, job = said_in_time(snakemake)
        snakemake.kill()
        snakemake.wait()
        time.sleep(0.3)
        assert Path(f"/proc/{job}").exists() or sys.platform != "linux"
        os.kill(int(job), signal.SIGKILL)


def test_the_pipe_of_jobs_is_removed_in_the_end_and_one_left_over_by_the_next(
    tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setitem(ENVIRON, "TMPDIR", str(tmp_path / "temporary"))

    def there():
        return sorted((tmp_path / "temporary").glob("*/pipe"))

    with owner(tmp_path, "sys.exit()") as killed, owner(tmp_path, "sys.exit()") as living:
        assert said_in_time(killed)[0] == said_in_time(living)[0] == "busy"
        assert len(there()) == 2
        killed.kill()
        killed.wait()
        with owner(tmp_path, "sys.exit()", end="now") as third:
            assert said_in_time(third)[0] == "busy"
            assert len(there()) == 2  # of the living and of this one
            third.communicate(timeout=60)
        assert len(there()) == 1
        living.kill()


@pytest.mark.parametrize("patience", [0, 0.2])
def test_a_job_without_patience_runs_while_the_server_imports(tmp_path, patience):
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as importing:
        importing.bind(address)
        importing.listen()
        job = Job(tmp_path, "print(os.getpid())", address=address, patience=patience)
        status, out, _ = job.end()
    assert (status, int(out)) == (0, job.pid)


def test_the_server_has_one_thread_and_says_nothing_at_a_fork(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE.replace("numpy", "pandas")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRON,
    )  # fmt: skip
    address = process.stdout.readline().strip()
    body = "print(os.getppid(), len(os.listdir(f'/proc/{os.getppid()}/task')))"
    status, out, _ = Job(tmp_path, body, address=address).end()
    assert (status, out.split()[1]) == (0, "1")
    assert int(out.split()[0]) != os.getpid()
    _, err = process.communicate(timeout=60)
    assert err == ""


def test_forks_draw_different_numbers(address, tmp_path):
    body = "import random, numpy\nprint(random.random(), numpy.random.rand())"
    draws = [Job(tmp_path, body, address=address).end()[1].split() for _ in range(2)]
    assert len({*draws[0], *draws[1]}) == 4


def test_every_script_of_a_rule_is_handed_over_before_its_imports():
    scripts = [path for path in SCRIPTS.glob("*.py") if "job = snakemake  #" in path.read_text()]
    assert len(scripts) >= 10
    for path in scripts:
        code = path.read_text().split('"""\n', 1)[1]
        head = "\nfrom lipdescent.jobs import fork_server\n\nfork_server.hand_over("
        assert code.startswith(head), path


def test_the_shell_between_server_and_job_changes_nothing_that_counts():
    """Of an activated environment, too, whose prompt the shell drops."""
    body = "import json; from lipdescent.jobs import forking; print(json.dumps(forking.identity()))"
    environ = os.environ | {"PYTHONPATH": str(SCRIPTS), "PS1": "(.venv) ", "PS2": "> "}
    command = [sys.executable, "-c", body]
    here, there = (
        subprocess.run(one, env=environ, capture_output=True, text=True, check=True).stdout
        for one in (command, ["bash", "-c", "exec " + shlex.join(command)])
    )
    assert json.loads(here) == json.loads(there)

"""Start jobs as forks of one process that has imported PyTorch already.

Importing PyTorch, pandas and Matplotlib takes two to three seconds of a core, more than many a job
computes. Snakemake starts one such process beside itself (:func:`start`). A script that calls
:func:`hand_over` asks it for a fork, which runs the script in its stead, while the first process
waits and passes on signals one way, the exit status the other. Only third-party libraries are
imported beforehand, never this one, so a fork sees every edit; nothing has computed, so no thread
and no CUDA context exists that a fork would break.

Where there is no such process, or it has another interpreter or environment, or it dies, the
script runs in its own process, to the same result. Whoever waits for a fork and is killed takes
the fork along, and so does the server, which ends with its Snakemake, however that ends.

Here is what Snakemake and a job do; what the first process does is in forking.py.
"""

import atexit
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType

from lipdescent.jobs import forking, lifeline
from lipdescent.jobs.forking import ADDRESS, REQUEST_SECONDS, STATUS, THREADS

# What the library imports; a library that is missing is left to the job that needs it.
MODULES = (
    "torch", "torch.func", "numpy", "pandas", "pyarrow.parquet", "pyarrow.compute", "pyarrow.csv",
    "safetensors.torch", "scipy.special", "matplotlib.figure", "matplotlib.colors", "PIL.Image",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg", "mpmath", "yaml",
)  # fmt: skip
FORWARDED = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]


# Beside Snakemake


def start(*, threads: int, modules: Sequence[str] = ()) -> None:
    """Start the server, if there is none; jobs of this process's children find it by an
    environment variable.

    Parameters
    ----------
    threads : what Snakemake tells the libraries of the jobs; a job with another number of threads
        runs in its own process.
    modules : imported beside :data:`MODULES`.
    """
    if ADDRESS in os.environ or not hasattr(socket, "AF_UNIX") or not hasattr(os, "fork"):
        return
    folder = tempfile.mkdtemp(prefix="lipdescent-")  # mode 0700
    address = os.path.join(folder, "socket")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
    except OSError:  # the path is too long for a socket
        shutil.rmtree(folder)
        listener.close()
        return
    listener.listen(128)  # jobs queue here until the imports are done
    # The pipe tells the server that this process has ended, and nobody else holds its other end.
    server = subprocess.Popen(
        [sys.executable, "-P", forking.__file__, str(listener.fileno()), *MODULES, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        env=os.environ | dict.fromkeys(THREADS, str(threads)),
        start_new_session=True,  # Ctrl-C reaches the waiting processes, which pass it on
    )
    listener.close()
    os.environ[ADDRESS] = address
    atexit.register(_stop, server, folder)


def _stop(server: subprocess.Popen, folder: str) -> None:
    if server.stdin is not None:
        server.stdin.close()
    try:
        server.wait(0.5)
    except subprocess.TimeoutExpired:  # it still imports, and has no fork
        server.terminate()
        server.wait()
    shutil.rmtree(folder, ignore_errors=True)


# In a job


def hand_over(*, patience: float = 60.0, any_threads: bool = False) -> None:
    """Let the server run this script and exit with its status; return where there is no server.

    ``patience`` : seconds to wait for a server that is still importing, from a cold network file
    system perhaps. A script that needs little of what it imports is sooner done by itself.
    ``any_threads`` : even if the environment asks for another number of threads than the server's:
    the script sets its own.

    In whatever process the script runs, it ends when its Snakemake has gone (lifeline.py).
    """
    sys.excepthook = _calmly
    _open_standard_streams()
    lifeline.hold()
    address = os.environ.pop(ADDRESS, None)
    if address is None:
        return
    with socket.socket(socket.AF_UNIX) as connection:
        waker, woken = socket.socketpair()
        waker.setblocking(False)
        pid = _asked(connection, address, waker, patience, any_threads)
        status = None if pid is None else _waited(connection, woken, pid)
    if status is None:
        return
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _calmly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C is no error of a job: no traceback of it, neither in its log nor on the terminal."""
    if issubclass(kind, KeyboardInterrupt):
        if sys.stderr is not sys.__stderr__:
            print("stopped by Ctrl-C", file=sys.stderr)
        return
    sys.__excepthook__(kind, error, trace)


def _open_standard_streams() -> None:
    """Where the terminal was closed, or files that are opened next would be taken for it."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _asked(
    connection: socket.socket,
    address: str,
    waker: socket.socket,
    patience: float,
    any_threads: bool,
) -> int | None:
    """The fork that runs this script, whose signals wake ``waker``; None where there is none."""
    try:
        connection.connect(address)
        connection.settimeout(patience)
        there, here = forking.receive(connection), forking.identity()
        if there != here | ({"threads": there["threads"]} if any_threads else {}):
            return None
        connection.settimeout(REQUEST_SECONDS)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            request = {"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ)}
            forking.send(connection, request, descriptors=(0, 1, 2))
            pid = forking.receive(connection)
            # From here on a signal is the fork's. Python runs a handler between two of its
            # instructions: one that comes just before a read begins would wait for its end.
            signal.set_wakeup_fd(waker.fileno())
            for number in FORWARDED:
                signal.signal(number, lambda *_: None)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except (OSError, EOFError, ValueError):
        return None
    connection.settimeout(None)
    return pid


def _waited(connection: socket.socket, woken: socket.socket, pid: int) -> int | None:
    """The fork's exit status; None, and signals as they were, where the server has gone."""
    try:
        while connection not in select.select([connection, woken], [], [])[0]:
            connection.sendall(bytes(n for n in woken.recv(4096) if n in FORWARDED))
        (status,) = STATUS.unpack(forking.exactly(connection, STATUS.size))
    except (OSError, EOFError):
        _end(pid)
        signal.set_wakeup_fd(-1)
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return None
    return status


def _end(pid: int) -> None:
    """Kill a fork whose server is gone, and wait for its end: two may not write the same files."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

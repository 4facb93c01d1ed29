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

This file uses the standard library alone: the server runs it as a script.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import hashlib
import importlib
import json
import os
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Sequence
from pathlib import Path

ADDRESS = "LIPDESCENT_FORK_SERVER"
THREADS = [f"{n}_NUM_THREADS" for n in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")]
THREADS.append("VECLIB_MAXIMUM_THREADS")
# What the library imports; a library that is missing is left to the job that needs it.
MODULES = (
    "torch", "torch.func", "numpy", "pandas", "pyarrow.parquet", "pyarrow.compute", "pyarrow.csv",
    "safetensors.torch", "scipy.special", "matplotlib.figure", "matplotlib.colors", "PIL.Image",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "mpmath", "yaml",
)  # fmt: skip
# Differ between a job and the server, and matter to no library at its import.
VOLATILE = {
    ADDRESS,
    "LIPDESCENT_LIFELINE",
    "TMPDIR",
    "TMP",
    "TEMP",
    "TEMPDIR",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
}
FORWARDED = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
REQUEST_SECONDS = 10
LENGTH, STATUS = struct.Struct("!Q"), struct.Struct("!i")


# Beside Snakemake


def start(*, threads: int, modules: Sequence[str] = ()) -> None:
    """Start the server; jobs of this process's children find it by an environment variable.

    Parameters
    ----------
    threads : what Snakemake tells the libraries of the jobs; a job with another number of threads
        runs in its own process.
    modules : imported beside :data:`MODULES`.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "fork"):
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
        [sys.executable, "-P", __file__, str(listener.fileno()), *MODULES, *modules],
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
    server.stdin.close()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


# In a job


def hand_over(*, patience: float = 60.0) -> None:
    """Let the server run this script and exit with its status; return where there is no server.

    ``patience`` : seconds to wait for a server that is still importing, from a cold network file
    system perhaps. A script that needs little of what it imports is sooner done by itself.

    In whatever process the script runs, it ends when its Snakemake has gone (lifeline.py).
    """
    from lipdescent.jobs import (
        lifeline,  # the server, which runs this file as a script, needs it not
    )

    _open_standard_streams()
    lifeline.hold()
    address = os.environ.pop(ADDRESS, None)
    if address is None:
        return
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            connection.settimeout(patience)
            if _receive(connection) != _identity():
                return
            connection.settimeout(REQUEST_SECONDS)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
            try:
                request = {"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ)}
                _send(connection, request, descriptors=(0, 1, 2))
                pid = _receive(connection)
                # From here on a signal is the fork's. Python runs a handler between two of its
                # instructions: one that comes just before a read begins would wait for its end.
                waker, woken = socket.socketpair()
                waker.setblocking(False)
                signal.set_wakeup_fd(waker.fileno())
                for number in FORWARDED:
                    signal.signal(number, lambda *_: None)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except (OSError, EOFError, ValueError):
            return
        connection.settimeout(None)
        try:
            while connection not in select.select([connection, woken], [], [])[0]:
                connection.sendall(bytes(n for n in woken.recv(4096) if n in FORWARDED))
            (status,) = STATUS.unpack(_exactly(connection, STATUS.size))
        except (OSError, EOFError):
            _end(pid)
            signal.set_wakeup_fd(-1)
            for number in FORWARDED:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Where the terminal was closed, or files that are opened next would be taken for it."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _end(pid: int) -> None:
    """Kill a fork whose server is gone, and wait for its end: two may not write the same files."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def _identity() -> dict[str, object]:
    """What a job and its server must have in common."""
    environ = {name: value for name, value in os.environ.items() if name not in VOLATILE}
    digest = hashlib.sha256(json.dumps(environ, sort_keys=True).encode()).hexdigest()
    protocol = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return {"python": [sys.executable, sys.version], "environ": digest, "protocol": protocol}


# Messages: a length and JSON


def _send(connection: socket.socket, message: object, *, descriptors: Sequence[int] = ()) -> None:
    body = json.dumps(message).encode("utf-8", "surrogateescape")
    head = LENGTH.pack(len(body))
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
    else:
        connection.sendall(head)
    connection.sendall(body)


def _receive(connection: socket.socket, head: bytes = b"") -> object:
    (length,) = LENGTH.unpack(head or _exactly(connection, LENGTH.size))
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


# The server


class Server:
    """Forks a process per request, passes on signals, reports exit statuses."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.waiting: dict[int, socket.socket] = {}  # fork -> who waits for it
        self.identity = _identity()
        self.selector = selectors.DefaultSelector()
        reader, self.waker = socket.socketpair()
        for end in (reader, self.waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno())
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.selector.register(reader, selectors.EVENT_READ, self._reap)
        self.selector.register(sys.stdin, selectors.EVENT_READ, self._orphaned)

    def serve(self) -> dict[str, list]:
        """Returns in a fork only, with the request that it is to run."""
        while True:
            for key, _ in self.selector.select():
                request = key.data(key.fileobj)
                if request is not None:
                    return request

    def _orphaned(self, _: object) -> None:
        """Snakemake is gone: so are its jobs, or they would write beside those of the next one."""
        for pid, connection in self.waiting.items():
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                connection.sendall(STATUS.pack(-signal.SIGKILL))
        shutil.rmtree(os.path.dirname(self.listener.getsockname()), ignore_errors=True)
        os._exit(0)

    def _accept(self, listener: socket.socket) -> dict | None:
        connection, _ = listener.accept()
        connection.settimeout(REQUEST_SECONDS)
        descriptors: list[int] = []
        try:
            _send(connection, self.identity)
            head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            request = _receive(connection, head)
        except (OSError, EOFError, struct.error):  # gone, or another identity
            connection.close()
            return None
        server = os.getpid()
        with warnings.catch_warnings():
            # Python warns of threads: OpenBLAS's, which it ends before a fork by itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            connection.close()
            self._leave()
            return request | {"descriptors": descriptors, "server": server}
        for descriptor in descriptors:
            os.close(descriptor)
        self.waiting[pid] = connection
        with contextlib.suppress(OSError):
            _send(connection, pid)
        self.selector.register(connection, selectors.EVENT_READ, lambda c: self._told(c, pid))
        return None

    def _told(self, connection: socket.socket, pid: int) -> None:
        """A signal to pass on, or the end of the process that waits."""
        if pid not in self.waiting:
            return
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)
        if not numbers:
            self.selector.unregister(connection)

    def _reap(self, reader: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            reader.recv(4096)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                connection = self.waiting.pop(pid, None)
                if connection is None:  # some library's child
                    continue
                with contextlib.suppress(OSError):
                    connection.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
                with contextlib.suppress(KeyError):
                    self.selector.unregister(connection)
                connection.close()

    def _leave(self) -> None:
        """In a fork: close all that is the server's, or its end would go unnoticed."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        keys = [key.fileobj for key in self.selector.get_map().values()]
        self.selector.close()
        for open_file in [*keys, *self.waiting.values(), self.waker]:
            open_file.close()


def _become(request: dict) -> types.ModuleType:
    """Make this fork the process that asked for it; returns its __main__."""
    script = request["argv"][0]
    _die_with(request["server"], ".".join(script.split(".")[-2:]))  # tmpab12.train.py
    for target, descriptor in enumerate(request["descriptors"]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    tempfile.tempdir = None
    sys.argv = request["argv"]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # or all forks would draw the same
    main = types.ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    return main


def _die_with(server: int, name: str) -> None:
    """End with the server; elsewhere than on Linux the waiting process sees to it."""
    if sys.platform == "linux":
        import ctypes

        system = ctypes.CDLL(None)
        system.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        system.prctl(15, name.encode()[:15])  # PR_SET_NAME: what top shows
        if os.getppid() != server:
            os._exit(1)


def _end_fork(error: BaseException | None) -> None:
    """What Python does at its end, but for tearing down modules, which would copy every page."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def main() -> None:
    """Import, serve, and in a fork run the script that was asked for."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    server = Server(listener)
    # Read by pyarrow's allocator, which would start a thread; a job's environment does not have it.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    for module in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the collector would copy every page that it looks at into each fork
    request = server.serve()
    module = _become(request)
    try:
        exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), module.__dict__)
    except BaseException as error:
        _end_fork(error)
    _end_fork(None)


if __name__ == "__main__":
    main()

"""The process that jobs are forks of (see fork_server.py), and what is said to it.

It uses the standard library alone and is run as a script: nothing of this library may be imported
before a fork, or the fork would not see its edits.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ADDRESS = "LIPDESCENT_FORK_SERVER"
# Differ between a job and the server, and matter to no library at its import.
VOLATILE = {
    ADDRESS,
    "LIPDESCENT_LIFELINE",
    "LIPDESCENT_LIVE",
    "TMPDIR",
    "TMP",
    "TEMP",
    "TEMPDIR",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "PS1",  # an activated environment exports it, and the shell that starts a job drops it
    "PS2",
}
# Both ends of what is said.
FILES = ("fork_server.py", "forking.py")
REQUEST_SECONDS = 10
LENGTH, STATUS = struct.Struct("!Q"), struct.Struct("!i")
# How many threads libraries start where nobody says it later.
THREADS = [f"{n}_NUM_THREADS" for n in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")]
THREADS.append("VECLIB_MAXIMUM_THREADS")


def identity() -> dict[str, object]:
    """What a job and its server must have in common."""
    unlike = {*VOLATILE, *THREADS}
    environ = {name: value for name, value in os.environ.items() if name not in unlike}
    digest = hashlib.sha256(json.dumps(environ, sort_keys=True).encode()).hexdigest()
    both = b"".join(Path(__file__).with_name(name).read_bytes() for name in FILES)
    return {
        "python": [sys.executable, sys.version],
        "environ": digest,
        "threads": [os.environ.get(name) for name in THREADS],
        "protocol": hashlib.sha256(both).hexdigest(),
    }


def send(connection: socket.socket, message: object, *, descriptors: Sequence[int] = ()) -> None:
    """A message is its length and JSON; files that are open may go with it."""
    body = json.dumps(message).encode("utf-8", "surrogateescape")
    head = LENGTH.pack(len(body))
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
    else:
        connection.sendall(head)
    connection.sendall(body)


def receive(connection: socket.socket, head: bytes = b"") -> Any:
    (length,) = LENGTH.unpack(head or exactly(connection, LENGTH.size))
    return json.loads(exactly(connection, length))


def exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


class Server:
    """Forks a process per request, passes on signals, reports exit statuses."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.waiting: dict[int, socket.socket] = {}  # fork -> who waits for it
        self.identity = identity()
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
            send(connection, self.identity)
            head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            request = receive(connection, head)
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
            send(connection, pid)
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
        open_files: list[Any] = [key.fileobj for key in self.selector.get_map().values()]
        self.selector.close()
        for open_file in [*open_files, *self.waiting.values(), self.waker]:
            open_file.close()


def _become(request: dict) -> types.ModuleType:
    """Make this fork the process that asked for it; returns its __main__."""
    script = request["argv"][0]
    die_with(request["server"], ".".join(script.split(".")[-2:]))  # tmpab12.train.py
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


def die_with(server: int, name: str) -> None:
    """End with the parent, a server; elsewhere than on Linux the waiting process sees to it."""
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
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
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
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
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

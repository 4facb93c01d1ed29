"""Files that appear only when complete, however the process that writes them ends."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lipdescent.storage import processes


@contextmanager
def complete(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; flush it to disk and rename it at the end.

    The temporary name carries host, PID namespace and process: a job that outlived its Snakemake
    and the job started in its place never write into the same file, and the last complete one
    stays.

    Raises
    ------
    OSError
        As the writer did, a full disk for instance; what was written is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    partial = path.with_name(f".{path.name}.{_place()}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        # Some writers make files that nobody else may read.
        partial.chmod(mode)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what processes that are dead left of ``path``, as far as this one can see them."""
    place = _place()
    if place.endswith("-"):
        return
    for left in path.parent.glob(f".{path.name}.{place}.*.partial"):
        process = left.name.split(".")[-2]
        if process.isdigit() and int(process) != os.getpid() and not _alive(int(process)):
            left.unlink(missing_ok=True)


def _place() -> str:
    """Host and PID namespace: a number of a process means nothing elsewhere."""
    return f"{socket.gethostname().split('.')[0]}-{processes.namespace()}"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def sound(path: str | Path) -> Iterator[None]:
    """Around reading an input: a broken file is put aside, so that the next run makes it anew.

    Raises
    ------
    ValueError
        As the reader did, with what has become of the file and what to do.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name}.broken")
    advice = "start the same command again: the file is made anew if something needs it"
    try:
        yield
    except ValueError as error:
        if not path.exists() and aside.exists():
            raise ValueError(f"{path} was broken and is now {aside.name}; {advice}") from error
        try:
            os.replace(path, aside)
        except OSError:
            raise error from None
        raise ValueError(f"{error}. It is now {aside.name}; {advice}") from error

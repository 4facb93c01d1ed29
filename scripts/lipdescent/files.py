"""Files that appear only when complete, however the process that writes them ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; flush it to disk and rename it at the end.

    The temporary name carries host and process: a job that outlived its Snakemake and the job
    started in its place never write into the same file, and the last complete one stays.

    Raises
    ------
    OSError
        As the writer did, a full disk for instance; what was written is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    host = socket.gethostname().split(".")[0]
    partial = path.with_name(f".{path.name}.{host}.{os.getpid()}.partial")
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
    """Remove what processes of this host that are dead left of ``path``."""
    host = socket.gethostname().split(".")[0]
    for left in path.parent.glob(f".{path.name}.{host}.*.partial"):
        process = left.name.split(".")[-2]
        if process.isdigit() and int(process) != os.getpid() and not _alive(int(process)):
            left.unlink(missing_ok=True)


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

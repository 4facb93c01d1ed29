"""A study in one file: configuration, table, figures, findings, provenance, and their checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lipdescent import files

SUMS = "SHA256SUMS"
# What a study cannot be understood without.
NEEDED = ("table.parquet", "provenance.json", "plan.json")
FOLDERS = ("figures", "experiments")
ALSO = ("*.csv", "*.md", "*.json", "*.html", "*.parquet")


class ArchiveError(ValueError):
    """An archive cannot be made, or is not what was packed; the message says why."""


def pack(study: str | Path) -> tuple[Path, int]:
    """Write ``<study>.tar.gz`` beside the study's folder; its path and the number of files.

    The same files give the same bytes, whenever and by whomever they are packed.

    Raises
    ------
    ArchiveError
        If the study is not complete; the message names what is missing.
    """
    study = Path(study)
    missing = [name for name in NEEDED if not (study / name).exists()]
    if missing:
        raise ArchiveError(f"{study} is not complete: {', '.join(missing)} missing")
    members = {path for pattern in ALSO for path in study.glob(pattern)}
    members |= {path for name in FOLDERS for path in (study / name).rglob("*") if path.is_file()}
    target, sums = study.with_name(f"{study.name}.tar.gz"), []
    with files.complete(target) as partial, _writer(partial) as add:
        for path in sorted(members):
            content, name = path.read_bytes(), str(path.relative_to(study))
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
            add(f"{study.name}/{name}", content)
        add(f"{study.name}/{SUMS}", ("\n".join(sums) + "\n").encode())
    return target, len(members)


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Adds members to a tar.gz in which nothing depends on the time or the user."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))

        yield add


def check(archive: str | Path) -> int:
    """Compare every file of an archive with its checksum; the number of files.

    Raises
    ------
    ArchiveError
        If the archive is truncated, or a file in it is missing, changed or not listed.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    contents[member.name.split("/", 1)[-1]] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(f"{archive}: truncated or not a tar.gz ({error})") from error
    if SUMS not in contents:
        raise ArchiveError(f"{archive}: no {SUMS} in it; not an archive of this project")
    listed = {}
    for line in contents.pop(SUMS).decode().splitlines():
        digest, name = line.split("  ", 1)
        listed[name] = digest
    for name, digest in listed.items():
        if name not in contents:
            raise ArchiveError(f"{archive}: {name} is missing")
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ArchiveError(f"{archive}: {name} is not what was packed")
    strange = sorted(contents.keys() - listed.keys())
    if strange:
        raise ArchiveError(f"{archive}: {', '.join(strange)} has no checksum")
    return len(listed)

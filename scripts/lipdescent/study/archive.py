"""A study in one file: configuration, table, figures, findings, provenance, and their checksums."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lipdescent.storage import atomic, stamped_parquet, stamps
from lipdescent.study import published

SUMS = "SHA256SUMS"
PLAN, PROVENANCE = "plan.json", "provenance.json"
# Packed where they are there and tell of these very results.
REPORT, VERIFICATION = "workflow.html", "verification.json"
# Keys of the configuration that change no result.
IRRELEVANT = ("device", "execution")


class ArchiveError(ValueError):
    """An archive cannot be made, or is not what was packed; the message says why."""


def pack(study: str | Path) -> tuple[Path, int]:
    """Write ``<study>.tar.gz`` beside the study's folder; its path and the number of files.

    The same files give the same bytes, whenever and by whomever they are packed.

    Raises
    ------
    ArchiveError
        If the study is not complete, or its results belong to an earlier configuration; the
        message names what is missing or differs.
    """
    study = Path(study)
    members = _members(study)
    target, sums = study.with_name(f"{study.name}.tar.gz"), []
    with atomic.complete(target) as partial, _writer(partial) as add:
        for name in members:
            content = (study / name).read_bytes()
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
            add(f"{study.name}/{name}", content)
        add(f"{study.name}/{SUMS}", ("\n".join(sums) + "\n").encode())
    return target, len(members)


def _members(study: Path) -> list[str]:
    """Files to pack, below the study's folder."""
    try:
        config = json.loads((study / PLAN).read_text())["config"]
    except OSError as error:
        raise ArchiveError(f"{study}: no study has been run there ({error})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(
            f"{study / PLAN}: broken ({error}); starting the study writes it anew"
        ) from None
    if config["study"] != study.name:
        raise ArchiveError(
            f"{study} holds the study {config['study']!r}, and was renamed; start it with "
            f"study: {study.name} in the configuration, or rename the folder back"
        )
    wanted = [*published.files(config), PLAN]
    missing = [name for name in wanted if not (study / name).exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ArchiveError(
            f"{study} is not complete: {', '.join(missing[:3])}{more} missing; run it to its end"
        )
    older = differs(study, config) or mixes(study, config)
    if older:
        raise ArchiveError(f"{study}: {older}; run it to its end")
    as_text = (str(Path(name).with_suffix(".csv")) for name in published.results(config))
    wanted += [name for name in as_text if (study / name).exists()]
    if _shows_all(study, config):
        wanted.append(REPORT)
    if _source_of(study, VERIFICATION, _contents(study, config)) is None:
        wanted.append(VERIFICATION)
    return sorted(set(wanted))


def _shows_all(study: Path, config: dict[str, Any]) -> bool:
    """Whether there is a report that holds the findings and figures beside it, as they are."""
    try:
        report = (study / REPORT).read_bytes()
    except OSError:
        return False
    shown = [name for name in published.files(config) if name.endswith((".png", "findings.html"))]
    return all(base64.b64encode((study / name).read_bytes()) in report for name in shown)


def differs(study: Path, config: dict[str, Any]) -> str:
    """In what the configuration behind the published results differs from ``config``, or empty."""
    try:
        made = published.ran(json.loads((study / PROVENANCE).read_text())["config"])
    except (OSError, ValueError, KeyError):
        return ""
    config = published.ran(config)
    keys = [k for k in sorted({*made, *config}) if made.get(k) != config.get(k)]
    keys = [key for key in keys if key not in IRRELEVANT]
    if not keys:
        return ""
    return f"what is published was made with another {', '.join(keys)} than the last run asked for"


def mixes(study: Path, config: dict[str, Any]) -> str:
    """Which published file was not made from the results that lie beside it, or empty."""
    results = _contents(study, config)
    for name, content in results.items():
        if content is None:
            return f"{name} {stamps.NO_RECORD}"
        try:
            stamped_parquet.read(study / name)
        except ValueError as error:
            return str(error)
        text = study / Path(name).with_suffix(".csv")
        if text.exists() and not stamps.is_companion(text, stamps.read(study / name)):
            return f"{text.relative_to(study)} is not what was written with {name}"
    for name in published.files(config):
        wrong = None if Path(name).suffix == ".csv" else _source_of(study, name, results)
        if wrong is not None:
            return wrong
    return ""


def _contents(study: Path, config: dict[str, Any]) -> dict[str, str | None]:
    """File of results -> digest of its contents, None where its stamp is missing."""
    found = {name: stamps.read(study / name) for name in published.results(config)}
    return {name: None if stamp is None else stamp["content"] for name, stamp in found.items()}


def _source_of(study: Path, name: str, results: dict[str, str | None]) -> str | None:
    """What is wrong with a file that was made from results, None if nothing."""
    stamp = stamps.read(study / name)
    if stamp is None:
        return f"{name} {stamps.NO_RECORD}"
    for source in stamp["inputs"].keys() & results.keys():
        made_from = stamp["inputs"][source]["content"]
        if made_from != results[source]:
            return (
                f"{name} was made from another {source} (contents {made_from}) than the one "
                f"beside it (contents {results[source]})"
            )
    return None


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
        Naming every file that is missing, changed or not listed, or saying that the archive is
        truncated, altered as a whole, or not there.
    """
    if not Path(archive).exists():
        raise ArchiveError(f"{archive}: there is no such file; make archive writes it")
    found, listed = _digests(archive)
    problems = [f"{name} is missing" for name in listed.keys() - found.keys()]
    problems += [f"{name} has no checksum" for name in found.keys() - listed.keys()]
    common = listed.keys() & found.keys()
    problems += [f"{name} is not what was packed" for name in common if found[name] != listed[name]]
    if problems:
        raise ArchiveError("\n".join(f"{archive}: {problem}" for problem in sorted(problems)))
    return len(listed)


def _digests(archive: str | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Checksums found and checksums listed: name -> sha256."""
    found: dict[str, str] = {}
    listing = b""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                file, name = tar.extractfile(member), member.name.split("/", 1)[-1]
                if file is not None and name == SUMS:
                    listing = file.read()
                elif file is not None:
                    found[name] = hashlib.file_digest(
                        cast(io.BufferedReader, file), "sha256"
                    ).hexdigest()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(f"{archive}: truncated, altered or not a tar.gz ({error})") from error
    if not listing:
        raise ArchiveError(f"{archive}: no {SUMS} in it; not an archive of this project")
    lines = (line.split("  ", 1) for line in listing.decode(errors="replace").splitlines())
    return found, {line[-1]: line[0] for line in lines}

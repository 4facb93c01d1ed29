"""What made a file, written into the file itself: its stamp.

A stamp is JSON: ``rule``, ``asked`` (the options), ``code`` (file below scripts/ -> digest of its
contents), ``inputs`` (path below results/<study>/ -> stamp of that file, in short), ``recipe`` (a
digest of all these), ``content`` (a digest of the numbers) and ``by`` (threads and device, which a
recipe has no part in). So a file that was copied from anywhere tells what it is.

It lies in the metadata of safetensors and Parquet files, in ``made.json`` of an npz, under ``made``
of a JSON file, and as text in PNG, PDF, SVG, HTML and Markdown. Nothing of the library is imported
here, nor torch: the Snakefile reads stamps before every run.
"""

import base64
import hashlib
import json
import mmap
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2]
KEY = "made"
MEMBER = "made.json"
# The last colon matters: a PNG has the bytes of a checksum behind a text.
TEXT = re.compile(rb"lipdescent-made:([A-Za-z0-9+/=]+):")
# At a file's end: a digest of everything before it.
SEAL = re.compile(rb"lipdescent-seal:([0-9a-f]{32}):\s*(?:-->)?\s*\Z")
SEALED = (".pdf", ".svg", ".md", ".html")
# Parameters of a rule that are no options of what it makes.
NOT_ASKED = ("code", "recipe")
NO_RECORD = (
    "carries no sound record of what made it (it was altered since, or an earlier version or "
    "another program made it)"
)
START_AGAIN = "start the same command again: it is made anew"
# Up to so many inputs are described in full.
DESCRIBED = 8

Stamp = dict[str, Any]


class OtherRecipe(ValueError):
    """A file was not made as it is wanted; the message names what differs, with both values."""


def recipe(rule: str, asked: Any, code: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """Digest of a recipe; ``inputs``: path below the study's folder -> recipe."""
    whole = [rule, plain(asked), sorted(code.items()), sorted(inputs.items())]
    return digest(json.dumps(whole, sort_keys=True).encode())


def digest(*parts: bytes | memoryview) -> str:
    """The first half of a sha256, in hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:32]


def code_digest(path: Path) -> str:
    """Of the contents of a file of code, as it is now."""
    try:
        content = path.read_bytes()
    except OSError:
        return "not there"
    return hashlib.sha256(content).hexdigest()[:12]


def plain(value: Any) -> Any:
    """As it comes back from JSON, whole numbers as integers: 0 and 0.0 ask for the same."""
    match value:
        case Mapping():
            return {str(key): plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [plain(entry) for entry in value]
        case float() if value.is_integer():
            return int(value)
        case bool() | int() | float() | str() | None:
            return value
    return str(value)


def short(stamp: Mapping[str, Any], *, described: bool = True) -> Stamp:
    """A stamp without code; without options and inputs either unless ``described``."""
    kept = {"recipe": stamp["recipe"], "content": stamp.get("content", "")}
    if described:
        inputs = {name: short(one) for name, one in stamp["inputs"].items() if "asked" in one}
        kept |= {"rule": stamp["rule"], "asked": stamp["asked"], "inputs": inputs}
    return kept


def with_content(stamp: Stamp, content: str) -> Stamp:
    """The stamp of a file whose numbers have the digest ``content``."""
    return {**stamp, "content": content}


def below(path: str | Path) -> str:
    """A path below ``results/<study>/``: the same for a study that was copied or renamed."""
    return "/".join(parts_below_results(path)[1:]) or Path(path).name


def parts_below_results(path: str | Path) -> tuple[str, ...]:
    """``study, ...`` of ``results/<study>/...``; nothing of a path with no ``results``."""
    parts = Path(path).parts
    if "results" not in parts:
        return ()
    # The workflow's paths begin with it, and anything below may be called so too.
    place = 0 if parts[0] == "results" else len(parts) - 1 - parts[::-1].index("results")
    return parts[place + 1 :]


# Reading and writing


def read(path: str | Path) -> Stamp | None:
    """A file's stamp; None if it has none or cannot be read."""
    path = Path(path)
    try:
        text = READERS.get(path.suffix, _from_text)(path)
        found = json.loads(text) if text else None
    except Exception:  # a file that is cut or foreign has no stamp, however it is read
        return None
    return found if isinstance(found, dict) and {"recipe", "rule"} <= found.keys() else None


def as_text(stamp: Stamp) -> str:
    """For a comment or a text entry of a file; letters, digits and ``:+/=-`` alone."""
    packed = base64.b64encode(zlib.compress(dumps(stamp).encode())).decode()
    return f"lipdescent-made:{packed}:"


def seal(before: bytes) -> str:
    """For a comment at the end of a file: a digest of what stands before that comment's text."""
    return f"lipdescent-seal:{digest(before)}:"


def in_comment(text: str, stamp: Stamp | None) -> str:
    """HTML, SVG or Markdown with its stamp and a seal in a comment at its end."""
    if stamp is None:
        return text
    text += f"\n<!-- {as_text(stamp)} "
    return f"{text}{seal(text.encode())} -->\n"


def document(found: Mapping[str, Any], stamp: Stamp | None) -> str:
    """A JSON file with its stamp, and in that a digest of all else."""
    if stamp is not None:
        stamp = {**stamp, "seal": _json_digest(found)}
    return json.dumps({**found, KEY: stamp}, indent=2) + "\n"


def _json_digest(found: Mapping[str, Any]) -> str:
    return digest(json.dumps(json.loads(json.dumps(found)), sort_keys=True).encode())


def with_companion(stamp: Stamp, path: str | Path, content: Path) -> Stamp:
    """The stamp of a file that has another, at ``path``, beside it that carries none."""
    return {**stamp, "beside": {Path(path).name: file_digest(content)}}


def file_digest(path: str | Path) -> str:
    """Of a file's bytes; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return ""


def is_companion(path: str | Path, stamp: Stamp | None) -> bool:
    """Whether a file is what was written beside the one with this stamp."""
    told = (stamp or {}).get("beside", {}).get(Path(path).name)
    return told is not None and told == file_digest(path)


def dumps(stamp: Stamp) -> str:
    return json.dumps(stamp, sort_keys=True, separators=(",", ":"))


def _from_safetensors(path: Path) -> str | None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    stamp = header.pop("__metadata__", {}).get(KEY)
    end = max((one["data_offsets"][1] for one in header.values()), default=0)
    return stamp if path.stat().st_size == 8 + size + end else None


def _from_parquet(path: Path) -> str | None:
    import pyarrow.parquet as pq

    found = (pq.read_metadata(path).metadata or {}).get(KEY.encode())
    return found.decode() if found else None


def _from_npz(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.read(MEMBER).decode()


def _from_json(path: Path) -> str | None:
    whole = json.loads(path.read_text(encoding="utf-8"))
    found = whole.pop(KEY, None)
    if not found or found.get("seal") != _json_digest(whole):
        return None
    return json.dumps(found)


def _from_text(path: Path) -> str | None:
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        found = TEXT.search(whole)
        if not found or not _is_sound(path.suffix, memoryview(whole).tobytes()):
            return None
        return zlib.decompress(base64.b64decode(found[1])).decode()


def _is_sound(suffix: str, content: bytes) -> bool:
    """Whether a document or picture is whole and as it was written."""
    if suffix == ".png":
        return _png_is_sound(content)
    if suffix not in SEALED:
        return True
    found = SEAL.search(content, max(0, len(content) - 100))
    return found is not None and found[1].decode() == digest(content[: found.start()])


def _png_is_sound(content: bytes) -> bool:
    """Whether every chunk has its checksum, to the last."""
    place, kind = 8, b""
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        kind, end = content[place + 4 : place + 8], place + 8 + size
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return False
        place = end + 4
    return kind == b"IEND" and place == len(content)


READERS = {
    ".safetensors": _from_safetensors,
    ".parquet": _from_parquet,
    ".npz": _from_npz,
    ".json": _from_json,
}

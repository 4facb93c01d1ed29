"""What made a file, written into the file itself: its stamp.

A stamp is JSON: ``rule``, ``asked`` (the options), ``code`` (file below scripts/ -> digest of its
contents), ``inputs`` (path below results/<study>/ -> stamp of that file, in short), ``recipe`` (a
digest of all these), ``content`` (a digest of the numbers) and ``by`` (threads and device, which a
recipe has no part in). So a file that was copied from anywhere tells what it is.

It lies in the metadata of safetensors and Parquet files, in ``made.json`` of an npz, under ``made``
of a JSON file, and as text in PNG, PDF, HTML and Markdown. Nothing of the library is imported here,
nor torch: the Snakefile reads stamps before every run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KEY = "made"
MEMBER = "made.json"
# The last colon matters: a PNG has the bytes of a checksum behind a text.
TEXT = re.compile(rb"lipdescent-made:([A-Za-z0-9+/=]+):")
# Parameters of a rule that are no options of what it makes.
NOT_ASKED = ("code", "recipe")
NO_RECORD = "carries no record of what made it (an earlier version did, or another program)"
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


def digest(*parts: bytes) -> str:
    """The first half of a sha256, in hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:32]


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


def of(job: Any, **by: Any) -> Stamp | None:
    """Stamp of what a Snakemake job makes; None for a stand-in without a rule.

    Parameters
    ----------
    by : what is worth knowing and asked by nobody, such as the device.

    Raises
    ------
    OtherRecipe
        If an input is not what the job was to be given, or tells nothing of its making.
    """
    if getattr(job, "rule", None) is None:
        return None
    inputs = {}
    for path in map(str, job.input):
        inputs[below(path)] = found = read(path)
        if found is None:
            raise OtherRecipe(f"{path} {NO_RECORD}; {START_AGAIN}")
    asked = plain({k: v for k, v in job.params.items() if k not in NOT_ASKED})
    code, recipes = job.params.code, {name: stamp["recipe"] for name, stamp in inputs.items()}
    made = recipe(job.rule, asked, code, recipes)
    if made != job.params.recipe:
        _refuse(job, inputs)
    shortened = {name: short(s, described=len(inputs) <= DESCRIBED) for name, s in inputs.items()}
    return {
        "rule": job.rule,
        "asked": asked,
        "code": dict(code),
        "inputs": shortened,
        "recipe": made,
        "content": digest(made.encode(), *(s["content"].encode() for s in inputs.values())),
        "by": {"threads": job.threads, **by},
    }


def _refuse(job: Any, inputs: Mapping[str, Stamp]) -> None:
    """Raise, naming the first input that differs from what the configuration asks for."""
    # Imported here: no job depends on this but one that fails.
    from lipdescent.recipes import Recipes

    wanted = Recipes(job.config).recipe(job.rule, **dict(job.wildcards.items()))
    for one in wanted.inputs:
        stamp = inputs.get(below(one.path))
        if stamp is not None and stamp["recipe"] != one.recipe:
            why = differences(stamp, one.stamp())
            raise OtherRecipe(f"{one.path}: {'; '.join(why)}. {START_AGAIN.capitalize()}")
    raise OtherRecipe(
        f"{job.output[0]}: inputs, options or code changed while the jobs ran. "
        f"{START_AGAIN.capitalize()}"
    )


def short(stamp: Mapping[str, Any], *, described: bool = True) -> Stamp:
    """A stamp without code; without options and inputs either unless ``described``."""
    kept = {"recipe": stamp["recipe"], "content": stamp.get("content", "")}
    if described:
        inputs = {name: short(one) for name, one in stamp["inputs"].items() if "asked" in one}
        kept |= {"rule": stamp["rule"], "asked": stamp["asked"], "inputs": inputs}
    return kept


def with_content(stamp: Stamp | None, content: str) -> Stamp | None:
    """The stamp of a file whose numbers have the digest ``content``."""
    return None if stamp is None else {**stamp, "content": content}


def below(path: str | Path) -> str:
    """A path below ``results/<study>/``: the same for a study that was copied or renamed."""
    parts = Path(path).parts
    if "results" not in parts:
        return Path(path).name
    return "/".join(parts[len(parts) - parts[::-1].index("results") + 1 :])


# What differs


def differences(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[str]:
    """In what a file's stamp differs from the wanted one, with both values; empty if in nothing."""
    if found is None:
        return [NO_RECORD]
    if found["recipe"] == wanted["recipe"]:
        return []
    if found.get("rule", wanted["rule"]) != wanted["rule"]:
        return [f"made by rule {found['rule']}, wanted is {wanted['rule']}"]
    why = _options(found.get("asked", {}), wanted["asked"])
    why += _code(found.get("code"), wanted.get("code"))
    return why + _inputs(found.get("inputs", {}), wanted["inputs"])


def _options(found: Any, wanted: Any, place: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        lines = [
            _options(found.get(k, "nothing"), wanted.get(k, "nothing"), f"{place}.{k}".strip("."))
            for k in keys
        ]
        return [line for part in lines for line in part]
    return [] if found == wanted else [f"made with {place} = {found}, wanted is {wanted}"]


def _code(found: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> list[str]:
    if not found or not wanted or found == wanted:
        return []
    lines = []
    for what, names in (
        ("changed", {k for k in found.keys() & wanted.keys() if found[k] != wanted[k]}),
        ("used now and not then", wanted.keys() - found.keys()),
        ("used then and not now", found.keys() - wanted.keys()),
    ):
        if names:
            lines.append(f"{_few(f'scripts/{name}' for name in names)} {what}")
    return lines


def _inputs(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    lines = [f"made without {_few(missing)}"] if missing else []
    lines += [f"made with {_few(extra)}, which is not wanted"] if extra else []
    for name in sorted(found.keys() & wanted.keys()):
        one, other = found[name], wanted[name]
        if one["recipe"] != other["recipe"]:
            why = differences(one, other) if "asked" in one and "asked" in other else []
            return [*lines, f"its {name}: {why[0] if why else 'made otherwise than is wanted'}"]
    return lines


def _few(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


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


def dumps(stamp: Stamp) -> str:
    return json.dumps(stamp, sort_keys=True, separators=(",", ":"))


def _from_safetensors(path: Path) -> str | None:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {}).get(KEY)


def _from_parquet(path: Path) -> str | None:
    import pyarrow.parquet as pq

    found = (pq.read_metadata(path).metadata or {}).get(KEY.encode())
    return found.decode() if found else None


def _from_npz(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.read(MEMBER).decode()


def _from_json(path: Path) -> str | None:
    found = json.loads(path.read_text()).get(KEY)
    return json.dumps(found) if found else None


def _from_text(path: Path) -> str | None:
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        found = TEXT.search(whole)
        return zlib.decompress(base64.b64decode(found[1])).decode() if found else None


READERS = {
    ".safetensors": _from_safetensors,
    ".parquet": _from_parquet,
    ".npz": _from_npz,
    ".json": _from_json,
}

"""What a file of a configuration says twice: of two equal keys, YAML keeps the last in silence."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lipdescent.study.schema import ConfigError

MERGE = "tag:yaml.org,2002:merge"


def check(paths: Iterable[str | Path]) -> None:
    """Every key of every mapping is there once, in each of the files.

    Snakemake has read the files already, so that what is no YAML is its to refuse. A key that a
    merge (``<<``) brings along may be written again: that is what merges are for.

    Raises
    ------
    ConfigError
        One line per key that is written twice: the key, the file and both of its lines.
    """
    lines = [line for path in paths for line in _twice(Path(path))]
    if lines:
        raise ConfigError("\n".join(lines))


def _twice(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # a pipe that was read to its end, or Snakemake's to say
        return
    try:
        yield from _json_twice(text, path)
        return
    except ValueError:
        pass
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return
    yield from _repeated(document, "", path, set())


def _json_twice(text: str, path: Path) -> list[str]:
    """Of a JSON file, which has no lines to name; ValueError for anything else."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        found.extend(
            f"config: {key} is written twice in {path}: leave one of them"
            for key in dict.fromkeys(k for k in keys if keys.count(k) > 1)
        )
        return dict(pairs)

    json.loads(text, object_pairs_hook=look)
    return found


def _repeated(node: yaml.Node | None, place: str, path: Path, seen: set[int]) -> Iterator[str]:
    """Keys below ``place`` that are there more than once; an anchor's mapping counts once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _repeated(entry, place, path, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[Any, int] = {}
    for key, value in node.value:
        name, line = _key(key), key.start_mark.line + 1
        here = f"{place}.{key.value}" if place else str(key.value)
        if name in first:
            yield (
                f"config: {here} is written twice in {path}, in lines {first[name]} and {line}: "
                "leave one of them"
            )
        first.setdefault(name, line)
        yield from _repeated(value, here, path, seen)


def _key(node: yaml.Node) -> Any:
    """What a mapping of Python has as the key: ``1``, ``01`` and ``true`` are one there."""
    if node.tag == MERGE:
        return MERGE
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
        hash(value)
    except (yaml.YAMLError, TypeError, ValueError):
        return str(node.value)
    return value

"""In what a file's stamp differs from the wanted one, in words."""

from collections.abc import Iterable, Mapping
from typing import Any

from lipdescent.storage.stamps import NO_RECORD


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
            lines.append(f"{few(f'scripts/{name}' for name in names)} {what}")
    return lines


def _inputs(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    lines = [f"made without {few(missing)}"] if missing else []
    lines += [f"made with {few(extra)}, which is not wanted"] if extra else []
    for name in sorted(found.keys() & wanted.keys()):
        one, other = found[name], wanted[name]
        if one["recipe"] != other["recipe"]:
            why = differences(one, other) if "asked" in one and "asked" in other else []
            return [*lines, f"its {name}: {why[0] if why else 'made otherwise than is wanted'}"]
    return lines


def few(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

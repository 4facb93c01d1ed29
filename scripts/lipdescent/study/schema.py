"""Check a configuration against its JSON schema; every mistake in the words of the YAML file."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import yaml

from lipdescent.plugins import lookup

if TYPE_CHECKING:
    from jsonschema import ValidationError

WORDS = {
    "integer": "an integer",
    "number": "a finite number",
    "string": "a text of one line",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping (name: value)",
    "null": "null",
}
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minItems": "a list of at least",
    "maxItems": "a list of at most",
    "minProperties": "a mapping whose number of entries is at least",
    "maxProperties": "a mapping whose number of entries is at most",
}


# Keys that may be axes of a study (lipdescent/study/axes.py) begin so.
VARYING = ("datasets.", "architectures.", "training.", "noise_maker", "noise_seed")
LARGEST_INTEGER = 2**63 - 1


class ConfigError(ValueError):
    """A mistake in the configuration; the message names the key, the value and what is allowed."""


@contextmanager
def mistakes(place: str = "") -> Iterator[None]:
    """What a ValueError inside says is a mistake of the configuration, at ``place``."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"config: {place}{error}") from None


def check_schema(config: dict[str, Any], schema: dict[str, Any], *, place: str = "") -> None:
    """Fill in the schema's defaults and check.

    Integers are written as such (4, not 4.0) and numbers are finite.

    Parameters
    ----------
    place : key of ``config`` in the whole configuration.

    Raises
    ------
    ConfigError
        One line per mistake, naming the key, its value and what is allowed.
    """
    _fill_defaults(config, schema, schema)
    validator = _strict()(schema)
    errors = sorted(validator.iter_errors(config), key=lambda e: list(map(str, e.path)))
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(_explain(error, place) for error in errors)))


@cache
def _strict() -> type:
    """JSON schema's rules with our own meaning of an integer, a number and a text."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    strict = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number, "string": _is_text}
    )
    return extend(Draft202012Validator, type_checker=strict)


def check_keys(value: Any, place: str = "") -> None:
    """Every key of every mapping is a text: YAML takes 1, true, on and null for something else.

    Raises
    ------
    ConfigError
        Naming the key and where it is.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not _is_text(None, key):
                raise ConfigError(
                    f"config: {place or 'configuration'} has the key {key!r}: allowed is a text "
                    "of one line (in quotation marks, if YAML takes it for something else)"
                )
            check_keys(entry, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for entry in value:
            check_keys(entry, place)


def _is_text(_: object, value: Any) -> bool:
    # A pattern's $ matches before a line's end, too, and a name goes into file names and logs.
    return isinstance(value, str) and value.isprintable()


def _is_integer(_: object, value: Any) -> bool:
    # What does not fit into 64 bits fits neither into a tensor nor into the table.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INTEGER


def _is_number(_: object, value: Any) -> bool:
    return _is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


def _explain(error: ValidationError, place: str) -> str:
    """One line per mistake: key, value, what is allowed."""
    parts = [*([place] if place else []), *error.absolute_path]
    entry = isinstance(parts[-1], int) if parts else False  # of a list: its index says little
    key = ".".join(map(str, parts[:-1] if entry else parts)) or "configuration"
    kind, instance = str(error.validator), cast(Any, error.instance)
    wanted = cast(Any, error.validator_value)
    if kind == "additionalProperties":
        return _unknown(error, "" if key == "configuration" else f"{key}.")
    if kind == "required":
        return f"config: {key}: {error.message}"
    said = f"config: {key} {'contains' if entry else '='} {instance!r}"
    if kind == "uniqueItems":
        twice = sorted({str(v) for v in instance if instance.count(v) > 1})
        return f"{said}: {', '.join(twice)} is there twice"
    if kind == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        words = " or ".join(WORDS[kind] for kind in kinds)
        if isinstance(instance, int) and abs(instance) > LARGEST_INTEGER:
            return f"{said}: allowed is {words}, at most {LARGEST_INTEGER} (64 bits)"
        way = _as_number(instance, kinds) or _as_axis(instance, key)
        return f"{said}: allowed is {words}{way}"
    if kind == "maxLength":
        return f"{said}: allowed are at most {wanted} characters"
    if kind == "enum":
        values = ", ".join("null" if value is None else str(value) for value in wanted)
        return f"{said}: allowed is one of {values}{_as_axis(instance, key)}"
    if kind == "pattern":  # what a regular expression means is in its description
        return f"{said}: allowed is {cast(dict[str, Any], error.schema)['description']}"
    return f"{said}: allowed is {LIMITS.get(kind, kind)} {wanted}"


def _unknown(error: ValidationError, place: str) -> str:
    allowed = sorted(cast(dict[str, Any], error.schema).get("properties", {}))
    lines = []
    for name in sorted(set(cast(dict[str, Any], error.instance)) - set(allowed), key=str):
        try:
            lookup.check("key", f"{place}{name}", [place + a for a in allowed])
        except ValueError as mistake:
            lines.append(f"config: {mistake}")
    return "\n".join(lines)


def _as_number(value: Any, kinds: list[str]) -> str:
    """How to write a number that YAML took for something else (1e-3 is a text, 4.0 a number)."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return ""
    if isinstance(value, bool) or not math.isfinite(number):
        return ""
    if "integer" in kinds and number.is_integer():
        return f" (write {int(number)})"
    if "number" in kinds:
        return f" (write {yaml.safe_dump(number).split()[0]})"
    return ""


def _as_axis(value: Any, key: str) -> str:
    """How to have several values of a key in one study."""
    if not isinstance(value, list) or not key.startswith(VARYING):
        return ""
    name = key.rsplit(".", 1)[-1]
    written = yaml.safe_dump(value, default_flow_style=True, width=float("inf")).strip()
    return f" (for an axis of several write vary: {{{name}: {{{key}: {written}}}}})"


def _fill_defaults(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> None:
    if "$ref" in schema:
        schema = {**schema, **root["$defs"][schema["$ref"].rsplit("/", 1)[1]]}
    if not isinstance(value, dict):
        return
    for key, sub in schema.get("properties", {}).items():
        if key not in value and "default" in sub:
            value[key] = copy.deepcopy(sub["default"])
        if key in value:
            _fill_defaults(value[key], sub, root)

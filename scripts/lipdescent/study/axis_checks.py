"""Are a study's further axes sound? Names, keys and points; every point's own configuration.

Everything here raises ConfigError, naming the axis or the key, its value and what is allowed.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from lipdescent.plugins import lookup
from lipdescent.storage import table_columns, variants
from lipdescent.storage.variants import Point
from lipdescent.study import axes, sections
from lipdescent.study.axes import Axis
from lipdescent.study.schema import ConfigError

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# Of a folder's name, which holds every axis; file systems take 255.
LONGEST_NAME = 200
ALLOWED = (
    "datasets.NAME.OPTION, architectures.NAME.OPTION, training.OPTION, noise_maker, noise_seed"
)


def check_written(config: Mapping[str, Any]) -> None:
    """Names of axes, points and keys, of a configuration that fits the schema."""
    vary = config.get("vary") or {}
    if vary and config.get("experiments"):
        raise ConfigError(
            f"config: vary has {', '.join(vary)}, but a study of experiments "
            f"({', '.join(config['experiments'])}) trains none of the grid's networks, so an "
            "experiment has no axes; allowed is one of the two"
        )
    for name, entry in vary.items():
        if name in table_columns.NAMES:
            raise ConfigError(
                f"config: vary.{name}: the table has such a column; allowed is another name"
            )
        _check_values(name, entry)
    found = axes.axes(config)
    for axis in found:
        if not axis.keys and not config.get("checkpoints"):
            raise ConfigError(
                f"config: vary.{axis.name} sets no key: allowed are points of which some set one, "
                "{NAME: {KEY: value}}"
            )
        for key in axis.keys:
            _check_key(config, axis, key)
    _check_twice(config, found)


def _check_values(name: str, entry: Mapping[str, Any]) -> None:
    """An axis is the list of one key's values, or named points that are mappings."""
    if axes.is_list(entry):
        ((key, values),) = entry.items()
        place = f"config: vary.{name}.{key} = {values}"
        if not values:
            raise ConfigError(f"{place}: allowed is a list of at least 1 value")
        for value in values:
            if isinstance(value, list | dict):
                raise ConfigError(
                    f"{place} contains {value!r}: allowed are numbers and words; what is neither "
                    f"has a name: vary.{name}: {{NAME: {{{key}: {value}}}}}"
                )
        words = [variants.label(axes.named(value)) for value in values]
        named = f"{place} contains"
    else:
        words, named = list(entry), f"config: vary.{name} has the point"
        for word, changes in entry.items():
            if not isinstance(changes, dict):
                raise ConfigError(
                    f"config: vary.{name}.{word} = {changes!r}: allowed is either the list of one "
                    f"key's values, {{KEY: [...]}}, or named points, {{NAME: {{KEY: value}}}}"
                )
    for word in words:
        if not WORD.fullmatch(word.removeprefix("-")):
            raise ConfigError(f"{named} {word!r}: allowed are letters, digits and _.- as names")
        if words.count(word) > 1:
            raise ConfigError(f"{named} {word!r} twice: allowed is each value once")


def _check_key(config: Mapping[str, Any], axis: Axis, key: str) -> None:
    """The key is one that may vary, of a data set or an architecture of the grid."""
    section, *rest = axes.path(config, key)
    named = section in ("datasets", "architectures")
    whole = section in axes.SECTIONS and len(rest) > named
    if not whole and not (section in axes.KEYS and not rest):
        raise ConfigError(f"config: vary.{axis.name}: {key} may not vary; allowed are {ALLOWED}")
    if named:
        used = config["grid"][section.removesuffix("s")]
        try:
            lookup.check(f"name in vary.{axis.name}: {key}: {section}", rest[0], used)
        except ValueError as error:
            raise ConfigError(f"config: {error} (those of the grid)") from None


def _check_twice(config: Mapping[str, Any], found: list[Axis]) -> None:
    """No key is set by two axes, nor within another that is set as a whole."""
    setters = [(axes.path(config, key), key, axis.name) for axis in found for key in axis.keys]
    for (path, key, name), (other, twice, second) in itertools.combinations(setters, 2):
        short = min(len(path), len(other))
        if path[:short] == other[:short]:
            where = " and ".join(dict.fromkeys([f"vary.{name}", f"vary.{second}"]))
            raise ConfigError(
                f"config: {where} set {key} and {twice}: allowed is one axis for each key"
                if key != twice
                else f"config: {where} both set {key}: allowed is one axis for each key"
            )


def check_points(
    config: dict[str, Any], check: Callable[[dict[str, Any], Point], dict[str, Any]]
) -> None:
    """Every point's own configuration, and that no two of them ask for the same.

    ``check`` fills in the defaults of a configuration at a point and checks it. What it fills into
    a mapping that varies goes into ``config``, too.
    """
    found = axes.axes(config)
    for point in axes.products(found) if found else ():
        try:
            _fill(found, config, check(axes.at(config, point), point), point)
        except ConfigError as error:
            raise _at(point, error, lambda part: check(axes.at(config, part), part)) from None
    for dataset in config["grid"]["dataset"]:
        for architecture in config["grid"]["architecture"]:
            _check_different(config, dataset, architecture)


def _fill(
    found: list[Axis], config: dict[str, Any], checked: Mapping[str, Any], point: Point
) -> None:
    for axis in found:
        for key, value in axes.changes(axis, point).items():
            if isinstance(value, dict):
                filled = checked
                for part in axes.path(config, key):
                    filled = filled[part]
                value.update(filled)


def _at(point: Point, error: ConfigError, check: Callable[[Point], object]) -> ConfigError:
    """The mistake, with the one axis that makes it, or else the whole point."""
    for axis, value in point.items():
        try:
            check({axis: value})
        except ConfigError as alone:
            point, error = {axis: value}, alone
            break
    where = ", ".join(f"{axis} = {variants.label(value)}" for axis, value in point.items())
    lines = str(error).splitlines()
    return ConfigError(
        "\n".join(f"config: vary, at {where}: {line.removeprefix('config: ')}" for line in lines)
    )


def _check_different(config: dict[str, Any], dataset: str, architecture: str) -> None:
    """No two points give the same networks of the same data; their names fit into files' names."""
    seen: dict[str, str] = {}
    for point in axes.points(config, dataset, architecture):
        name, here = variants.name(architecture, point), axes.at(config, point)
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"config: vary: {name!r} is the name of a folder: allowed are at most "
                f"{LONGEST_NAME} characters"
            )
        asked = [
            sections.module(here, architecture),
            sections.build_options(here, architecture),
            sections.training_options(here, architecture),
            sections.data_module(here, dataset),
            sections.data_options(here, dataset),
            *(here[key] for key in axes.KEYS),
            # Of networks trained elsewhere their files tell what else they differ in.
            point if config.get("checkpoints") else {},
        ]
        same = seen.setdefault(json.dumps(asked, sort_keys=True), name)
        if same != name:
            raise ConfigError(
                f"config: vary: {same} and {name} ask for the same networks on {dataset}: allowed "
                f"are points that differ (architectures.{architecture}.training takes precedence "
                "over training)"
            )

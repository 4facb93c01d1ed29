"""Check a study's configuration before any job runs.

Never imports torch: the Snakefile and every cluster job load this.
"""

import contextlib
import copy
import json
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from lipdescent.storage.variants import Point
from lipdescent.study import axes, axis_checks, checkpoint_files, training_section
from lipdescent.study.checks import check_config
from lipdescent.study.runs import plan_file
from lipdescent.study.schema import ConfigError, check_keys, check_schema

# (section, key, what is in its place)
REPLACED = {
    "statistics.bootstrap": "intervals are Student's t over the seeds now, nothing is resampled",
    "bounds.exact_enumeration.max_enumerated": "all patterns are looked at up to 14 units",
    "experiments.distance_preservation.band": "the band is that of the caption",
    "experiments.distance_preservation_images.band": "the band is that of the caption",
    "experiments.distance_preservation_images.constants": (
        "coefficients are those of every layer; with BatchNorm a branch may have their 4th power"
    ),
}
# Overlays are merged into the default study: in these, `name: null` takes an entry out again.
# What the default study had once: null takes it out of an overlay of that time, and does no harm.
FORMER = {"bounds": ("upper_geolip",)}
SECTIONS = ("bounds", "quantities", "datasets", "architectures", "experiments")


def prepare(
    config: dict[str, Any],
    *,
    schema: str | Path,
    figures: list[str],
    comparisons: list[str],
    default: str | Path | None = None,
) -> dict[str, Any]:
    """Validated copy of ``config`` with defaults filled in.

    Parameters
    ----------
    schema : path of the JSON schema (YAML).
    figures, comparisons : names of the figures that can be drawn.
    default : path of the study (YAML) that was overlaid; null takes out what it has.

    Raises
    ------
    ConfigError
        Naming the key, its value and what is allowed.
    """
    config = copy.deepcopy(dict(config))
    check_keys(config)
    overlaid = _read(default) if default else {}
    removed = _take_out(config, overlaid)
    written = _training_as_written(config, overlaid)
    _take_replaced(config)
    rules = _rules(Path(schema).read_text(encoding="utf-8"))
    _check_schema(config, rules)
    check_one = partial(check_config, removed=removed, figures=figures, comparisons=comparisons)
    axis_checks.check_written(config)
    check_one(config, written=written)

    def check(here: dict[str, Any], point: Point) -> dict[str, Any]:
        here = copy.deepcopy(here)
        files = here.pop(axes.DATA_NAMES, {})
        _check_schema(here, rules)
        own = _training_at(config, written, point)
        check_one({**here, axes.DATA_NAMES: files}, written=own)
        return here

    axis_checks.check_points(config, check)
    checkpoint_files.check(config, written)
    return config


def _check_schema(config: dict[str, Any], rules: dict[str, Any]) -> None:
    """Against the schema, the training of each architecture as a whole."""
    check_schema(config, rules)
    for name, options in config["architectures"].items():
        whole = {**config["training"], **options.get("training", {})}
        training = {**rules["properties"]["training"], "$defs": rules["$defs"]}
        check_schema(whole, training, place=f"architectures.{name}.training")


def _training_at(
    config: dict[str, Any], written: dict[str | None, dict[str, Any]], point: Point
) -> dict[str | None, dict[str, Any]]:
    """What the study itself says of its training, and each architecture's, at a point."""
    found = {name: dict(section) for name, section in written.items()}
    for axis in axes.axes(config):
        for key, value in axes.changes(axis, point).items() if axis.name in point else ():
            section, *rest = axes.path(config, key)
            if section == "training":
                found.setdefault(None, {})[rest[0]] = value
            elif section == "architectures" and rest[1:2] == ["training"]:
                own = {rest[2]: value} if rest[2:] else value
                found.setdefault(rest[0], {}).update(own if isinstance(own, dict) else {})
    return found


def _take_replaced(config: dict[str, Any]) -> None:
    """Take out keys of former versions, and say what is in their place."""
    for key, instead in REPLACED.items():
        *sections, last = key.split(".")
        entries: Any = config
        for section in sections:
            entries = entries.get(section) if isinstance(entries, dict) else None
        if isinstance(entries, dict) and last in entries:
            value = entries.pop(last)
            print(f"config: {key} = {value!r} has no effect: {instead}", file=sys.stderr)


def _read(path: str | Path) -> Any:
    """A YAML file, which is not changed."""
    return _parsed(Path(path).read_text(encoding="utf-8"))


@cache
def _rules(schema: str) -> dict[str, Any]:
    """The JSON schema, which is not changed."""
    return training_section.with_defaults(_parsed(schema))


@cache
def _parsed(text: str) -> Any:
    """By the parser in C where PyYAML was built with it: ten times as fast."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def as_in_a_file(given: Any) -> Any:
    """What ``--config`` gave, with the numbers, true, false and null that a YAML file would hold.

    Snakemake reads every entry of a list or a mapping of its command line, such as
    ``grid={width: [4, 8]}``, as a text.
    """
    match given:
        case Mapping():
            return {key: as_in_a_file(value) for key, value in given.items()}
        case list() | tuple():
            return [as_in_a_file(value) for value in given]
        case str():
            with contextlib.suppress(yaml.YAMLError):
                value = yaml.safe_load(given)
                return value if isinstance(value, int | float | None) else given
    return given


def _take_out(config: dict[str, Any], default: dict[str, Any]) -> set[tuple[str, str]]:
    """Take entries that are null out of their sections; (section, name) of each."""
    removed = set()
    for section in SECTIONS:
        if not isinstance(config.get(section), dict):
            continue
        entries, known = config[section], default.get(section) or {}
        empty = [name for name, entry in entries.items() if entry is None]
        for name in empty:
            if known.get(name) is None and name not in FORMER.get(section, ()):
                raise ConfigError(
                    f"config: {section}.{name} has no value: write {name}: {{}} to have it with "
                    f"its defaults (null takes out what the default study has: "
                    f"{', '.join(sorted(map(str, known))) or 'nothing'})"
                )
        removed |= {(section, name) for name in empty}
        config[section] = {k: v for k, v in entries.items() if v is not None}
    return removed


def _training_as_written(
    config: dict[str, Any], default: dict[str, Any]
) -> dict[str | None, dict[str, Any]]:
    """The training section less what the default study has (None), and each architecture's own."""
    inherited = default.get("training", {})
    sections: dict[str | None, Any] = {None: config.get("training")}
    entries = config.get("architectures")
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        sections[name] = entry.get("training") if isinstance(entry, dict) else None
    written = {k: dict(v) for k, v in sections.items() if isinstance(v, dict)}
    if None in written:
        written[None] = {k: v for k, v in written[None].items() if v != inherited.get(k)}
    return written


def last_start(study: str) -> dict[str, str]:
    """Command and time of the study's last start, as far as they were written down."""
    try:
        plan = json.loads(plan_file(study).read_text())
        return {key: plan[key] for key in ("command", "started")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}

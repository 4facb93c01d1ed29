"""Check a study's configuration before any job runs, and list the study's runs.

Never imports torch: the Snakefile and every cluster job load this.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lipdescent import config_checks, config_schema, files
from lipdescent.architecture_options import build_options as build_options
from lipdescent.architecture_options import training_options as training_options
from lipdescent.config_schema import ConfigError
from lipdescent.seed_blocks import name as seed_block

# (section, key, what is in its place)
REPLACED = (
    (
        "statistics",
        "bootstrap",
        "intervals are Student's t over the seeds now, nothing is resampled: take this key out",
    ),
)
# Overlays are merged into the default study: in these, `name: null` takes an entry out again.
SECTIONS = ("bounds", "datasets", "architectures", "experiments")


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
    config_schema.check_keys(config)
    overlaid = _read(default) if default else {}
    removed = _take_out(config, overlaid)
    written = _training_as_written(config, overlaid)
    _check_replaced(config)
    rules = _read(schema)
    config_schema.check(config, rules)
    for name, options in config["architectures"].items():
        whole = {**config["training"], **options.get("training", {})}
        training = {**rules["properties"]["training"], "$defs": rules["$defs"]}
        config_schema.check(whole, training, place=f"architectures.{name}.training")
    config_checks.check(
        config, removed=removed, written=written, figures=figures, comparisons=comparisons
    )
    return config


def _check_replaced(config: dict[str, Any]) -> None:
    """Keys that are no more: the message says what is in their place."""
    for section, key, instead in REPLACED:
        entries = config.get(section)
        if isinstance(entries, dict) and key in entries:
            raise ConfigError(f"config: {section}.{key} = {entries[key]!r}: {instead}")


def _read(path: str | Path) -> Any:
    """A YAML file, which is not changed."""
    return _parsed(Path(path).read_text(encoding="utf-8"))


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
            if known.get(name) is None:
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
    sections, entries = {None: config.get("training")}, config.get("architectures")
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        sections[name] = entry.get("training") if isinstance(entry, dict) else None
    written = {k: dict(v) for k, v in sections.items() if isinstance(v, dict)}
    if None in written:
        written[None] = {k: v for k, v in written[None].items() if v != inherited.get(k)}
    return written


def experiment_parts(config: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Options of every job of an experiment."""
    options, split = config["experiments"][name], config["execution"]["split"].get(name)
    return [options] if split is None else [{**options, split: [v]} for v in options[split]]


@dataclass(frozen=True)
class Run:
    """One training job: a width with every label noise and a block of seeds."""

    dataset: str
    architecture: str
    width: int
    seeds: tuple[int, ...]

    @property
    def path(self) -> str:
        """The run's place below results/<study>/<stage>/."""
        block = f"seeds={seed_block(self.seeds)}"
        return f"{self.dataset}/{self.architecture}/width={self.width}/{block}"


def seed_blocks(config: dict[str, Any]) -> list[tuple[int, ...]]:
    """Seeds that are trained together: blocks that the study already has, then new ones.

    A block that exists stays as it is when seeds are added or ``seeds_per_block`` changes.
    """
    wanted, size = set(config["grid"]["seed"]), config["execution"]["seeds_per_block"]
    kept: list[tuple[int, ...]] = []
    for block in _recorded_blocks(config["study"]):
        if wanted.issuperset(block):
            kept.append(block)
            wanted -= set(block)
    rest = sorted(wanted)
    return kept + [tuple(rest[i : i + size]) for i in range(0, len(rest), size)]


def _recorded_blocks(study: str) -> list[tuple[int, ...]]:
    """Blocks of the study's last start; none where its plan is missing or broken."""
    try:
        recorded = json.loads(plan_file(study).read_text())["seed_blocks"]
        blocks = [tuple(sorted(block)) for block in recorded]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    sound = all(block and all(type(seed) is int for seed in block) for block in blocks)
    distinct = len({seed for block in blocks for seed in block}) == sum(map(len, blocks))
    return blocks if sound and distinct else []


def check_folder(study: str) -> None:
    """A study's results go to a folder.

    Raises
    ------
    ConfigError
        If there is a file in its place.
    """
    folder = plan_file(study).parent
    for path in (folder.parent, folder):
        if path.exists() and not path.is_dir():
            raise ConfigError(
                f"{path} is a file, and the study's results go to the folder {folder}/: "
                "move the file, or give the study another name"
            )


def record_plan(config: dict[str, Any], *, command: str = "") -> None:
    """Write down the configuration and how seeds are divided; called when jobs are about to run.

    ``command`` is what was typed to start them.
    """
    with files.complete(plan_file(config["study"])) as partial:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        plan = {
            "seed_blocks": seed_blocks(config),
            "config": config,
            "command": command,
            "started": started,
        }
        partial.write_text(json.dumps(plan, indent=1))


def last_start(study: str) -> dict[str, str]:
    """Command and time of the study's last start, as far as they were written down."""
    try:
        plan = json.loads(plan_file(study).read_text())
        return {key: plan[key] for key in ("command", "started")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def plan_file(study: str) -> Path:
    """What the study's last run was asked to do."""
    return Path("results", study, "plan.json")


def runs(config: dict[str, Any]) -> list[Run]:
    """Every run of the study, widest first: long jobs that start last end last."""
    grid, blocks = config["grid"], seed_blocks(config)
    return [
        Run(dataset, architecture, width, block)
        for width in sorted(grid["width"], reverse=True)
        for dataset in grid["dataset"]
        for architecture in grid["architecture"]
        for block in blocks
    ]


def visible_gpus() -> int:
    """NVIDIA devices of this machine, found without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if hidden is None:
        return there
    # CUDA shows what is listed up to the first entry that is none of its devices.
    count = 0
    for name in map(str.strip, hidden.split(",")):
        exists = int(name) < there if name.isdecimal() else name.startswith(("GPU-", "MIG-"))
        if not exists:
            break
        count += 1
    return count if there else 0


def gpus_per_job(device: str) -> int:
    """What a job asks of the scheduler's ``gpu`` resource: 0 where none is used."""
    return int(device.startswith("cuda") or (device == "auto" and visible_gpus() > 0))


def gpus_at_once(device: str) -> int:
    """How many jobs may use a GPU of this machine at a time: one on each that they may choose."""
    return 1 if ":" in device else max(1, visible_gpus())


def check_device(device: str, *, local: bool) -> None:
    """CUDA asked for and absent is an error before any job; a cluster's nodes are not known here.

    Raises
    ------
    ConfigError
        Naming the device and what is allowed.
    """
    if not local or not device.startswith("cuda"):
        return
    count, index = visible_gpus(), int(device.partition(":")[2] or 0)
    if index >= count:
        here = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(
            f"config: device = {device!r}: this machine has {count} CUDA devices; "
            f"allowed here: {here}"
        )

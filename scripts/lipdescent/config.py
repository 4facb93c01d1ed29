"""Check a study's configuration before any job runs, and list the study's runs.

Never imports torch: the Snakefile and every cluster job load this.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lipdescent import config_schema, files, names, signatures
from lipdescent.config_schema import ConfigError

# Overlays are merged into the default study: in these, `name: null` takes an entry out again.
SECTIONS = ("bounds", "datasets", "architectures", "experiments")
# What only one of the optimizers reads.
OPTIMIZER_OPTIONS = {"momentum": "sgd", "betas": "adam"}


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
    overlaid = yaml.safe_load(Path(default).read_text()) if default else {}
    removed = _take_out(config, overlaid)
    written = _training_as_written(config, overlaid)
    rules = yaml.safe_load(Path(schema).read_text())
    config_schema.check(config, rules)
    for name, options in config["architectures"].items():
        whole = {**config["training"], **options.get("training", {})}
        training = {**rules["properties"]["training"], "$defs": rules["$defs"]}
        config_schema.check(whole, training, place=f"architectures.{name}.training")
    _check_order("grid.epoch", config["grid"]["epoch"])
    _check_removed(config, removed)
    _check_names(config, figures, comparisons)
    _check_options(config)
    _check_optimizers(config, written)
    _check_bounds(config)
    _check_split(config)
    _check_groups(config)
    return config


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
    sections = {None: config.get("training")}
    for name, entry in dict(config.get("architectures") or {}).items():
        sections[name] = entry.get("training") if isinstance(entry, dict) else None
    written = {k: dict(v) for k, v in sections.items() if isinstance(v, dict)}
    if None in written:
        written[None] = {k: v for k, v in written[None].items() if v != inherited.get(k)}
    return written


def _check_removed(config: dict[str, Any], removed: set[tuple[str, str]]) -> None:
    """Nothing names an entry that null has taken out."""
    uppers = (config["certificates"] or {"upper": []})["upper"]
    used = {
        "grid.architecture": ("architectures", config["grid"]["architecture"]),
        "certificates.upper": ("bounds", uppers),
    }
    for key, (section, listed) in used.items():
        for name in listed:
            if (section, name) in removed:
                raise ConfigError(
                    f"config: {key} has {name!r}, which {section}.{name}: null takes out"
                )


def _check_order(key: str, values: list[int]) -> None:
    if any(a >= b for a, b in pairwise(values)):
        raise ConfigError(f"config: {key} = {values}: allowed is an increasing list")


def _check_names(config: dict[str, Any], figures: list[str], comparisons: list[str]) -> None:
    """Every name in the configuration is one of a plug-in that exists."""
    checks: list[tuple[str, str, list[str]]] = []
    grid = config["grid"]
    checks += [("grid.dataset", name, names.known("datasets")) for name in grid["dataset"]]
    described = sorted(config["architectures"])
    checks += [("grid.architecture", name, described) for name in grid["architecture"]]
    for name, options in config["architectures"].items():
        module = options.get("module", name)
        checks.append((f"architectures.{name}.module", module, names.known("architectures")))
    checks += [("datasets", name, names.known("datasets")) for name in config["datasets"]]
    checks.append(("noise_maker", config["noise_maker"], names.known("label_noise")))
    sections = {"training": config["training"]} | {
        f"architectures.{name}.training": training_options(config, name)
        for name in config["architectures"]
    }
    for key, training in sections.items():
        checks.append((f"{key}.loss", training["loss"], names.known("losses")))
        checks.append((f"{key}.schedule", training["schedule"], names.known("schedules")))
    checks += [("bounds", name, names.known("bounds")) for name in config["bounds"]]
    certificates = config["certificates"]
    if certificates:
        asked = sorted(config["bounds"])
        checks += [("certificates.upper", name, asked) for name in certificates["upper"]]
        for norm, radii in certificates["radii"].items():
            _check_order(f"certificates.radii.{norm}", radii)
    checks += [("experiments", name, names.known("experiments")) for name in config["experiments"]]
    checks += [("figures", name, sorted(figures)) for name in config["figures"]]
    checks += [("comparisons", name, sorted(comparisons)) for name in config["comparisons"]]
    for key, name, allowed in checks:
        try:
            names.check(key, name, allowed)
        except ValueError as error:
            raise ConfigError(f"config: {error}") from None


def _check_options(config: dict[str, Any]) -> None:
    """Every option is one that its plug-in takes, and none is missing that it needs."""
    given: list[tuple[str, str, str, dict[str, Any]]] = []
    for package in ("datasets", "experiments"):
        given += [(f"{package}.{n}", package, n, o) for n, o in config[package].items()]
    for name, entry in config["bounds"].items():
        options = {k: v for k, v in entry.items() if k != "norms"}
        given.append((f"bounds.{name}", "bounds", name, options))
    used = config["grid"]["architecture"]
    for name in config["architectures"]:
        module = config["architectures"][name].get("module", name)
        options = build_options(config, name)
        given.append((f"architectures.{name}", "architectures", module, options))
        place = f"architectures.{name}.training" if name in used else "training"
        training = training_options(config, name)
        for kind, package in (("loss", "losses"), ("schedule", "schedules")):
            options = training[f"{kind}_options"]
            given.append((f"{place}.{kind}_options", package, training[kind], options))
    for key, package, name, options in given:
        allowed, needed = signatures.options(package, name)
        for option in options:
            try:
                names.check(f"option of {key} ({name})", option, allowed)
            except ValueError as error:
                raise ConfigError(f"config: {error}") from None
        missing = [option for option in needed if option not in options]
        if missing:
            raise ConfigError(f"config: {key}: {name} needs {', '.join(missing)}")
        kinds = {"type": "object", "properties": signatures.types(package, name)}
        config_schema.check(options, kinds, place=key)


def _check_optimizers(config: dict[str, Any], written: dict[str | None, dict[str, Any]]) -> None:
    """Nothing is set that the optimizer does not read."""
    for name, section in written.items():
        training = config["training"] if name is None else training_options(config, name)
        key = "training" if name is None else f"architectures.{name}.training"
        for option, optimizer in OPTIMIZER_OPTIONS.items():
            if section.get(option) and training["optimizer"] != optimizer:
                raise ConfigError(
                    f"config: {key}.{option} = {section[option]}: only optimizer {optimizer} has "
                    f"it, and {key}.optimizer = {training['optimizer']}"
                )


def _check_bounds(config: dict[str, Any]) -> None:
    """Bounds exist in the norms asked for; certificates rest on upper bounds."""
    for name, entry in config["bounds"].items():
        known = signatures.constant("bounds", name, "NORMS")
        wrong = [norm for norm in entry.get("norms", []) if known and norm not in known]
        if wrong:
            raise ConfigError(
                f"config: bounds.{name}.norms contains {wrong[0]!r}: this bound exists in "
                f"{', '.join(known)}"
            )
    directions = {n: signatures.constant("bounds", n, "DIRECTION") for n in config["bounds"]}
    for name in (config["certificates"] or {"upper": []})["upper"]:
        if directions[name] not in ("upper", None):
            uppers = [n for n, direction in directions.items() if direction == "upper"]
            raise ConfigError(
                f"config: certificates.upper contains {name!r}, whose direction is "
                f"{directions[name]}: allowed are upper bounds, in this study "
                f"{', '.join(uppers) or 'none'}"
            )


def _check_split(config: dict[str, Any]) -> None:
    """Experiments are split by an option of theirs that is a list."""
    for name, option in config["execution"]["split"].items():
        lists = {
            n: [k for k, v in o.items() if v and isinstance(v, list)]
            for n, o in config["experiments"].items()
        }
        try:
            names.check("execution.split", name, sorted(lists))
            names.check(f"execution.split.{name}", option, sorted(lists[name]))
        except ValueError as error:
            raise ConfigError(f"config: {error}") from None


def _check_groups(config: dict[str, Any]) -> None:
    """Groups that are sorted make up every width of the grid."""
    for name in config["grid"]["architecture"]:
        module = config["architectures"][name].get("module", name)
        given = build_options(config, name)
        size, activation = (
            given.get(option, signatures.default("architectures", module, option))
            for option in ("group_size", "activation")
        )
        for width in config["grid"]["width"]:
            if size and activation in (None, "groupsort") and width % size:
                raise ConfigError(
                    f"config: architectures.{name}.group_size = {size} does not divide "
                    f"grid.width = {width}"
                )


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


def seed_block(seeds: tuple[int, ...] | list[int]) -> str:
    """Name of a block of seeds: ``0-5`` if they are consecutive, else ``0_2_7``."""
    first, last = seeds[0], seeds[-1]
    if list(seeds) == list(range(first, last + 1)):
        return f"{first}-{last}"
    return "_".join(map(str, seeds))


def seed_blocks(config: dict[str, Any]) -> list[tuple[int, ...]]:
    """Seeds that are trained together: blocks that the study already has, then new ones.

    A block that exists stays as it is when seeds are added or ``seeds_per_block`` changes.
    """
    wanted, size = set(config["grid"]["seed"]), config["execution"]["seeds_per_block"]
    try:
        recorded = json.loads(plan_file(config["study"]).read_text())["seed_blocks"]
    except (OSError, ValueError, KeyError):
        recorded = []
    kept: list[tuple[int, ...]] = []
    for block in map(tuple, recorded):
        if wanted.issuperset(block):
            kept.append(block)
            wanted -= set(block)
    rest = sorted(wanted)
    return kept + [tuple(rest[i : i + size]) for i in range(0, len(rest), size)]


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


def record_plan(config: dict[str, Any]) -> None:
    """Write down the configuration and how seeds are divided; called when jobs are about to run."""
    with files.complete(plan_file(config["study"])) as partial:
        plan = {"seed_blocks": seed_blocks(config), "config": config}
        partial.write_text(json.dumps(plan, indent=1))


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


def training_options(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The training section, with the architecture's own ``training`` entries on top."""
    return {**config["training"], **config["architectures"][architecture].get("training", {})}


def build_options(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """What goes to the architecture's ``build``: its entry less ``module`` and ``training``."""
    entry = config["architectures"][architecture]
    return {k: v for k, v in entry.items() if k not in ("module", "training")}


def visible_gpus() -> int:
    """NVIDIA devices of this machine, found without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return 0
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpus_per_job(device: str) -> int:
    """What a job asks of the scheduler's ``gpu`` resource: 0 where none is used."""
    return int(device.startswith("cuda") or (device == "auto" and visible_gpus() > 0))


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

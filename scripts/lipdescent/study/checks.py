"""What a schema cannot say of a configuration: names that exist, options that plug-ins take.

Everything here raises ConfigError, naming the key, its value and what is allowed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from lipdescent.plugins import lookup, signatures
from lipdescent.study import dataset_checks
from lipdescent.study.schema import ConfigError, check_schema
from lipdescent.study.sections import build_options, training_options
from lipdescent.study.sizes import check_sizes

# What only one of the optimizers reads.
OPTIMIZER_OPTIONS = {"momentum": "sgd", "betas": "adam"}


def check_config(
    config: dict[str, Any],
    *,
    removed: set[tuple[str, str]],
    written: dict[str | None, dict[str, Any]],
    figures: list[str],
    comparisons: list[str],
) -> None:
    """Every check, of a configuration that fits the schema and has its defaults.

    Parameters
    ----------
    removed : (section, name) of the entries that null has taken out.
    written : what the study itself says of its training (None) and that of each architecture.
    figures, comparisons : names of the figures that can be drawn.
    """
    _check_order("grid.epoch", config["grid"]["epoch"])
    _check_removed(config, removed)
    _check_names(config, figures, comparisons)
    _check_options(config)
    _check_optimizers(config, written)
    _check_bounds(config)
    _check_split(config)
    dataset_checks.check(config)
    check_sizes(config)


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
    checks += [("grid.dataset", name, lookup.known("datasets")) for name in grid["dataset"]]
    described = sorted(config["architectures"])
    checks += [("grid.architecture", name, described) for name in grid["architecture"]]
    for name, options in config["architectures"].items():
        module = options.get("module", name)
        checks.append((f"architectures.{name}.module", module, lookup.known("architectures")))
    checks += [("datasets", name, lookup.known("datasets")) for name in config["datasets"]]
    checks.append(("noise_maker", config["noise_maker"], lookup.known("label_noise")))
    sections = {"training": config["training"]} | {
        f"architectures.{name}.training": training_options(config, name)
        for name in config["architectures"]
    }
    for key, training in sections.items():
        checks.append((f"{key}.loss", training["loss"], lookup.known("losses")))
        checks.append((f"{key}.schedule", training["schedule"], lookup.known("schedules")))
    checks += [("bounds", name, lookup.known("bounds")) for name in config["bounds"]]
    certificates = config["certificates"]
    if certificates:
        asked = sorted(config["bounds"])
        checks += [("certificates.upper", name, asked) for name in certificates["upper"]]
        for norm, radii in certificates["radii"].items():
            _check_order(f"certificates.radii.{norm}", radii)
    checks += [("experiments", name, lookup.known("experiments")) for name in config["experiments"]]
    checks += [("figures", name, sorted(figures)) for name in config["figures"]]
    checks += [("comparisons", name, sorted(comparisons)) for name in config["comparisons"]]
    for key, name, allowed in checks:
        try:
            lookup.check(key, name, allowed)
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
                lookup.check(f"option of {key} ({name})", option, allowed)
            except ValueError as error:
                raise ConfigError(f"config: {error}") from None
        missing = [option for option in needed if option not in options]
        if missing:
            raise ConfigError(f"config: {key}: {name} needs {', '.join(missing)}")
        kinds = {"type": "object", "properties": signatures.types(package, name)}
        check_schema(options, kinds, place=key)


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
            lookup.check("execution.split", name, sorted(lists))
            lookup.check(f"execution.split.{name}", option, sorted(lists[name]))
        except ValueError as error:
            raise ConfigError(f"config: {error}") from None

"""What a schema cannot say of a configuration: names that exist, options that plug-ins take.

Everything here raises ConfigError, naming the key, its value and what is allowed.
"""

from itertools import pairwise
from typing import Any

from lipdescent.analysis import axis_choice
from lipdescent.plugins import bound_entries, lookup, signatures
from lipdescent.study import axes, bound_checks, dataset_checks, print_checks
from lipdescent.study.runs import variants_of
from lipdescent.study.schema import ConfigError, check_schema, mistakes
from lipdescent.study.sections import (
    build_options,
    data_module,
    data_options,
    drawn,
    training_key,
    training_options,
)
from lipdescent.study.sections import module as module_of
from lipdescent.study.sizes import check_sizes

# Kinds of measurements that are asked for in other ways than by `quantities`.
ALWAYS = ("bound", "certificates", "metrics")
# What only some of the optimizers read.
OPTIMIZER_OPTIONS = {"momentum": ("sgd",), "betas": ("adam", "adamw")}


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
    _check_experiments(config)
    _check_optimizers(config, written)
    _check_engines(config)
    bound_checks.check(config)
    _check_quantities(config)
    _check_split(config)
    _check_drawn(config)
    print_checks.check(config)
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
    sets = sorted({*lookup.known("datasets"), *config["datasets"]})
    checks += [("grid.dataset", name, sets) for name in grid["dataset"]]
    described = sorted(config["architectures"])
    for name in grid["architecture"]:
        if name not in described and name in lookup.known("architectures"):
            raise ConfigError(
                f"config: unknown grid.architecture {name!r}; known: "
                f"{', '.join(described) or 'none'}; architectures: {{{name}: {{}}}} beside the "
                "grid adds the file of this name"
            )
        checks.append(("grid.architecture", name, described))
    for name in config["architectures"]:
        module = module_of(config, name)
        checks.append((f"architectures.{name}.module", module, lookup.known("architectures")))
    for name, options in config["datasets"].items():
        key = f"datasets.{name}.module" if "module" in options else "datasets"
        checks.append((key, data_module(config, name), lookup.known("datasets")))
    checks.append(("noise_maker", config["noise_maker"], lookup.known("label_noise")))
    sections = {"training": config["training"]} | {
        f"architectures.{name}.training": training_options(config, name)
        for name in config["architectures"]
    }
    for key, training in sections.items():
        checks.append((f"{key}.loss", training["loss"], lookup.known("losses")))
        checks.append((f"{key}.schedule", training["schedule"], lookup.known("schedules")))
    for name, entry in config["bounds"].items():
        key = f"bounds.{name}.bound" if "bound" in entry else "bounds"
        checks.append((key, bound_entries.bound_of(name, entry), lookup.known("bounds")))
        if "points" in entry:
            checks.append((f"bounds.{name}.points", entry["points"], lookup.known("points")))
    extra = [name for name in lookup.known("measurements") if name not in ALWAYS]
    checks += [("quantities", name, extra) for name in config["quantities"]]
    certificates = config["certificates"]
    if certificates:
        asked = sorted(config["bounds"])
        checks += [("certificates.upper", name, asked) for name in certificates["upper"]]
        for norm, radii in certificates["radii"].items():
            _check_order(f"certificates.radii.{norm}", radii)
    checks += [("experiments", name, lookup.known("experiments")) for name in config["experiments"]]
    for kind, known in (("figures", figures), ("comparisons", comparisons)):
        checks += [(kind, module, sorted(known)) for module, _ in drawn(config, kind).values()]
    for key, name, allowed in checks:
        with mistakes():
            lookup.check(key, name, allowed)


def _check_options(config: dict[str, Any]) -> None:
    """Every option is one that its plug-in takes, and none is missing that it needs."""
    given: list[tuple[str, str, str, dict[str, Any]]] = []
    for name, options in config["experiments"].items():
        given.append((f"experiments.{name}", "experiments", name, options))
    for name in config["datasets"]:
        options = data_options(config, name)
        given.append((f"datasets.{name}", "datasets", data_module(config, name), options))
    for kind in ("figures", "comparisons"):
        for name, (module, options) in drawn(config, kind).items():
            given.append((f"{kind}.{name}", kind, module, options))
    for name, entry in config["bounds"].items():
        bound = bound_entries.bound_of(name, entry)
        given.append((f"bounds.{name}", "bounds", bound, bound_entries.own_options(entry)))
        if "points" in entry:
            options = entry.get("points_options", {})
            given.append((f"bounds.{name}.points_options", "points", entry["points"], options))
    given += [(f"quantities.{n}", "measurements", n, o) for n, o in config["quantities"].items()]
    used = config["grid"]["architecture"]
    for name in config["architectures"]:
        module = module_of(config, name)
        options = build_options(config, name)
        given.append((f"architectures.{name}", "architectures", module, options))
        place = f"architectures.{name}.training" if name in used else "training"
        training = training_options(config, name)
        for kind, package in (("loss", "losses"), ("schedule", "schedules")):
            options = training[f"{kind}_options"]
            given.append((f"{place}.{kind}_options", package, training[kind], options))
    for key, package, name, options in given:
        allowed, needed = signatures.options(package, name)
        if package == "bounds":
            allowed = [*allowed, *bound_entries.COMMON]
        for option in options:
            with mistakes():
                lookup.check(f"option of {key} ({name})", option, allowed)
        missing = [option for option in needed if option not in options]
        if missing:
            raise ConfigError(f"config: {key}: {name} needs {', '.join(missing)}")
        kinds = {"type": "object", "properties": signatures.types(package, name)}
        check_schema(options, kinds, place=key)


def _check_experiments(config: dict[str, Any]) -> None:
    """What an experiment's ``CHECK`` refuses, its ``run`` would refuse, too."""
    for name, options in config["experiments"].items():
        check = signatures.function("experiments", name, "CHECK")
        if check is not None:
            with mistakes(f"experiments.{name}: "):
                check(**options)


def _check_optimizers(config: dict[str, Any], written: dict[str | None, dict[str, Any]]) -> None:
    """Nothing is set that the optimizer does not read."""
    for name, section in written.items():
        training = config["training"] if name is None else training_options(config, name)
        key = "training" if name is None else f"architectures.{name}.training"
        for option, having in OPTIMIZER_OPTIONS.items():
            if section.get(option) and training["optimizer"] not in having:
                raise ConfigError(
                    f"config: {key}.{option} = {section[option]}: only optimizer "
                    f"{' or '.join(having)} has it, and {key}.optimizer = {training['optimizer']}"
                )


def _check_engines(config: dict[str, Any]) -> None:
    """Points are attacked, or Jacobians at them penalised; weights are constrained once."""
    for name in config["grid"]["architecture"]:
        training = training_options(config, name)
        if training["penalty"] and training["adversary"]:
            raise ConfigError(
                f"config: architectures.{name} is trained with training.penalty and "
                "training.adversary: allowed is one of them"
            )


def _check_drawn(config: dict[str, Any]) -> None:
    """No two pictures have one name; those over axes name axes and values that there are."""
    for kind in ("figures", "comparisons"):
        names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in config[kind]]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"config: {kind} has {name!r} twice: allowed is each name once")
    if axes.DATA_NAMES not in config:  # at a point there are no axes
        _check_axes(config)
        _check_fits(config)


def _check_axes(config: dict[str, Any]) -> None:
    """Figures over axes name axes and values that the study has, and leave none out."""
    grid = {name: config["grid"][name] for name in axis_choice.USUAL}
    for name, (module, options) in drawn(config, "comparisons").items():
        if not signatures.constant("comparisons", module, "CHOOSES_AXES"):
            continue
        for dataset in config["grid"]["dataset"]:
            of = variants_of(config, dataset).values()
            with mistakes(f"comparisons.{name} ({dataset}): "):
                axis_choice.choose(axis_choice.axes_of(of, grid), **options)


def _check_fits(config: dict[str, Any]) -> None:
    """Power laws start at values of axes that they are over."""
    numbers = [axis.name for axis in axes.axes(config) if axis.kind != "text"]
    for name in config["statistics"]["fit_from"]:
        with mistakes():
            lookup.check(
                "axis of numbers in statistics.fit_from", name, ["epoch", "width", *numbers]
            )


def _check_quantities(config: dict[str, Any]) -> None:
    """What a quantity rests on is there: enough seeds, a loss that it is about."""
    grid = config["grid"]
    for name in config["quantities"]:
        seeds = signatures.constant("measurements", name, "SEEDS_NEEDED") or 1
        if len(grid["seed"]) < seeds:
            raise ConfigError(
                f"config: quantities has {name} and grid.seed = {grid['seed']}: allowed with it "
                f"are {seeds} seeds and more"
            )
        losses = signatures.constant("measurements", name, "LOSSES")
        for architecture in grid["architecture"]:
            loss = training_options(config, architecture)["loss"]
            if losses and loss not in losses:
                key = training_key(config, architecture, "loss")
                raise ConfigError(
                    f"config: quantities has {name} and {key} = {loss}: allowed with it is "
                    f"{' or '.join(losses)}"
                )


def _check_split(config: dict[str, Any]) -> None:
    """Experiments are split by an option of theirs that is a list."""
    for name, option in config["execution"]["split"].items():
        lists = {
            n: [k for k, v in o.items() if v and isinstance(v, list)]
            for n, o in config["experiments"].items()
        }
        with mistakes():
            lookup.check("execution.split", name, sorted(lists))
            lookup.check(f"execution.split.{name}", option, sorted(lists[name]))

"""How every file of a study is to be made: options, code and inputs, by rule and wildcards.

The rules of the workflow take their parameters from here, so what a job is given and what its
output is compared with later are the same. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from lipdescent.plugins import bound_entries, lookup, signatures
from lipdescent.storage import stamps
from lipdescent.storage.seed_blocks import block_name
from lipdescent.study import axes, checkpoint_files, published, sections
from lipdescent.study.code_digest import caption, code_versions, measurement_files, training_files
from lipdescent.study.recipe import Recipe
from lipdescent.study.runs import Run, at, experiment_parts, runs_of, variants_of


class NotInStudy(ValueError):
    """A file is asked for that the study does not have; the message names those that it has."""


def _once(method: Callable) -> Callable:
    """Each recipe is made once."""
    name = method.__name__

    def make(self: Recipes, **wildcards: str) -> Recipe:
        key = (name, *sorted(wildcards.items()))
        if key not in self.made:
            self.made[key] = method(self, **wildcards)
        return self.made[key]

    return make


class Recipes:
    """Every rule's recipe under a checked configuration; a rule's method takes its wildcards."""

    def __init__(
        self, config: dict[str, Any], *, code: Callable[..., dict[str, str]] = code_versions
    ) -> None:
        self.config = config
        self.code = lru_cache(None)(code)
        self.measurement_files = lru_cache(None)(measurement_files)
        self.runs = runs_of(config)
        self.by_path = {run.path: run for run in self.runs}
        self.axes = {axis.name: axis.kind for axis in axes.axes(config)}
        self.base = f"results/{config['study']}"
        self.made: dict[tuple, Recipe] = {}

    def recipe(self, rule: str, **wildcards: str) -> Recipe:
        """By the rule's name and its wildcards."""
        wildcards.pop("study", None)
        return getattr(self, rule)(**wildcards)

    @property
    def quantities(self) -> dict[str, Any]:
        """Further quantities; plans of former versions have none."""
        return self.config.get("quantities", {})

    @cached_property
    def measures(self) -> list[str]:
        """Everything that is taken of a stack."""
        certificates = ["certificates"] if self.config["certificates"] else []
        return ["metrics", *self.quantities, *self.config["bounds"], *certificates]

    def variants(self, dataset: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """See :func:`lipdescent.study.runs.variants_of`."""
        return variants_of(self.config, dataset)

    @cached_property
    def data_files(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name of a data set's file -> the data set, and the configuration that it is made by."""
        found = {}
        for dataset in self.config["grid"]["dataset"]:
            for _, point in self.variants(dataset).values():
                here = axes.at(self.config, axes.data_point(self.config, dataset, point))
                found[axes.data_file(here, dataset)] = dataset, here
        return found

    def parts(self) -> list[Recipe]:
        """Of the study's networks and measurements, or of its experiments' parts."""
        if self.config["experiments"]:
            whole = [self.experiment(experiment=name) for name in self.config["experiments"]]
            return [one for joined in whole for one in joined.inputs]
        return [*(self.checkpoints(**_wildcards(run)) for run in self.runs), *self.table().inputs]

    @_once
    def dataset(self, *, dataset: str) -> Recipe:
        """``dataset`` is the name of the file."""
        self._check("data set", dataset, {**self.config["datasets"], **self.data_files})
        name, here = self.data_files.get(dataset, (dataset, self.config))
        return Recipe(
            "dataset",
            f"dataset/{dataset}",
            (f"{self.base}/datasets/{dataset}.npz",),
            {"options": here["datasets"].get(name, {})},
            self.code(
                "prepare_dataset.py", f"lipdescent/datasets/{sections.data_module(here, name)}.py"
            ),
        )

    def checkpoints(self, **place: str) -> Recipe:
        """Of a stack's: trained here, or read from files."""
        elsewhere = checkpoint_files.pattern(self.config)
        return self.read(**place) if elsewhere else self.train(**place)

    @cached_property
    def file_digests(self) -> dict[str, str]:
        """Of all files that networks trained elsewhere are read from."""
        files = (path for run in self.runs for path in checkpoint_files.files(self.config, run))
        return checkpoint_files.digests(files)

    @_once
    def read(self, **place: str) -> Recipe:
        """Of checkpoints that were trained elsewhere."""
        run = self.run(place)
        here = at(self.config, run)
        module = sections.module(here, run.architecture)
        options = sections.training_options(here, run.architecture)
        return Recipe(
            "read",
            f"read/{run.path}",
            (f"{self.base}/checkpoints/{run.path}.safetensors",),
            {
                "run": run.asked,
                "epochs": here["grid"]["epoch"],
                "module": module,
                "build_options": sections.build_options(here, run.architecture),
                "training": checkpoint_files.training(here, options),
                "noise_maker": here["noise_maker"],
                "prefix": here["checkpoints"].get("prefix"),
                "files": {p: self.file_digests[p] for p in checkpoint_files.files(here, run)},
            },
            self.code("read_checkpoints.py", f"lipdescent/architectures/{module}.py"),
            (self.dataset(dataset=axes.data_file(here, run.dataset)),),
        )

    @_once
    def train(self, **place: str) -> Recipe:
        run = self.run(place)
        here = at(self.config, run)
        module = sections.module(here, run.architecture)
        training = sections.training_options(here, run.architecture)
        maker = here["noise_maker"]
        stack = f"{self.base}/checkpoints/{run.path}"
        return Recipe(
            "train",
            f"train/{run.path}",
            (f"{stack}.safetensors", f"{stack}.curves.parquet"),
            {
                "run": run.asked,
                "label_noise": here["grid"]["label_noise"],
                "epochs": here["grid"]["epoch"],
                "module": module,
                "build_options": sections.build_options(here, run.architecture),
                "training": training,
                "noise_maker": maker,
                "noise_seed": here["noise_seed"],
            },
            self.code("train.py", *training_files(module, training, maker)),
            (self.dataset(dataset=axes.data_file(here, run.dataset)),),
        )

    @_once
    def measure(self, *, measure: str, **place: str) -> Recipe:
        self._check("measurement", measure, self.measures)
        run = self.run(place)
        here = at(self.config, run)
        module = sections.module(here, run.architecture)
        loss = sections.training_options(here, run.architecture)["loss"]
        maker, certificates = here["noise_maker"], here["certificates"]
        certify = measure == "certificates"
        options = {**here["bounds"], **self.quantities}.get(measure, {})
        entry = here["bounds"].get(measure, {})
        files = self.measurement_files(
            bound_entries.bound_of(measure, entry),
            module,
            loss,
            maker,
            points=entry.get("points", ""),
        )
        return Recipe(
            "measure",
            f"measure/{run.path}/{measure}",
            (f"{self.base}/measurements/{run.path}/{measure}.parquet",),
            {
                # The rows name their study.
                "study": here["study"],
                "options": certificates if certify else with_digests(options),
            },
            self.code("measure.py", *files),
            (
                self.dataset(dataset=axes.data_file(here, run.dataset)),
                self.checkpoints(**place),
                *(self.checkpoints(**_wildcards(r)) for r in self._other_seeds(run, measure)),
                *(self.measure(measure=name, **place) for name in _earlier(here, run, measure)),
            ),
        )

    @_once
    def table(self) -> Recipe:
        inputs = [
            self.measure(measure=measure, **place)
            for place in map(_wildcards, self.runs)
            for measure in self.measures
        ]
        outputs = tuple(f"{self.base}/table.{kind}" for kind in ("parquet", "csv", "json"))
        asked = {"axes": self.axes}
        return Recipe("table", "table", outputs, asked, self.code("aggregate.py"), tuple(inputs))

    @_once
    def figure(self, *, dataset: str, architecture: str, figure: str) -> Recipe:
        """``architecture`` is one at a point."""
        self._check("data set", dataset, self.config["grid"]["dataset"])
        variants = self.variants(dataset)
        self._check("architecture", architecture, variants)
        name, point = variants[architecture]
        loss = sections.training_options(axes.at(self.config, point), name)["loss"]
        more = {"loss": loss, "width_unit": self._width_unit(name)}
        return self._of_table("figure", f"{dataset}/{architecture}", "figures", figure, more)

    @_once
    def comparison(self, *, dataset: str, comparison: str) -> Recipe:
        self._check("data set", dataset, self.config["grid"]["dataset"])
        losses = {
            variant: sections.training_options(axes.at(self.config, point), name)["loss"]
            for variant, (name, point) in self.variants(dataset).items()
        }
        units = {v: self._width_unit(name) for v, (name, _) in self.variants(dataset).items()}
        more = {"losses": losses, "width_units": units}
        return self._of_table("comparison", dataset, "comparisons", comparison, more)

    def _width_unit(self, architecture: str) -> str:
        """What its width counts, as its file says."""
        module = sections.module(self.config, architecture)
        return signatures.constant("architectures", module, "WIDTH_UNIT") or ""

    def _of_table(
        self, rule: str, place: str, kind: str, name: str, more: dict[str, Any]
    ) -> Recipe:
        """A picture that is drawn from the table."""
        drawn = sections.drawn(self.config, kind)
        self._check(rule, name, drawn)
        module, options = drawn[name]
        script = f"lipdescent/{kind}/{module}.py"
        asked = {"statistics": self.config["statistics"], "caption": caption(script)}
        return Recipe(
            rule,
            f"{rule}/{place}/{name}",
            self._drawn(f"{place}/{name}"),
            asked | more | {"module": module, "options": options} | self._printed(),
            self.code("plot.py", script),
            (self.table(),),
        )

    @_once
    def findings(self) -> Recipe:
        return Recipe(
            "findings",
            "findings",
            tuple(f"{self.base}/findings.{kind}" for kind in ("json", "md", "html")),
            {
                "statistics": self.config["statistics"],
                "read_from": checkpoint_files.pattern(self.config),
            },
            self.code("findings.py"),
            (self.table(),),
        )

    @_once
    def explorer(self) -> Recipe:
        own = (f"lipdescent/explorer/explorer.{kind}" for kind in ("css", "html", "js"))
        return Recipe(
            "explorer",
            "explorer",
            (f"{self.base}/explorer.html",),
            {"statistics": self.config["statistics"]},
            self.code("explorer.py", *own),
            (self.table(),),
        )

    @_once
    def provenance(self) -> Recipe:
        if self.config["experiments"]:
            inputs = tuple(self.experiment(experiment=name) for name in self.config["experiments"])
        else:
            inputs = (self.table(),)
        return Recipe(
            "provenance",
            "provenance",
            (f"{self.base}/provenance.json",),
            {
                "config": published.ran(self.config),
                "device": "cpu" if self.config["experiments"] else self.config["device"],
            },
            self.code("record_provenance.py"),
            inputs,
        )

    @_once
    def start_page(self) -> Recipe:
        """Of everything that is shown, figures in the order of the configuration."""
        shown = self._shown()
        figures = [
            [path.removeprefix(f"{self.base}/"), title, recipe.asked["caption"]]
            for recipe, title in shown
            for path in recipe.outputs
            if path.endswith(".png")
        ]
        provenance = self.provenance()
        words = () if self.config["experiments"] else (self.findings(),)
        return Recipe(
            "start_page",
            "start_page",
            (f"{self.base}/report.html",),
            {"figures": figures, "links": published.links(self.config)},
            self.code("start_page.py"),
            (*words, provenance, *provenance.inputs, *(recipe for recipe, _ in shown)),
        )

    def _shown(self) -> list[tuple[Recipe, str]]:
        """Every figure with its title."""
        if self.config["experiments"]:
            names = self.config["experiments"]
            return [(self.experiment_figure(experiment=n), n.replace("_", " ")) for n in names]
        found = []
        for dataset in self.config["grid"]["dataset"]:
            for variant in self.variants(dataset):
                for name in sections.drawn(self.config, "figures"):
                    one = self.figure(dataset=dataset, architecture=variant, figure=name)
                    found.append((one, f"{name} of {variant} on {dataset}".replace("_", " ")))
            for name in sections.drawn(self.config, "comparisons"):
                one = self.comparison(dataset=dataset, comparison=name)
                found.append((one, f"{name} on {dataset}".replace("_", " ")))
        return found

    @_once
    def verify(self) -> Recipe:
        bounds = lookup.known("bounds")
        sets = [self.dataset(dataset=name) for name in self.data_files]
        stacks = [self.checkpoints(**_wildcards(run)) for run in self.runs]
        return Recipe(
            "verify",
            "verify",
            (f"{self.base}/verification.json",),
            {"samples": 30, "seed": 0},
            self.code("verify.py", *(f"lipdescent/bounds/{name}.py" for name in bounds)),
            (self.table(), *sets, *stacks),
        )

    def _parts(self, experiment: str) -> list[dict[str, Any]]:
        """Options of each."""
        self._check("experiment", experiment, self.config["experiments"])
        return experiment_parts(self.config, experiment)

    @_once
    def experiment_part(self, *, experiment: str, part: str) -> Recipe:
        parts = self._parts(experiment)
        self._check(f"part of {experiment}", part, [str(n) for n in range(len(parts))])
        return Recipe(
            "experiment_part",
            f"experiment/{experiment}/{part}",
            (f"{self.base}/experiments/{experiment}/{part}.parquet",),
            {"options": parts[int(part)]},
            self.code("experiment.py", f"lipdescent/experiments/{experiment}.py"),
        )

    @_once
    def experiment(self, *, experiment: str) -> Recipe:
        parts = range(len(self._parts(experiment)))
        inputs = [self.experiment_part(experiment=experiment, part=str(part)) for part in parts]
        outputs = tuple(f"{self.base}/experiments/{experiment}.{k}" for k in ("parquet", "csv"))
        place, code = f"experiment/{experiment}", self.code("join_experiment.py")
        return Recipe("experiment", place, outputs, {}, code, tuple(inputs))

    @_once
    def experiment_figure(self, *, experiment: str) -> Recipe:
        script = f"lipdescent/experiments/{experiment}.py"
        return Recipe(
            "experiment_figure",
            f"experiment_figure/{experiment}",
            self._drawn(experiment),
            {"caption": caption(script)} | self._printed(),
            self.code("plot.py", script),
            (self.experiment(experiment=experiment),),
        )

    def _other_seeds(self, run: Run, measure: str) -> list[Run]:
        """Runs of the same networks with other seeds, if the measurement takes all together."""
        if measure not in self.quantities:
            return []
        if not signatures.constant("measurements", measure, "ALL_SEEDS"):
            return []
        same = replace(run, seeds=())
        return [one for one in self.runs if replace(one, seeds=()) == same and one != run]

    def run(self, place: dict[str, str]) -> Run:
        """The run that wildcards name."""
        path = PLACE.format(**place)
        self._check("stack", path, self.by_path)
        return self.by_path[path]

    def _check(self, what: str, name: str, known: Iterable[str]) -> None:
        try:
            lookup.check(f"{what} of study {self.config['study']}:", name, list(known))
        except ValueError as error:
            raise NotInStudy(str(error)) from None

    def _printed(self) -> dict[str, Any]:
        """How figures are printed; plans of former versions do not say."""
        return {"figure": self.config.get("figure", {})}

    def _drawn(self, name: str) -> tuple[str, ...]:
        return tuple(f"{self.base}/figures/{name}.{kind}" for kind in published.KINDS)


def _earlier(config: dict[str, Any], run: Run, measure: str) -> list[str]:
    """Measurements of a run that one rests on.

    Those are the upper bounds of certificates, and of chains with two hidden layers and more the
    norms at all data, in which an ascent finds where to start.
    """
    if measure == "certificates":
        return config["certificates"]["upper"]
    bounds = config["bounds"]
    if measure not in bounds or "points" in bounds[measure]:
        return []
    bound = bound_entries.bound_of(measure, bounds[measure])
    first = signatures.constant("bounds", bound, "STARTS_FROM")
    entry = bounds.get(first)
    options = sections.build_options(config, run.architecture)
    deep = sections.module(config, run.architecture) in CHAINS and options.get("depth", 1) > 1
    if entry is None or not deep or not set(entry) <= {"norms", "quantiles", "domain"}:
        return []
    return [first]


def with_digests(options: dict[str, Any]) -> dict[str, Any]:
    """A measurement's options with the digests of the files that its points are read from."""
    given = options.get("points_options", {})
    kept = signatures.paths("points", options["points"]) if "points" in options else []
    found = {f"{key}_digest": stamps.file_digest(given[key]) for key in kept if key in given}
    return {**options, "points_options": {**given, **found}} if found else options


# Architectures of linear layers and ReLUs in a row, as many hidden ones as their ``depth``.
CHAINS = ("mlp", "mlp_of_seed")
PLACE = "{dataset}/{architecture}/width={width}/seeds={seeds}"


def _wildcards(run: Run) -> dict[str, str]:
    return {
        "dataset": run.dataset,
        "architecture": run.variant,
        "width": str(run.width),
        "seeds": block_name(run.seeds),
    }

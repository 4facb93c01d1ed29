"""How every file of a study is to be made: options, code and inputs, by rule and wildcards.

The rules of the workflow take their parameters from here, so what a job is given and what its
output is compared with later are the same. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from lipdescent.plugins import lookup
from lipdescent.storage import stamps
from lipdescent.storage.seed_blocks import block_name
from lipdescent.study import published, sections
from lipdescent.study.code_digest import caption, code_versions, measurement_files, training_files
from lipdescent.study.runs import Run, experiment_parts, runs_of


@dataclass(frozen=True, eq=False)
class Recipe:
    """One job: what it is asked for, the code behind it and the recipes of its inputs.

    Attributes
    ----------
    place : of the job's log and benchmark below results/<study>/logs/ and benchmarks/.
    outputs : paths from the folder that holds results/.
    code : file below scripts/ -> digest.
    """

    rule: str
    place: str
    outputs: tuple[str, ...]
    asked: dict[str, Any]
    code: dict[str, str]
    inputs: tuple[Recipe, ...] = ()

    @property
    def path(self) -> str:
        """The output that other jobs read."""
        return self.outputs[0]

    @property
    def benchmark(self) -> str:
        """Snakemake's record of the job's time."""
        results, study, *_ = self.path.split("/")
        return f"{results}/{study}/benchmarks/{self.place}.tsv"

    @cached_property
    def recipe(self) -> str:
        """See :func:`stamps.recipe`."""
        inputs = {stamps.below(one.path): one.recipe for one in self.inputs}
        return stamps.recipe(self.rule, self.asked, self.code, inputs)

    def stamp(self) -> stamps.Stamp:
        """What the output's stamp should be, less its content."""
        described = len(self.inputs) <= stamps.DESCRIBED
        inputs = {
            stamps.below(one.path): stamps.short(one.stamp(), described=described)
            for one in self.inputs
        }
        return {
            "rule": self.rule,
            "asked": stamps.plain(self.asked),
            "code": self.code,
            "inputs": inputs,
            "recipe": self.recipe,
        }


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
        self.base = f"results/{config['study']}"
        self.made: dict[tuple, Recipe] = {}

    def recipe(self, rule: str, **wildcards: str) -> Recipe:
        """By the rule's name and its wildcards."""
        wildcards.pop("study", None)
        return getattr(self, rule)(**wildcards)

    @cached_property
    def measures(self) -> list[str]:
        """Everything that is taken of a stack."""
        certificates = ["certificates"] if self.config["certificates"] else []
        return ["metrics", *self.config["bounds"], *certificates]

    def module(self, architecture: str) -> str:
        """File name of an architecture in scripts/lipdescent/architectures."""
        return self.config["architectures"][architecture].get("module", architecture)

    def parts(self) -> list[Recipe]:
        """Of the study's networks and measurements, or of its experiments' parts."""
        if self.config["experiments"]:
            whole = [self.experiment(experiment=name) for name in self.config["experiments"]]
            return [one for joined in whole for one in joined.inputs]
        return [*(self.train(**_wildcards(run)) for run in self.runs), *self.table().inputs]

    @_once
    def dataset(self, *, dataset: str) -> Recipe:
        return Recipe(
            "dataset",
            f"dataset/{dataset}",
            (f"{self.base}/datasets/{dataset}.npz",),
            {"options": self.config["datasets"].get(dataset, {})},
            self.code("prepare_dataset.py", f"lipdescent/datasets/{dataset}.py"),
        )

    @_once
    def train(self, **place: str) -> Recipe:
        run, module = self._run(place), self.module(place["architecture"])
        training = sections.training_options(self.config, run.architecture)
        maker = self.config["noise_maker"]
        stack = f"{self.base}/checkpoints/{run.path}"
        return Recipe(
            "train",
            f"train/{run.path}",
            (f"{stack}.safetensors", f"{stack}.curves.parquet"),
            {
                "run": vars(run),
                "label_noise": self.config["grid"]["label_noise"],
                "epochs": self.config["grid"]["epoch"],
                "module": module,
                "build_options": sections.build_options(self.config, run.architecture),
                "training": training,
                "noise_maker": maker,
                "noise_seed": self.config["noise_seed"],
            },
            self.code("train.py", *training_files(module, training, maker)),
            (self.dataset(dataset=run.dataset),),
        )

    @_once
    def measure(self, *, measure: str, **place: str) -> Recipe:
        run, module = self._run(place), self.module(place["architecture"])
        loss = sections.training_options(self.config, run.architecture)["loss"]
        maker, certificates = self.config["noise_maker"], self.config["certificates"]
        certify = measure == "certificates"
        uppers = certificates["upper"] if certify else []
        return Recipe(
            "measure",
            f"measure/{run.path}/{measure}",
            (f"{self.base}/measurements/{run.path}/{measure}.parquet",),
            {
                # The rows name their study.
                "study": self.config["study"],
                "options": certificates if certify else self.config["bounds"].get(measure, {}),
            },
            self.code("measure.py", *self.measurement_files(measure, module, loss, maker)),
            (
                self.dataset(dataset=run.dataset),
                self.train(**place),
                *(self.measure(measure=name, **place) for name in uppers),
            ),
        )

    @_once
    def table(self) -> Recipe:
        inputs = [
            self.measure(measure=measure, **place)
            for place in map(_wildcards, self.runs)
            for measure in self.measures
        ]
        outputs = (f"{self.base}/table.parquet", f"{self.base}/table.csv")
        return Recipe("table", "table", outputs, {}, self.code("aggregate.py"), tuple(inputs))

    @_once
    def figure(self, *, dataset: str, architecture: str, figure: str) -> Recipe:
        script = f"lipdescent/figures/{figure}.py"
        return Recipe(
            "figure",
            f"figure/{dataset}/{architecture}/{figure}",
            self._drawn(f"{dataset}/{architecture}/{figure}"),
            {
                "statistics": self.config["statistics"],
                "loss": sections.training_options(self.config, architecture)["loss"],
                "caption": caption(script),
            },
            self.code("plot.py", script),
            (self.table(),),
        )

    @_once
    def comparison(self, *, dataset: str, comparison: str) -> Recipe:
        script = f"lipdescent/comparisons/{comparison}.py"
        losses = {
            name: sections.training_options(self.config, name)["loss"]
            for name in self.config["grid"]["architecture"]
        }
        return Recipe(
            "comparison",
            f"comparison/{dataset}/{comparison}",
            self._drawn(f"{dataset}/{comparison}"),
            {
                "statistics": self.config["statistics"],
                "losses": losses,
                "caption": caption(script),
            },
            self.code("plot.py", script),
            (self.table(),),
        )

    @_once
    def findings(self) -> Recipe:
        return Recipe(
            "findings",
            "findings",
            tuple(f"{self.base}/findings.{kind}" for kind in ("json", "md", "html")),
            {"statistics": self.config["statistics"]},
            self.code("findings.py"),
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
    def verify(self) -> Recipe:
        bounds = lookup.known("bounds")
        sets = [self.dataset(dataset=name) for name in self.config["grid"]["dataset"]]
        stacks = [self.train(**_wildcards(run)) for run in self.runs]
        return Recipe(
            "verify",
            "verify",
            (f"{self.base}/verification.json",),
            {"samples": 30, "seed": 0},
            self.code("verify.py", *(f"lipdescent/bounds/{name}.py" for name in bounds)),
            (self.table(), *sets, *stacks),
        )

    @_once
    def experiment_part(self, *, experiment: str, part: str) -> Recipe:
        return Recipe(
            "experiment_part",
            f"experiment/{experiment}/{part}",
            (f"{self.base}/experiments/{experiment}/{part}.parquet",),
            {"options": experiment_parts(self.config, experiment)[int(part)]},
            self.code("experiment.py", f"lipdescent/experiments/{experiment}.py"),
        )

    @_once
    def experiment(self, *, experiment: str) -> Recipe:
        parts = range(len(experiment_parts(self.config, experiment)))
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
            {"caption": caption(script)},
            self.code("plot.py", script),
            (self.experiment(experiment=experiment),),
        )

    def _run(self, place: dict[str, str]) -> Run:
        return self.by_path[PLACE.format(**place)]

    def _drawn(self, name: str) -> tuple[str, ...]:
        return tuple(f"{self.base}/figures/{name}.{kind}" for kind in published.KINDS)


PLACE = "{dataset}/{architecture}/width={width}/seeds={seeds}"


def _wildcards(run: Run) -> dict[str, str]:
    return {
        "dataset": run.dataset,
        "architecture": run.architecture,
        "width": str(run.width),
        "seeds": block_name(run.seeds),
    }

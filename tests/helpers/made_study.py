"""A study as its jobs leave it, made here by what they call: no Snakemake, nothing trained."""

from __future__ import annotations

import contextlib
import copy
from functools import partial
from pathlib import Path

import torch
import yaml

from lipdescent import datasets
from lipdescent.measuring.bound_trial import random_data
from lipdescent.measuring.measure import checkpoint_stack, measure, to_table
from lipdescent.plugins import lookup
from lipdescent.storage import checkpoints, stamps, table
from lipdescent.study import config, runs
from lipdescent.study.recipes import Recipes
from lipdescent.training.draws import initial_stack
from lipdescent.training.replicas import replicas

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
NO_BOUNDS = {"lower_jacobian": {"norms": ["l2"]}, "upper_layer_product": {}}


def prepared(grid, **changes):
    """A checked configuration of a few small networks on 20 points like MNIST1D's."""
    given = copy.deepcopy(DEFAULT) | {"study": "made", "device": "cpu", "bounds": NO_BOUNDS}
    given |= {"figures": [], "comparisons": [], "datasets": {"mnist1d": {"num_train": 20}}}
    few = {"width": [3], "label_noise": [0, 0.2], "seed": [0, 1], "epoch": [0, 2]}
    given["grid"] |= few | grid
    return config.prepare(given | changes, schema=SCHEMA, figures=[], comparisons=[])


def make(grid=None, **changes) -> Path:
    """Write all up to the table into the current folder; the study's folder."""
    study = prepared(grid or {}, **changes)
    recipes = Recipes(study)
    runs.record_plan(study)
    for name in recipes.data_files:
        recipe = recipes.dataset(dataset=name)
        random_data((40,), 10, 20).save(recipe.path, made(recipe))
    for recipe in recipes.parts():
        if recipe.rule == "train":
            train(recipe)
    for recipe in recipes.parts():
        if recipe.rule == "measure":
            take(recipe)
    gather(recipes)
    return Path("results", study["study"])


def made(recipe) -> stamps.Stamp:
    """The stamp that its job gives."""
    stamp = recipe.stamp() | {"by": {}, "content": recipe.recipe}
    for name, told in stamp["inputs"].items():
        told["content"] = stamps.read(Path(*Path(recipe.path).parts[:2], name))["content"]
    return stamp


def train(recipe, shift=0.5):
    """Networks as they are drawn, at the first epoch, and ``shift`` times that at later ones."""
    asked = recipe.asked
    run, epochs = asked["run"], asked["epochs"]
    data = datasets.read(recipe.inputs[0].path)
    build = partial(
        lookup.resolve("architectures", asked["module"]).build,
        run["width"],
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        **asked["build_options"],
    )
    noise, seeds = replicas(asked["label_noise"], run["seeds"])
    drawn = initial_stack(build, seeds, data.input_shape).state
    each = [{n: t if k == 0 else t * shift for n, t in drawn.items()} for k in range(len(epochs))]
    saved = checkpoints.Checkpoints(
        state={name: torch.stack([one[name] for one in each]) for name in drawn},
        epoch=torch.tensor(epochs),
        label_noise=torch.tensor(noise, dtype=torch.float64),
        seed=torch.tensor(seeds),
        stopped_epoch=checkpoints.empty_epochs(len(seeds)),
        diverged_epoch=checkpoints.empty_epochs(len(seeds)),
        about=checkpoints.Origin(
            run, asked["module"], asked["build_options"], asked["training"], asked["noise_maker"]
        ),
    )
    checkpoints.write(recipe.path, saved, made(recipe))


def take(recipe):
    """A measurement, with its log."""
    data, saved = datasets.read(recipe.inputs[0].path), checkpoints.read(recipe.inputs[1].path)
    stack, name = checkpoint_stack(saved, data), Path(recipe.path).stem
    log = Path(*Path(recipe.path).parts[:2], "logs", f"{recipe.place}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, contextlib.redirect_stdout(file):
        rows = measure(name, stack, saved, data, options=recipe.asked["options"])
    table.write(recipe.path, to_table(rows, stack, saved, study="made"), made(recipe))


def gather(recipes):
    whole = recipes.table()
    parquet, csv, _ = whole.outputs
    parts = [table.read(one.path) for one in whole.inputs]
    table.gather(parts, parquet=parquet, csv=csv, axes=recipes.axes, made=made(whole))

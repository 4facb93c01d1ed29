"""The papers' studies: a first epoch of each on a tiny subset of files in the published formats."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from image_files import write_cifar, write_mnist

from lipdescent.jobs.progress import Progress
from lipdescent.measuring import measure as measuring
from lipdescent.plugins import bound_entries, lookup, signatures
from lipdescent.storage import table
from lipdescent.study import config as study_config
from lipdescent.study import sections
from lipdescent.study import sizes as config_sizes
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.replicas import noisy_labels, replicas
from lipdescent.training.stack_training import StackTraining

ROOT = Path(__file__).parents[1]
PAPERS = sorted(
    path for name in ("ks", "gamba", "nakkiran") for path in ROOT.glob(f"config/studies/{name}_*")
)
FIGURES = lookup.known("figures")
SEEDS = [0, 1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch, counts=(12, 4))
    write_cifar(tmp_path, monkeypatch, per_file=12)
    return tmp_path


def configured(path):
    from snakemake.utils import update_config

    default = ROOT / "config/config.yaml"
    config = yaml.safe_load(default.read_text())
    update_config(config, yaml.safe_load(path.read_text()))
    schema = ROOT / "workflow/schemas/config.schema.yaml"
    names = {"figures": FIGURES, "comparisons": []}
    return study_config.prepare(config, schema=schema, default=default, **names)


def test_all_of_them_are_here():
    assert len(PAPERS) == 19


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_first_epoch(path, folder):
    config = configured(path)
    grid, (name,), (architecture,) = (
        config["grid"], config["grid"]["dataset"], config["grid"]["architecture"]
    )  # fmt: skip
    own = {"num_train": 12, "num_test": 4, "data_dir": folder, "download": False}
    taken, _ = signatures.options("datasets", name)
    own = {option: value for option, value in own.items() if option in taken}
    dataset = lookup.resolve("datasets", name).load(**config["datasets"][name] | own)
    assert config_sizes.input_shape(config, name) == dataset.input_shape
    module = config["architectures"][architecture]["module"]
    build_options = sections.build_options(config, architecture)
    width = min(grid["width"])
    build = partial(
        lookup.resolve("architectures", module).build, width,
        input_shape=dataset.input_shape, num_classes=dataset.num_classes, **build_options,
    )  # fmt: skip
    noise, seeds = replicas([grid["label_noise"][-1]], SEEDS)
    maker = config["noise_maker"]
    labels = noisy_labels(dataset, maker=maker, label_noise=noise, seeds=seeds)
    options = sections.training_options(config, architecture) | {"batch_size": 5}
    training = StackTraining(
        initial_stack(build, seeds, dataset.input_shape),
        TrainingData(torch.from_numpy(dataset.train_inputs), labels, dataset.num_classes),
        seeds=seeds,
        epochs=[0, 1],
        options=TrainingOptions(**options),
    )
    training.run(progress=Progress(path.stem, len(seeds), 1, terminal=io.StringIO()))
    run = {"dataset": name, "architecture": architecture, "width": width, "seeds": SEEDS}
    about = {"run": run, "training": options, "build": build_options}
    saved = training.result(noise, about)
    assert (saved.diverged_epoch == -1).all()

    stack = measuring.checkpoint_stack(saved, dataset, module=module)
    before, after = (
        torch.cat([t[i].flatten().double() for t in saved.state.values()]) for i in (0, 1)
    )
    assert not torch.equal(before, after)
    columns = []
    for bound, bound_options in {"metrics": {}, **config["bounds"]}.items():
        file = bound_entries.bound_of(bound, bound_options)
        if file in ("lower_jacobian", "lower_attack"):
            bound_options = bound_options | {"num_points": 2}
        few = (
            signatures.options("points", bound_options["points"])[0]
            if "points" in bound_options
            else ()
        )
        less = {
            key: 3 for key in ("num_points", "num_pairs", "num_per_axis", "steps") if key in few
        }
        if less:
            bound_options["points_options"] = bound_options["points_options"] | less
        columns += measuring.measure(
            bound, stack, saved, dataset, options=bound_options, noise_maker=maker
        )
    rows = measuring.to_table(columns, stack, saved, study=config["study"])
    table.check_order(rows)
    frame = rows.to_pandas()
    upper = frame[frame["direction"] == "upper"]
    if architecture == "vit":
        assert set(upper["status"]) == {"not_applicable"}
    else:
        assert set(upper["status"]) == {"ok"}
    # No error analysis of attention: what its Jacobians show is called an estimate.
    lower = frame[frame["direction"] == ("estimate" if architecture == "vit" else "lower")]
    assert set(lower["status"]) == {"ok"}
    assert (lower["value"] > 0).all()

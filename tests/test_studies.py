"""The papers' studies: a first epoch of each on a tiny subset of files in the published formats."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import configurations
import protocols
import pytest
import torch
import yaml
from image_files import write_cifar, write_mnist
from small_budgets import SMALL

from lipdescent.jobs.progress import Progress
from lipdescent.measuring.measure import checkpoint_stack, measure, to_table
from lipdescent.plugins import bound_entries, lookup, signatures
from lipdescent.storage import table
from lipdescent.storage.checkpoints import Origin
from lipdescent.study import axes, sections
from lipdescent.study.runs import runs_of
from lipdescent.study.sizes import input_shape_of
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.replicas import noisy_labels, replicas
from lipdescent.training.stack_training import StackTraining

ROOT = Path(__file__).parents[1]
PAPERS = sorted(
    path
    for name in ("ks", "gamba", "nakkiran", "smith")
    for path in ROOT.glob(f"config/studies/{name}_*")
)
SEEDS = [0, 1]
pytestmark = pytest.mark.usefixtures("mnist1d_made_once")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch, counts=(12, 4))
    write_cifar(tmp_path, monkeypatch, per_file=12)
    return tmp_path


@functools.cache
def configured(path):
    from snakemake.utils import update_config

    config = copy.deepcopy(configurations.DEFAULT)
    update_config(config, yaml.safe_load(path.read_text()))
    whole = configurations.checked(config)
    return axes.at(whole, runs_of(whole)[-1].point)


def test_all_of_them_are_here():
    assert len(PAPERS) == 42
    assert protocols.papers() == PAPERS


def test_the_docs_list_the_deviations_of_their_headers():
    assert protocols.PAGE.read_text() == protocols.page(), "make protocols writes it"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("# A paper.\nstudy: a\n", 'no list "# Deviations from the paper:"'),
        ("# Deviations from the paper:\n# none\nstudy: a\n", "'# none': allowed are"),
        ("# Deviations from the paper:\nstudy: a\n# - late\n", "no list"),
    ],
)
def test_a_header_without_them_is_named(tmp_path, header, message):
    path = tmp_path / "a.yaml"
    path.write_text(header)
    with pytest.raises(ValueError, match=message):
        protocols.deviations(path)


def test_a_deviation_may_take_several_lines(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# Deviations from the paper:\n# - one\n#   two\n# - three\nstudy: a\n")
    assert protocols.deviations(path) == ["one two", "three"]


def shorter(path):
    """Minutes in place of the paper's hours, as the header says; or networks of the plane."""
    return any(word in path.read_text() for word in ("in place of", "order of each seed", "ks_toy"))


def test_the_protocols_that_are_kept_to_the_letter():
    """What the code of Khromov & Singh does in every study: pixels, order, clipping."""
    whole = [p for p in PAPERS if p.stem.startswith("ks_") and not shorter(p)]
    assert len(whole) >= 10
    for path in whole:
        config = configured(path)
        training, (name,) = config["training"], config["grid"]["dataset"]
        kept = training["batch_order"], training["momentum"], training["gradient_clip"]
        assert kept == ("fixed", 0.0, 50.0)
        assert config["datasets"][name].get("normalise", "none") == "none"
        assert ("label_noise" in config["figures"]) == (path.stem == "ks_label_noise")
    mse = configured(ROOT / "config/studies/ks_fcn_mse.yaml")["training"]
    assert mse["loss"] == "squared_error_sum"


def only(saved, epoch):
    """The checkpoints of one of the epochs 0 and 1."""
    state = {name: tensor[epoch : epoch + 1] for name, tensor in saved.state.items()}
    return replace(saved, state=state, epoch=saved.epoch[epoch : epoch + 1])


def network_of(config):
    """Module and options of the study's networks, as this test builds them."""
    (architecture,) = config["grid"]["architecture"]
    module = config["architectures"][architecture]["module"]
    options = sections.build_options(config, architecture)
    if module == "wide_resnet":  # norms of 28 layers' convolutions take a minute
        options |= {"depth": 10}
    if module == "vit":  # of six blocks alike
        options |= {"blocks": 2}
    return module, options


def bounds_of(config):
    """Name -> file, entry, and what a measurement of the study's networks by it is told by."""
    (name,) = config["grid"]["dataset"]
    network = [*network_of(config), input_shape_of(config, name)]
    return {
        bound: (bound_entries.bound_of(bound, entry), entry, json.dumps([network, bound, entry]))
        for bound, entry in config["bounds"].items()
    }


@functools.cache
def first_with():
    """Bound, entry and kind of network -> the first study that has them: it takes it for all."""
    return {
        key: path
        for path in reversed(PAPERS)
        for _, _, key in bounds_of(copy.deepcopy(configured(path))).values()
    }


def few_points(file, entry):
    """The bound's options, with points for a moment."""
    entry = entry | {"lower_jacobian": {"num_points": 2}, **SMALL}.get(file, {})
    if "points" in entry:
        taken, _ = signatures.options("points", entry["points"])
        less = {"num_points", "num_pairs", "num_per_axis", "steps"} & set(taken)
        entry |= {"points_options": entry["points_options"] | dict.fromkeys(less, 3)}
    return entry


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_first_epoch(path, folder):
    config = copy.deepcopy(configured(path))
    grid, (name,), (architecture,) = (
        config["grid"], config["grid"]["dataset"], config["grid"]["architecture"]
    )  # fmt: skip
    own = {"num_train": 12, "num_test": 4, "data_dir": folder, "download": False}
    module = sections.data_module(config, name)
    taken, _ = signatures.options("datasets", module)
    own = {option: value for option, value in own.items() if option in taken}
    dataset = lookup.resolve("datasets", module).load(**sections.data_options(config, name) | own)
    assert input_shape_of(config, name) == dataset.input_shape
    module, build_options = network_of(config)
    width = min(16, *grid["width"])
    build = partial(
        lookup.resolve("architectures", module).build, width,
        input_shape=dataset.input_shape, num_classes=dataset.num_classes, **build_options,
    )  # fmt: skip
    noise, seeds = replicas([grid["label_noise"][-1]], SEEDS)
    maker = config["noise_maker"]
    labels = noisy_labels(dataset, maker=maker, label_noise=noise, seeds=seeds)
    options = sections.training_options(config, architecture) | {"batch_size": 6}
    training = StackTraining(
        initial_stack(build, seeds, dataset.input_shape),
        TrainingData(torch.from_numpy(dataset.train_inputs), labels, dataset.num_classes),
        seeds=seeds,
        epochs=[0, 1],
        options=TrainingOptions(**options),
    )
    training.run(progress=Progress(len(seeds), 1))
    run = {"dataset": name, "architecture": architecture, "width": width, "seeds": SEEDS}
    about = Origin(run=run, module=module, build=build_options, training=options, noise_maker=maker)
    saved = training.result(noise, about)
    assert (saved.diverged_epoch == -1).all()
    before, after = (
        torch.cat([t[i].flatten().double() for t in saved.state.values()]) for i in (0, 1)
    )
    assert not torch.equal(before, after)
    start = checkpoint_stack(only(saved, 0), dataset)
    saved = only(saved, 1)
    stack = checkpoint_stack(saved, dataset)
    columns = measure("metrics", stack, saved, dataset, options={}, start=start)
    for bound, (file, entry, key) in bounds_of(config).items():
        if first_with()[key] == path:
            entry = few_points(file, entry)
            columns += measure(bound, stack, saved, dataset, options=entry, start=start)
    rows = to_table(columns, stack, saved, study=config["study"])
    table.check_order(rows)
    frame = rows.to_pandas()
    upper = frame[frame["direction"] == "upper"]
    assert set(upper["status"]) <= {"ok"}
    # Of the rounding of many attentions nothing is proved: what Jacobians show is an estimate.
    lower = frame[frame["direction"] == ("estimate" if architecture == "vit" else "lower")]
    assert set(lower["status"]) <= {"ok"}
    assert set(frame[frame["quantity"] == "test_loss"]["status"]) == {"ok"}
    assert (lower["value"] > 0).all()

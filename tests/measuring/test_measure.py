"""Constrained networks and certificates through the measurement that the workflow runs."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lipdescent.architectures import lipschitz_mlp, mlp
from lipdescent.bounds import lower_ascent, upper_layer_product
from lipdescent.datasets import Dataset
from lipdescent.jobs import workers
from lipdescent.measurement import Measurement
from lipdescent.measuring.measure import checkpoint_stack, measure, to_table
from lipdescent.plugins import lookup
from lipdescent.robustness.certificates import CertificateViolation
from lipdescent.storage import table
from lipdescent.storage.checkpoints import Checkpoints, Origin
from lipdescent.training.draws import initial_stack

SEEDS = [0, 1]


@pytest.fixture
def study():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    dataset = Dataset(x[:20], y[:20], x[20:], y[20:], 2)
    build = {"depth": 1, "bias": True}
    stack = initial_stack(
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=2, **build), SEEDS, (6,)
    )
    state = {name: torch.stack([t, 2 * t]) for name, t in stack.state.items()}
    about = Origin(
        run={"dataset": "d", "architecture": "a", "width": 8, "seeds": SEEDS},
        module="lipschitz_mlp",
        build=build,
        training={"learning_rate": 0.1, "batch_size": 10},
        noise_maker="uniform_wrong",
    )
    never = torch.full((2,), -1)
    saved = Checkpoints(
        state, torch.tensor([0, 1]), torch.zeros(2), torch.tensor(SEEDS), never, never, about
    )
    return dataset, saved


def measured(name, study, **options):
    dataset, saved = study
    stack = checkpoint_stack(saved, dataset)
    rest = {"options": {}} | options
    columns = measure(name, stack, saved, dataset, **rest)
    return to_table(columns, stack, saved, study="s").to_pandas()


def test_bounds_see_ordinary_layers(study):
    frame = measured("upper_layer_product", study, options={"norms": ["l2"]})
    assert (frame["value"] <= 1).all()
    assert (frame["status"] == "ok").all()
    assert set(frame["num_parameters"]) == {6 * 8 + 8 + 8 * 2 + 2}


@pytest.mark.parametrize(
    "name", ["lower_jacobian", "lower_ascent", "lower_pairs", "upper_layer_product"]
)
def test_processes_that_share_a_bound_change_no_bit_of_it(study, name):
    """Neither of values, nor of statuses, nor of where a quantity is defined."""
    options = {"norms": ["l2"]}
    alone = measured(name, study, options=options)
    workers.allow(3)
    try:
        shared = measured(name, study, options=options)
    finally:
        workers.allow(1)
    pd.testing.assert_frame_equal(shared, alone, check_exact=True)
    assert alone["value"].nunique() > 1


def test_metrics_of_constrained_networks(study):
    frame = measured("metrics", study)
    moved = frame[frame["quantity"] == "distance_from_init"]
    # Doubled raw weights are the same weights; the biases have moved.
    assert (moved[moved["epoch"] == 0]["value"] == 0).all()
    assert (moved[moved["epoch"] == 1]["value"] > 0).all()


def test_certificates_rest_on_the_measured_upper_bounds(study, tmp_path):
    dataset, saved = study
    stack = checkpoint_stack(saved, dataset)
    rest = {"options": {"norms": ["l2"]}}
    columns = measure("upper_layer_product", stack, saved, dataset, **rest)
    path = tmp_path / "upper.parquet"
    table.write(path, to_table(columns, stack, saved, study="s"))
    options = {"upper": ["upper_layer_product"], "radii": {"l2": [0.1], "linf": [0.1]}}
    frame = measured("certificates", study, options=options, earlier=[path])
    values = frame.set_index(["quantity", "epoch", "seed"])["value"]
    for epoch in (0, 1):
        for seed in SEEDS:
            certified = values["certified_accuracy@0.1", epoch, seed]
            assert 0 <= certified <= values["pgd_accuracy@0.1", epoch, seed] <= 1
    assert set(frame["norm"]) == {"l2"}


def test_a_certificate_that_an_attack_refutes_ends_the_measurement(study, tmp_path):
    dataset, saved = study
    stack = checkpoint_stack(saved, dataset)
    rest = {"options": {"norms": ["l2"]}}
    columns = measure("upper_layer_product", stack, saved, dataset, **rest)
    for column in columns:
        column.measurement.values.mul_(1e-3)  # not a bound any more
    path = tmp_path / "upper.parquet"
    table.write(path, to_table(columns, stack, saved, study="s"))
    options = {"upper": ["upper_layer_product"], "radii": {"l2": [1.0]}}
    with pytest.raises(CertificateViolation, match="certified in l2"):
        measured("certificates", study, options=options, earlier=[path])


def test_certificates_without_an_upper_bound_are_a_status(study):
    options = {"upper": [], "radii": {"l2": [0.1]}}
    frame = measured("certificates", study, options=options)
    assert set(frame["status"]) == {"not_applicable"}
    assert frame["value"].isna().all()


def test_a_diverged_constrained_network_is_a_status(study):
    _, saved = study
    saved.state["0.parametrizations.weight.original"][1, 0, 0, 0] = torch.nan
    frame = measured("upper_layer_product", study, options={"norms": ["l2"]})
    status = frame.set_index(["epoch", "seed"])["status"]
    assert status[1, 0] == "diverged"
    assert (status.drop((1, 0)) == "ok").all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_bound_that_is_not_finite_is_no_divergence(study, monkeypatch, capsys, value):
    def overflow(stack, **_):
        values = torch.ones(stack.num_models, dtype=torch.float64)
        values[1] = value
        yield Measurement("upper_layer_product", "upper", "l2", values)

    monkeypatch.setattr(upper_layer_product, "measure", overflow)
    frame = measured("upper_layer_product", study, options={"norms": ["l2"]})
    assert list(frame["status"]) == ["ok", "not_finite", "ok", "ok"]
    assert (
        "upper_layer_product (l2): not finite for 1 of 4 finite models" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(4), r"upper_layer_product: values are torch.float32 \(4,\), expected float64"),
        (torch.ones(4, 1, dtype=torch.float64), r"values are torch.float64 \(4, 1\)"),
        (torch.ones(3, dtype=torch.float64), r"values of shape \(3,\), expected \(4,\)"),
    ],
)
def test_a_bound_returns_one_float64_per_model(study, monkeypatch, capsys, values, message):
    def rounded(stack, **_):
        yield Measurement("upper_layer_product", "upper", "l2", values)

    monkeypatch.setattr(upper_layer_product, "measure", rounded)
    frame = measured("upper_layer_product", study, options={"norms": ["l2"]})
    assert list(frame["status"]) == ["error"] * 4
    assert frame["value"].isna().all()
    assert re.search(f"error: upper_layer_product: .*{message}.*py", capsys.readouterr().out)


def test_a_negative_bound_is_an_error_where_it_is(study, monkeypatch, capsys):
    def negative(stack, **_):
        values = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
        yield Measurement("upper_layer_product", "upper", "l2", values)

    monkeypatch.setattr(upper_layer_product, "measure", negative)
    frame = measured("upper_layer_product", study, options={"norms": ["l2"]})
    assert list(frame["status"]) == ["ok", "error", "ok", "ok"]
    assert frame["value"].isna().tolist() == [False, True, False, False]
    assert "error: upper_layer_product (upper_layer_product.py): -1.0" in capsys.readouterr().out


@pytest.mark.parametrize("error", [MemoryError("full"), OSError(28, "No space left on device")])
def test_a_fault_of_the_machine_ends_the_measurement(study, monkeypatch, error):
    def broken(stack, **_):
        raise error
        yield

    monkeypatch.setattr(upper_layer_product, "measure", broken)
    with pytest.raises(type(error)):
        measured("upper_layer_product", study, options={"norms": ["l2"]})


def test_no_wrong_prediction_is_not_a_divergence(study):
    """A checkpoint that classifies all points rightly has no mean over its wrong ones."""
    dataset, saved = study
    stack = checkpoint_stack(saved, dataset)
    inputs = torch.from_numpy(dataset.test_inputs).to(next(iter(stack.state.values())).dtype)
    predicted = stack(inputs).argmax(-1)
    dataset.test_labels[:] = predicted[0].numpy()  # what epoch 0 of seed 0 says
    frame = measured("lower_jacobian", study, options={"norms": ["l2"]})
    rows = frame[frame["split"] == "test"].set_index(["quantity", "epoch", "seed"])
    assert rows["status"]["jacobian_norm_mean_wrong", 0, 0] == "not_applicable"
    assert np.isnan(rows["value"]["jacobian_norm_mean_wrong", 0, 0])
    right, both = (rows["value"][f"jacobian_norm_mean{end}", 0, 0] for end in ("_right", ""))
    assert right == pytest.approx(both, rel=1e-12)
    wrong = (predicted[1] != predicted[0]).sum()
    assert 0 < wrong < len(inputs)
    assert rows["status"]["jacobian_norm_mean_wrong", 0, 1] == "ok"
    assert not (rows["status"] == "diverged").any()


def test_a_named_bound_at_points_of_its_own(study):
    options = {"bound": "lower_jacobian", "points": "gaussian_noise", "norms": ["l2"]}
    options |= {"outputs": ["logits", "softmax"]}
    frame = measured("near", study, options=options)
    bounds = frame[frame.quantity == "lower_jacobian@near"]
    assert set(bounds.norm) == {"l2", "l2_softmax"}
    assert set(bounds.direction) == {"lower"}
    assert (bounds.status == "ok").all()
    values = bounds.groupby("norm")["value"].max()
    assert 0 < values["l2_softmax"] <= 0.5 * values["l2"] * (1 + 1e-9)


def test_a_named_bound_that_does_not_exist_keeps_its_name(study):
    frame = measured("mine", study, options={"bound": "upper_lipsdp", "norms": ["l1"]})
    assert set(frame.quantity) == {"upper_lipsdp@mine"}
    assert set(frame.status) == {"not_applicable"}
    assert set(frame.direction) == {"upper"}


@pytest.mark.parametrize("kind", ["data", "pgd", "convex_combinations", "gaussian"])
def test_each_set_of_points_is_measured(study, kind):
    options = {"points": kind, "norms": ["l2"]}
    frame = measured("lower_jacobian", study, options=options)
    assert {"lower_jacobian@" + kind, "jacobian_norm_mean@" + kind} <= set(frame.quantity)
    assert (frame.status == "ok").all()


def test_architecture_and_labels_are_those_that_the_checkpoints_tell(study):
    """A configuration may call a network as it likes, and has changed since, perhaps."""
    dataset, saved = study
    assert saved.about.run["architecture"] != saved.about.module
    stack = checkpoint_stack(saved, dataset)
    inputs = torch.from_numpy(dataset.train_inputs).to(next(iter(stack.state.values())).dtype)
    predicted, found = stack(inputs)[0].argmax(-1).numpy(), []
    for maker in ("uniform_wrong", "bernoulli_wrong"):
        about = replace(saved.about, noise_maker=maker)
        noisy = replace(saved, label_noise=torch.full((2,), 0.4), about=about)
        frame = measured("metrics", (dataset, noisy)).set_index(["quantity", "epoch", "seed"])
        found.append(frame["value"]["train_accuracy", 0, SEEDS[0]])
        make = lookup.resolve("label_noise", maker).noisy
        labels = make(dataset.train_labels, num_classes=2, fraction=0.4, seed=SEEDS[0])
        assert found[-1] == pytest.approx((predicted == labels).mean())
    assert found[0] != found[1]


def test_an_ascent_is_told_where_the_norms_at_the_data_are_largest(study, tmp_path, monkeypatch):
    """Through the file of the first measurement: the same bits, one network being left out."""
    dataset, _ = study
    build = {"depth": 2, "bias": True}
    stack = initial_stack(
        lambda: mlp.build(20, input_shape=(6,), num_classes=2, **build), [0, 1, 2], (6,)
    )
    state = {name: torch.stack([t, 2 * t]) for name, t in stack.state.items()}
    next(iter(state.values()))[0, 1, 0, 0] = torch.nan
    about = Origin(
        run={"dataset": "d", "architecture": "a", "width": 20, "seeds": [0, 1, 2]},
        module="mlp",
        build=build,
        training={"learning_rate": 0.1, "batch_size": 10},
        noise_maker="uniform_wrong",
    )
    never = torch.full((3,), -1)
    seeds = torch.tensor([0, 1, 2])
    saved = Checkpoints(state, torch.tensor([0, 1]), torch.zeros(3), seeds, never, never, about)
    stack = checkpoint_stack(saved, dataset)
    columns = measure("lower_jacobian", stack, saved, dataset, options={"norms": ["l2"]})
    path = tmp_path / "lower_jacobian.parquet"
    table.write(path, to_table(columns, stack, saved, study="s"))
    shapes = {s: np.shape(rows) for s, rows in table.largest_at(path)["l2"].items()}
    assert shapes == {"train": (5, 20), "test": (5, 20)}
    options = {"norms": ["l2"], "populations": 2, "rounds": 2}
    alone = measured("lower_ascent", (dataset, saved), options=options)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("all norms are taken again")

    monkeypatch.setattr(lower_ascent, "leading_norms", refuse)
    for processes in (1, 2):
        workers.allow(processes)
        try:
            after = measured("lower_ascent", (dataset, saved), options=options, earlier=[path])
        finally:
            workers.allow(1)
        pd.testing.assert_frame_equal(after, alone, check_exact=True)
    assert list(alone["status"]).count("ok") == 5

    table.write(path, table.with_largest_at(table.read(path), {"l2": {"train": [[0]]}}))
    frame = measured("lower_ascent", (dataset, saved), options=options, earlier=[path])
    assert set(frame["status"]) == {"error"}  # it is of another stack

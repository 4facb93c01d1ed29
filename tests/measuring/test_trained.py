"""Networks out of a study: the stored bits, and refusals of what is not the table's."""

import os
import re
import shutil
from pathlib import Path

import made_study
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lipdescent
from lipdescent.architectures import functional_mlp
from lipdescent.measuring import trained as of_studies
from lipdescent.study import archive
from lipdescent.study.recipes import Recipes

GRID = {"architecture": ["mlp", "lipschitz_mlp", "functional_mlp"], "width": [2, 4]}
NETWORKS = {
    "grid": GRID,
    "architectures": {name: {} for name in GRID["architecture"]},
    "bounds": {},
    "vary": {"depth": {"architectures.mlp.depth": [1, 2]}},
}
MLP = {"architecture": "mlp", "depth": 2, "width": 4, "label_noise": 0.2, "seed": 1}
RUN = "mnist1d/mlp+depth=2/width=4/seeds=0-1"
CHECKPOINTS = f"results/made/checkpoints/{RUN}.safetensors"
METRICS = f"results/made/measurements/{RUN}/metrics.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    os.chdir(folder)
    made_study.make(**NETWORKS)
    os.chdir(before)
    return folder


@pytest.fixture
def study(whole, tmp_path, monkeypatch):
    """A copy in the current folder."""
    shutil.copytree(whole / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return "results/made"


def stored(path, epoch=1, replica=3):
    """The tensors in a checkpoint's file, at a place of its epochs and its replicas."""
    raw = load_file(path)
    own = {n.removeprefix("state/"): t for n, t in raw.items() if n.startswith("state/")}
    return {name: tensor[epoch, replica] for name, tensor in own.items()}


def test_weights_are_the_stored_bits_and_are_called_as_they_were_trained(whole):
    study = whole / "results/made"
    net = lipdescent.trained(study, **MLP)
    raw = stored(whole / CHECKPOINTS)
    assert not any(part.training for part in net.modules())
    assert net.state_dict().keys() == raw.keys()
    assert all(torch.equal(tensor, raw[name]) for name, tensor in net.state_dict().items())
    first = lipdescent.trained(study / "table.parquet", **MLP | {"epoch": 0})
    assert torch.equal(first[0].weight, stored(whole / CHECKPOINTS, epoch=0)["0.weight"])
    x = torch.linspace(-1, 1, 80).view(2, 40)
    y = (x @ raw["0.weight"].T).clamp(min=0)
    y = (y @ raw["2.weight"].T).clamp(min=0)
    torch.testing.assert_close(net(x), y @ raw["4.weight"].T)


def test_a_forward_of_its_own_is_that_of_its_class(whole):
    own = {**MLP, "architecture": "functional_mlp", "depth": None}
    net = lipdescent.trained(whole / "results/made", **own)
    raw = stored(whole / CHECKPOINTS.replace("mlp+depth=2", "functional_mlp"))
    same = functional_mlp.build(4, input_shape=(40,), num_classes=10).eval()
    same.load_state_dict(raw)
    x = torch.linspace(-1, 1, 80).view(2, 40)
    assert type(net) is type(same)
    assert torch.equal(net(x), same(x))


def test_constrained_layers_are_ordinary_ones_within_their_constraint(whole):
    own = {**MLP, "architecture": "lipschitz_mlp", "depth": None}
    net = lipdescent.trained(whole / "results/made", **own)
    linear = [part for part in net.modules() if isinstance(part, nn.Linear)]
    assert {type(part) for part in linear} == {nn.Linear}  # none is parametrised
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float64}
    for part in linear:
        assert torch.linalg.svdvals(part.weight.detach()).max() <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width": 5}, r"width 5: results/made has 2, 4 \(at dataset mnist1d, architecture mlp, d"),
        ({"seed": None}, r"seed is missing: results/made has 0, 1 \(at"),
        ({"architecture": None}, r"architecture is missing: .* has functional_mlp, lipschitz_mlp,"),
        ({"epoch": 1}, "epoch 1: results/made has 0, 2"),
        ({"depth": "deep"}, "depth 'deep': results/made has 1, 2"),
        ({"architecture": "lipschitz_mlp"}, "depth 2: results/made has none"),
        ({"widht": 4}, r"unknown axis of results/made 'widht' \(did you mean 'width'\?\)"),
    ],
)
def test_a_wrong_axis_or_value_is_named_with_those_that_there_are(given, said, whole, monkeypatch):
    monkeypatch.chdir(whole)
    with pytest.raises(ValueError, match=said):
        lipdescent.trained("results/made", **MLP | given)


FASTER = {"training": made_study.DEFAULT["training"] | {"learning_rate": 0.75}}
PLACE = {"dataset": "mnist1d", "architecture": "mlp+depth=2", "width": "4", "seeds": "0-1"}


def recipes(**changes):
    """Of the study with other keys."""
    return Recipes(made_study.prepared(**NETWORKS | changes))


def test_a_network_of_another_configuration_than_the_tables_is_refused(study):
    made_study.train(recipes(**FASTER).train(**PLACE))
    with pytest.raises(
        ValueError, match=re.escape(CHECKPOINTS) + r": made with training.learning_rate = 0.75"
    ):
        lipdescent.trained(study, **MLP)
    lipdescent.trained(study, **MLP | {"width": 2})
    made_study.train(recipes().train(**PLACE), shift=0.3)  # as on another device
    with pytest.raises(ValueError, match=re.escape(CHECKPOINTS) + r": .*contents .*, now they are"):
        lipdescent.trained(study, **MLP)
    made_study.train(recipes().train(**PLACE))
    lipdescent.trained(study, **MLP)


def test_a_measurement_that_is_newer_than_the_table_is_refused(study):
    made_study.train(recipes(**FASTER).train(**PLACE))
    made_study.take(recipes(**FASTER).measure(**PLACE, measure="metrics"))
    with pytest.raises(ValueError, match=re.escape(METRICS) + ": its .*: made with training.learn"):
        lipdescent.trained(study, **MLP)


def test_networks_whose_code_has_changed_are_refused(study, monkeypatch):
    code = "lipdescent/architectures/mlp.py"
    monkeypatch.setattr(of_studies, "code_versions", lambda file: {file: "edited"})
    with pytest.raises(ValueError, match=re.escape(f"{CHECKPOINTS}: scripts/{code} changed")):
        lipdescent.trained(study, **MLP)


@pytest.mark.parametrize("file", [CHECKPOINTS, METRICS, "results/made/datasets/mnist1d.npz"])
def test_what_was_removed_or_broken_is_named(file, study):
    path = Path(file)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=re.escape(file) + ":? (truncated|carries no sound record)"
    ):
        lipdescent.trained(study, **MLP)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"(at once: snakemake ... {file})")):
        lipdescent.trained(study, **MLP)


def test_an_archive_has_no_networks(study, tmp_path):
    (Path(study) / archive.SUMS).touch()
    with pytest.raises(FileNotFoundError, match=r"results/made: an archive, unpacked, .* allowed"):
        lipdescent.trained(study, **MLP)


def test_a_study_without_a_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"table\.parquet: no table there; allowed is"):
        lipdescent.trained(tmp_path, **MLP)

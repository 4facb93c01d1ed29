"""What `lipdescent network` says of a network of a study, and the files it writes."""

import os
import re
import sys
from pathlib import Path

import made_study
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import lipdescent
from lipdescent.arithmetic import decimals
from lipdescent.commands import bracket, network
from lipdescent.measuring import trained
from lipdescent.plugins import lookup

CELL = ["results/made", "label_noise=0.2", "seed=1"]
OWN = {"label_noise": 0.2, "seed": 1}
BOUNDS = {name: {"norms": ["l2"]} for name in ("lower_jacobian", "upper_layer_product")}
BOUNDS |= {"upper_lipsdp": {}, "exact_enumeration": {"norms": ["l2"]}}
FAILS = "ValueError: some fault"
LAST = nn.Linear(8, 3)


def fails(*args, **kwargs):
    raise ValueError("some fault")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """That of a study of MLPs with two hidden layers, a stack per seed; one bound fails."""
    folder, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup.resolve("bounds", "upper_eclipse_fast"), "measure", fails)
        alone = made_study.DEFAULT["execution"] | {"seeds_per_block": 1}
        made_study.make(bounds=BOUNDS | {"upper_eclipse_fast": {}}, execution=alone)
    os.chdir(before)
    return folder


@pytest.fixture
def said(folder, monkeypatch, capsys):
    """What the command prints."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        network.main([*CELL, *arguments])
        return capsys.readouterr().out

    return run


def rows(text):
    """(quantity, split) -> value as printed."""
    found = re.findall(r"^ *(\w+) +(?:lower|upper) +l2 +(\S+) *(train|test)?", text, re.MULTILINE)
    return {(quantity, split): value for quantity, value, split in found}


def test_it_says_what_was_measured_and_which_bounds_are_the_ends(said):
    text = said("epoch=2")
    found = trained.find("results/made", OWN)
    assert "width 3, label_noise 0.2, seed 1, epoch 2" in text.splitlines()[0]
    stored = {row["quantity"]: row["value"] for row in found.rows["metrics"]}
    assert re.search(rf"^  test_loss +{stored['test_loss']:.6g}$", text, re.MULTILINE)
    assert re.search(rf"^  test_error +{1 - stored['test_accuracy']:.6g}$", text, re.MULTILINE)
    shown, lowers = rows(text), found.rows["lower_jacobian"]
    for row in lowers:
        if row["direction"] == "lower":
            assert shown["lower_jacobian", row["split"]] == decimals.at_least(row["value"])
    (upper,) = (row["value"] for row in found.rows["upper_lipsdp"])
    assert shown["upper_lipsdp", ""] == decimals.at_most(upper)
    lower = max(row["value"] for row in lowers if row["direction"] == "lower")
    ends = f"{decimals.at_least(lower)} <= L <= {decimals.at_most(upper)}; ratio"
    assert f"best bracket (l2): {ends}" in text
    assert "\nlower by lower_jacobian, upper by upper_lipsdp\n" in text
    metrics, _, bounds = text.partition("quantity direction norm")
    assert "  distance_from_init l2 " in metrics
    assert "distance_from_init" not in bounds


def test_rows_without_a_value_have_the_reason_that_was_logged(said):
    text = said()
    assert "error:\n  upper_eclipse_fast: " + FAILS in text
    assert "  exact_enumeration: patterns are enumerated for one hidden layer of ReLU" in text
    found = trained.find("results/made", OWN)
    one = next(row for row in found.rows["lower_jacobian"] if row["direction"] == "metric")
    one["status"] = "not_applicable"  # a mean of no points
    assert f"  {one['quantity']}: " not in "\n".join(network.report(found, "l2"))


def test_the_upper_bound_is_explained_by_the_layers_singular_values(said):
    """In order, with their product and what the better bound gains."""
    lines = said().partition("factors of the layer product (l2):\n")[2].splitlines()
    net = lipdescent.trained("results/made", **OWN)
    norms = [float(torch.linalg.matrix_norm(net[i].weight.detach().double(), 2)) for i in (0, 2, 4)]
    expected = [norms[0], 1, norms[1], 1, norms[2], np.prod(norms)]
    names, values = zip(*(line.rsplit(maxsplit=1) for line in lines[:6]), strict=True)
    assert [name.strip() for name in names] == [
        *(f"{i} ({n})" for i, n in enumerate(ORDER)),
        "product",
    ]
    np.testing.assert_allclose([float(value) for value in values], expected, rtol=1e-6)
    gain = re.fullmatch(r"  upper_lipsdp +(\S+), (\S+) times less", lines[6])
    np.testing.assert_allclose(float(gain[1]) * float(gain[2]), expected[-1], rtol=1e-3)


ORDER = ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
MODEL = """
from lipdescent.architectures import mlp
def build():
    return mlp.build(3, input_shape=(40,), num_classes=10, depth=2, bias=True)
"""


def test_a_saved_network_has_the_bounds_of_the_table(said, tmp_path, capsys):
    weights, model = tmp_path / "net.safetensors", tmp_path / "own_model.py"
    text = said("--save", str(weights))
    assert ".mlp.build(3, input_shape=(40,), num_classes=10, depth=2, bias=True)" in text
    model.write_text(MODEL)
    bounds = ["lower_jacobian", "upper_layer_product", "upper_lipsdp"]
    data = ["--input-shape", "40", "--data", "results/made/datasets/mnist1d.npz"]
    source = ["--model", f"{model}:build", "--weights", str(weights)]
    bracket.main([*source, *data, "--methods", ",".join(bounds)])
    again = capsys.readouterr().out
    assert rows(again) == rows(text)
    assert len(rows(again)) == 4
    assert again.splitlines()[-1] in text


def test_a_file_of_torch_save_holds_the_same_bits(said, tmp_path):
    said("--save", str(tmp_path / "net.pt"))
    held = torch.load(tmp_path / "net.pt", weights_only=True)
    own = lipdescent.trained("results/made", **OWN).state_dict()
    assert held.keys() == own.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in own.items())


def test_an_onnx_file_holds_the_same_bits(tmp_path):
    """Of batch normalisations, too: an exporter may fold them, rounded, into what is before."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), LAST)
    net(torch.randn(9, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    network.save(tmp_path / "net.onnx", net.eval(), (1, 4, 4))
    inside = onnx.load(tmp_path / "net.onnx").graph.initializer
    arrays = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in inside}
    own = {n: tensor for n, tensor in net.state_dict().items() if tensor.is_floating_point()}
    assert all(torch.equal(arrays[name], tensor) for name, tensor in own.items())
    x = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), net(x))


def test_a_network_that_cannot_be_an_onnx_file_is_said_to_be_none(tmp_path):
    """ONNX's runtime has no convolutions in float64, which constrained ones are in."""
    net = nn.Conv2d(1, 2, 3, dtype=torch.float64).eval()
    with pytest.raises(ValueError, match=r"onnxruntime does not run .*: Could not find .* Conv"):
        network.save(tmp_path / "net.onnx", net, (1, 4, 4))
    assert not list(tmp_path.iterdir())


def test_without_the_extra_no_onnx_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"^ONNX files need pip install 'lipdescent\[onnx\]'"):
        network.save(tmp_path / "net.onnx", LAST, (8,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said_of_it"),
    [
        (["width"], "width: expected AXIS=VALUE, such as width=64"),
        (["width=7"], "width 7: results/made has 3"),
        (["width=3", "seed=0"], r"label_noise=0\.2 seed=1 width=3 seed=0: allowed is each"),
        (["--save", "dir.pt"], r"--save dir\.pt: a folder; allowed is a file"),
        (["--norm", "linf"], "norm 'linf': results/made has l2"),
        (["--save", "x.h5"], r"--save x\.h5: allowed are files named \.safetensors, \.pt, \.onnx"),
    ],
)
def test_mistakes_are_named(arguments, said_of_it, said, folder):
    (folder / "dir.pt").mkdir(exist_ok=True)
    with pytest.raises(SystemExit, match=f"^error: {said_of_it}"):
        said(*arguments)

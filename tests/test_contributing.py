"""The examples of CONTRIBUTING.md are plug-ins that work."""

import ast
import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import printed
import pytest
import skeleton
import synthetic_study
import torch
from matplotlib.figure import Figure
from torch import nn

from lipdescent.analysis import groups
from lipdescent.figures import _style as style
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import table

ROOT = Path(__file__).parents[1]
EXAMPLES = {kind: example for kind, (_, _, example) in skeleton.examples().items()}
KINDS = ("architectures", "bounds", "comparisons", "datasets", "experiments", "figures",
         "label_noise", "losses", "points", "schedules")  # fmt: skip


@cache
def example(kind):
    """What a new file of a kind defines."""
    names = {}
    exec(compile(skeleton.source(kind, "mine"), kind, "exec"), names)
    return names


def test_there_is_an_example_of_every_kind_and_each_lies_where_its_kind_does():
    assert sorted(EXAMPLES) == sorted(KINDS)
    named = re.findall(r"^# (\S+)/\w+\.py, ", skeleton.GUIDE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(lookup.place(kind)) for kind in KINDS)


@pytest.mark.parametrize("kind", ["datasets", "architectures", "losses", "schedules", "points"])
def test_an_example_has_the_functions_and_constants_of_the_others(kind):
    """Those that every plug-in of the kind has."""
    common = set.intersection(*(defined(path) for path in sources(lookup.place(kind))))
    assert common
    assert common <= {node.name for node in ast.walk(ast.parse(EXAMPLES[kind])) if function(node)}


@pytest.mark.parametrize("kind", ["figures", "comparisons", "experiments"])
def test_an_example_of_a_figure_has_its_caption(kind):
    """code_digest.caption refuses one without."""
    caption = ast.get_docstring(ast.parse(EXAMPLES[kind]))
    assert caption
    if kind != "experiments":  # as test_contract.py asks of every file there
        assert "seeds" in caption
        assert "diverged models are left out" in caption


def sources(place):
    return (lookup.LIBRARY / place).glob("[!_]*.py")


def function(node):
    return isinstance(node, ast.FunctionDef)


def defined(path):
    return {node.name for node in ast.parse(path.read_text()).body if function(node)}


def test_the_dataset_the_architecture_and_the_bound():
    made = example("datasets")
    data = made["load"]()
    assert data.input_shape == made["INPUT_SHAPE"]
    assert len(data.train_inputs) == made["NUM_TRAIN"]
    module = example("architectures")["build"](3, input_shape=(1,), num_classes=2)
    assert module(torch.tensor(data.train_inputs)).shape == (2, 2)
    bound = example("bounds")
    stack = ModelStack.from_modules([module], (1,))
    (found,) = bound["measure"](stack, inputs={}, norms=bound["NORMS"], seed=0)
    assert found.direction == bound["DIRECTION"]
    assert found.quantity == "mine"  # as its file


def test_the_points():
    stack = ModelStack.from_modules([nn.Linear(2, 1)], (2,))
    found = example("points")["draw"](stack, {}, labels=None, seed=0, side=3.0)["corners"]
    assert found.whole().abs().eq(3).all()
    assert len(found.whole().unique(dim=0)) == found.count == 4


def test_the_loss_the_schedule_and_the_noise():
    targets = torch.eye(3)
    assert torch.equal(example("losses")["loss"](targets, targets), torch.zeros(3))
    factors = example("schedules")["factors"]
    rates = factors(np.arange(4), updates_per_epoch=2, total_updates=4)
    assert rates.tolist() == [1, 0.75, 0.5, 0.25]
    noisy = example("label_noise")["noisy"]
    assert noisy(np.array([1, 2]), num_classes=3, fraction=0.5, seed=0).tolist() == [0, 2]


def test_the_figures(tmp_path):
    path = tmp_path / "table.parquet"
    table.write(path, synthetic_study.make(seeds=(0, 1), epochs=(0, 100)))
    group = groups.load_group(path, dataset="mnist1d", architecture="mlp")
    experiment = example("experiments")
    with style.printed():
        for figure in (
            example("figures")["draw"](group, statistics={}, loss="cross_entropy"),
            example("comparisons")["draw"]({"mlp": group}, statistics={}, losses={}),
            experiment["draw"](experiment["run"]()),
        ):
            assert isinstance(figure, Figure)
            assert figure.axes[0].lines
            printed.check(figure)


def test_a_new_file_is_an_example_and_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "LIBRARY", tmp_path / "scripts")
    monkeypatch.setattr(skeleton, "GUIDE", tmp_path / "CONTRIBUTING.md")
    (tmp_path / "scripts/training/losses").mkdir(parents=True)
    shutil.copy(ROOT / "CONTRIBUTING.md", tmp_path)
    assert "wrote scripts/training/losses/mine.py" in skeleton.write("losses", "mine")
    written = (tmp_path / "scripts/training/losses/mine.py").read_text()
    assert written == skeleton.source("losses", "mine")
    assert written.startswith("from torch import Tensor\n\n\ndef loss(")
    for kind, name, said in (
        ("losses", "mine", "losses/mine.py exists already"),
        ("loss", "mine", "unknown KIND 'loss' (did you mean 'losses'?)"),
        ("losses", "_mine", "NAME=_mine: "),
        ("losses", "my-loss", "NAME=my-loss: "),
        ("losses", "class", "NAME=class: a plug-in has a name of Python's that is no keyword"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            skeleton.write(kind, name)

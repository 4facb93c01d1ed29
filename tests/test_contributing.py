"""The examples of CONTRIBUTING.md are plug-ins that work."""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import printed
import pytest
import synthetic_study
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lipdescent.analysis import groups, labels, ladder
from lipdescent.analysis.groups import Group
from lipdescent.datasets import Dataset, take
from lipdescent.figures import _style as style
from lipdescent.measurement import Measurement, refuse_other_norms
from lipdescent.plugins import lookup
from lipdescent.points._parts import Points
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import table

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
CODE = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
# Kind -> source; a file's name stands in the comment before it.
PARTS = re.split(r"^# (\S+)/(\w+)\.py.*\n", CODE, flags=re.MULTILINE)[1:]
EXAMPLES = dict(zip(PARTS[::3], PARTS[2::3], strict=True))
NAMES = {
    "np": np, "pd": pd, "torch": torch, "nn": nn, "math": math, "pairwise": pairwise,
    "Tensor": Tensor, "Figure": Figure, "Group": Group, "labels": labels, "ladder": ladder,
    "Dataset": Dataset, "Iterator": Iterator, "Mapping": Mapping, "Measurement": Measurement,
    "take": take,
    "refuse_other_norms": refuse_other_norms,
    "Points": Points,
}  # fmt: skip


def example(kind):
    names = dict(NAMES)
    exec(compile(EXAMPLES[kind], kind, "exec"), names)
    return names


def test_there_is_an_example_of_every_kind_and_each_lies_where_its_kind_does():
    kinds = ("datasets", "architectures", "bounds", "figures", "comparisons", "losses",
             "schedules", "label_noise", "experiments", "points")  # fmt: skip
    assert sorted(EXAMPLES) == sorted(str(lookup.place(kind)) for kind in kinds)


@pytest.mark.parametrize("kind", ["datasets", "architectures", "losses", "schedules", "points"])
def test_an_example_has_the_functions_and_constants_of_the_others(kind):
    """Those that every plug-in of the kind has."""
    place = str(lookup.place(kind))
    common = set.intersection(*(defined(path) for path in sources(place)))
    assert common
    assert common <= {node.name for node in ast.walk(ast.parse(EXAMPLES[place])) if function(node)}


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


def test_the_points():
    stack = ModelStack.from_modules([nn.Linear(2, 1)], (2,))
    found = example("points")["draw"](stack, {}, side=3.0)["corners"]
    assert found.whole().abs().eq(3).all()
    assert len(found.whole().unique(dim=0)) == found.count == 4


def test_the_loss_the_schedule_and_the_noise():
    targets = torch.eye(3)
    assert torch.equal(example("training/losses")["loss"](targets, targets), torch.zeros(3))
    factors = example("training/schedules")["factors"]
    rates = factors(np.arange(4), updates_per_epoch=2, total_updates=4)
    assert rates.tolist() == [1, 0.75, 0.5, 0.25]
    noisy = example("training/label_noise")["noisy"]
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

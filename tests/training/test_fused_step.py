"""What the fused step is for, and its kernels in Triton's interpreter."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from lipdescent.architectures import mlp
from lipdescent.training import fused_step
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.choice import make_engine
from lipdescent.training.fused_step import Plan
from lipdescent.training.options import TrainingOptions

FEATURES, CLASSES = 40, 10
CASES = Path(__file__).parents[1] / "helpers/fused_step_cases.py"


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def networks(**sizes):
    sizes = {"input_shape": (FEATURES,), "num_classes": CLASSES} | sizes
    return initial_stack(partial(mlp.build, 12, **sizes), [0], sizes["input_shape"])


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adam"}, {"loss": "hinge"}, {"precision": "bfloat16"},
        {"precision": "float64"}, {"loss_options": {"label_smoothing": 0.1}},
    ],
)  # fmt: skip
def test_what_the_kernels_do_not_compute_is_left_to_the_plain_path(change):
    asked = TrainingOptions(learning_rate=0.1, batch_size=20)
    others = dataclasses.replace(asked, **change)
    for options, expected in ((asked, True), (others, False)):
        engine, optimizer = make_engine(networks(), options), options.make_optimizer()
        assert fused_step.computed(engine, optimizer, options) is expected
        assert not fused_step.fused_step_available(engine, optimizer, options)  # on a CPU


@pytest.mark.parametrize(
    "network",
    [
        {"depth": 0}, {"depth": 2}, {"dropout": 0.5}, {"input_shape": (129,)}, {"num_classes": 33},
    ],
)  # fmt: skip
def test_other_networks_are_left_to_the_plain_path(network):
    options = TrainingOptions(learning_rate=0.1, batch_size=20)
    engine, optimizer = make_engine(networks(**network), options), options.make_optimizer()
    assert not fused_step.computed(engine, optimizer, options)


@pytest.mark.parametrize("width", [1, 64, 100, 4096, 131072])
@pytest.mark.parametrize("batch", [1, 100, 512])
def test_plans_cover_the_work_in_pieces_that_fit(width, batch):
    plan = Plan.of(width, batch)
    assert plan.part % plan.forward.units == 0
    assert plan.span % plan.backward.rows == 0
    assert -(-width // plan.part) <= fused_step.MOST_PARTS
    assert plan.span * 32 >= batch


@pytest.mark.parametrize(
    ("features", "expected"),
    [(1, (16, 0)), (16, (16, 0)), (28, (32, 0)), (40, (32, 16)), (64, (64, 0)), (100, (64, 64))],
)
def test_features_are_padded_little(features, expected):
    found = fused_step._two_parts(features)
    assert found == expected or (sum(found) == sum(expected) and found[1] == 0)
    assert features <= sum(found) < 2 * max(features, 16)

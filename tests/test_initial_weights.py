"""The weights before the first step are kept whichever epochs a study asks for."""

import numpy as np
import pandas as pd
import pytest
import torch

from lipdescent.datasets import Dataset
from lipdescent.jobs.progress import Progress
from lipdescent.measuring.measure import checkpoint_stack, measure, to_table
from lipdescent.plugins import lookup
from lipdescent.storage import checkpoints
from lipdescent.training import resume
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

SEEDS, SHAPE = [3, 4], (6,)
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(30, 6)).astype(np.float32)
LABELS = RANDOM.integers(0, 3, 30)
DATASET = Dataset(INPUTS[:20], LABELS[:20], INPUTS[20:], LABELS[20:], 3)
OPTIONS = {"learning_rate": 0.05, "batch_size": 10, "momentum": 0.9}


def trained(architecture, epochs, **resumed):
    """A training of two seeds, by way of its file."""
    build = lookup.resolve("architectures", architecture).build

    def network():
        return build(6, input_shape=SHAPE, num_classes=3)

    data = TrainingData(torch.from_numpy(INPUTS[:20]), torch.tensor(LABELS[:20]).repeat(2, 1), 3)
    training = StackTraining(
        initial_stack(network, SEEDS, SHAPE), data, seeds=SEEDS, epochs=epochs,
        options=TrainingOptions(**OPTIONS),
    )  # fmt: skip
    training.run(progress=Progress(2, epochs[-1]), **resumed)
    about = checkpoints.Origin(
        run={"dataset": "d", "architecture": architecture, "width": 6, "seeds": SEEDS},
        module=architecture,
        build={},
        training=OPTIONS,
        noise_maker="uniform_wrong",
    )
    return training, training.result([0.0, 0.0], about)


def distances(architecture, saved):
    """Epoch and seed -> the measured distance from the initial weights."""
    stack = checkpoint_stack(saved, DATASET)
    start = None
    if saved.initial:
        start = checkpoint_stack(saved.at_start(), DATASET)
    columns = measure("metrics", stack, saved, DATASET, options={}, start=start)
    frame = to_table(columns, stack, saved, study="s").to_pandas()
    frame = frame[frame["quantity"] == "distance_from_init"]
    return frame.set_index(["epoch", "seed"])["value"].to_dict()


@pytest.mark.parametrize("architecture", ["mlp", "lipschitz_mlp"])
def test_the_distance_is_the_same_without_epoch_0_in_the_grid(tmp_path, architecture):
    with_start, without = [], []
    for epochs, found in (([0, 2, 4], with_start), ([2, 4], without)):
        path = tmp_path / f"{len(epochs)}.safetensors"
        checkpoints.write(path, trained(architecture, epochs)[1])
        found.append(checkpoints.read(path))
    (one,), (other,) = with_start, without
    assert one.initial == {}
    for name, tensor in other.initial.items():
        assert torch.equal(tensor, one.state[name][0])
    expected = distances(architecture, one)
    assert expected[2, 3] > 0
    assert distances(architecture, other) == {k: v for k, v in expected.items() if k[0] > 0}


def test_a_continued_training_has_them_too(tmp_path):
    training, whole = trained("mlp", [2, 4])
    checkpoints.write(tmp_path / "run.safetensors", whole)
    resume.keep_end(training.state(), tmp_path / "run.safetensors")
    end_state, _ = resume.end_paths(tmp_path / "run.safetensors")
    _, longer = trained("mlp", [2, 4, 6], end_state=end_state)
    assert all(torch.equal(t, longer.initial[name]) for name, t in whole.initial.items())
    assert all(torch.equal(t[1], longer.state[name][1]) for name, t in whole.state.items())


def test_without_the_initial_weights_only_what_starts_there_is_not_applicable():
    """As of networks trained elsewhere, whose start is in no file."""
    _, saved = trained("mlp", [2])
    stack = checkpoint_stack(saved, DATASET)

    def values(name, **more):
        found = to_table(measure(name, stack, saved, DATASET, options={}, **more), stack, saved,
                         study="s").to_pandas()  # fmt: skip
        return found.set_index(["quantity", "seed", "split"])[["value", "status"]].astype(
            {"status": str}
        )

    whole = values("metrics", start=checkpoint_stack(saved.at_start(), DATASET))
    without = values("metrics")
    starts = whole.index.get_level_values(0).isin(["distance_from_init", "path_length"])
    assert starts.sum() == 2 * len(SEEDS)
    pd.testing.assert_frame_equal(without[~starts], whole[~starts], check_exact=True)
    assert set(without[starts]["status"]) == {"not_applicable"}
    assert without[starts]["value"].isna().all()
    assert set(values("linearised")["status"]) == {"not_applicable"}

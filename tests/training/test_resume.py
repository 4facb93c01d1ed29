"""Going on from a state or an end state: bit-identical, or not at all and with the reason."""

import os

import numpy as np
import pytest
import torch
from log_lines import logged

from lipdescent.architectures import mlp
from lipdescent.jobs.progress import Progress
from lipdescent.storage import checkpoints
from lipdescent.training import resume
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import Interrupted, StackTraining

SEEDS = [0, 1]
CONSTANT = TrainingOptions(learning_rate=0.05, batch_size=10, momentum=0.9)
COSINE = TrainingOptions(learning_rate=0.05, batch_size=10, momentum=0.9, schedule="cosine")
ADAM = TrainingOptions(learning_rate=0.01, batch_size=10, optimizer="adam")


def make(epochs, options=CONSTANT):
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.standard_normal((45, 6)), dtype=torch.float32)
    labels = torch.tensor(random.integers(0, 3, (2, 45)))
    stack = initial_stack(lambda: mlp.build(9, input_shape=(6,), num_classes=3), SEEDS, (6,))
    data = TrainingData(inputs, labels, 3)
    return StackTraining(stack, data, seeds=SEEDS, epochs=epochs, options=options)


def run(training, path, **arguments):
    """Train as scripts/train.py does; what it said."""
    with logged() as said:
        training.run(
            progress=Progress(2, 9),
            state_path=path.with_suffix(".state"),
            end_state=resume.end_paths(path)[0],
            **arguments,
        )
    path.unlink(missing_ok=True)  # Snakemake deletes outputs before a job
    checkpoints.write(path, training.result([0.0, 0.0]))
    resume.keep_end(training.state(), path)
    return "\n".join(said)


def same(path, training):
    training.run(progress=Progress(2, 9))
    expected, found = training.result([0.0, 0.0]).state, checkpoints.read(path).state
    return all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("options", [CONSTANT, ADAM])
def test_more_epochs_go_on_from_the_end(tmp_path, options):
    path = tmp_path / "a.safetensors"
    run(make([0, 3], options), path)
    assert "going on from epoch 3" in run(make([0, 3, 5, 8], options), path)
    assert same(path, make([0, 3, 5, 8], options))
    assert "going on from epoch 8" in run(make([0, 9], options), path)
    assert same(path, make([0, 9], options))


def test_a_schedule_over_the_whole_length_starts_over_and_says_so(tmp_path):
    path = tmp_path / "a.safetensors"
    run(make([0, 3], COSINE), path)
    assert "schedule 'cosine' depend on the length" in run(make([0, 6], COSINE), path)
    assert same(path, make([0, 6], COSINE))


def test_an_epoch_that_was_not_kept_starts_over_and_says_so(tmp_path):
    path = tmp_path / "a.safetensors"
    run(make([0, 3]), path)
    assert "has no checkpoint of epochs [2]" in run(make([0, 2, 5]), path)
    assert same(path, make([0, 2, 5]))


def test_fewer_epochs_train_nothing_and_keep_the_longer_end(tmp_path):
    path = tmp_path / "a.safetensors"
    run(make([0, 3, 6]), path)
    assert "going on from epoch 6" in run(make([0, 3]), path)
    assert same(path, make([0, 3]))
    assert "going on from epoch 6" in run(make([0, 3, 6]), path)
    assert same(path, make([0, 3, 6]))


@pytest.mark.parametrize("change", ["identity", "options"])
def test_other_code_or_options_start_over(tmp_path, change):
    path = tmp_path / "a.safetensors"
    run(make([0, 3]), path, identity="one version")
    options = ADAM if change == "options" else CONSTANT
    identity = "another version" if change == "identity" else "one version"
    said = run(make([0, 3], options), path, identity=identity)
    assert "belongs to another configuration" in said
    assert same(path, make([0, 3], options))


@pytest.mark.parametrize("broken", [".end.state", ".end.checkpoints"])
def test_a_broken_end_starts_over(tmp_path, broken):
    path = tmp_path / "a.safetensors"
    run(make([0, 3]), path)
    victim = path.with_suffix(broken)
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[: len(content) // 2])
    assert f"a{broken}: truncated" in run(make([0, 5]), path)
    assert same(path, make([0, 5]))


def test_no_hard_links_no_end(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.safetensors"
    run(make([0, 3]), path)
    assert "more epochs will mean training anew" in capsys.readouterr().out
    assert not any(p.exists() for p in resume.end_paths(path))
    run(make([0, 5]), path)
    assert same(path, make([0, 5]))


def test_an_interrupted_continuation_goes_on(tmp_path):
    path = tmp_path / "a.safetensors"
    run(make([0, 3]), path)
    with pytest.raises(Interrupted):
        run(make([0, 8]), path, should_stop=lambda: True)
    assert "going on from epoch 4" in run(make([0, 8]), path)
    assert same(path, make([0, 8]))


def test_the_end_costs_no_second_copy_of_the_checkpoints(tmp_path):
    path = tmp_path / "a.safetensors"
    run(make(list(range(9))), path)
    end_state, kept = resume.end_paths(path)
    assert kept.samefile(path)
    assert end_state.stat().st_size < path.stat().st_size

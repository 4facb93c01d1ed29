"""Blocks that do not fit: halved, told, and the same models in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from log_lines import logged

from lipdescent.architectures import cnn_batchnorm, mlp
from lipdescent.jobs import device
from lipdescent.jobs.progress import Progress
from lipdescent.training import halving
from lipdescent.training.block import Block, TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import Interrupted, StackTraining

SEEDS, CLASSES = [0, 1, 2, 3, 4], 3
NETWORKS = {
    "mlp": (mlp, (6,), StackedMLP),
    "batchnorm": (cnn_batchnorm, (1, 8, 8), StackedAutograd),
}


def make(network="mlp", *, optimizer="adam", epochs=(0, 1, 2), stopping=None, **arguments):
    module, shape, _ = NETWORKS[network]
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.standard_normal((45, *shape)), dtype=torch.float32)
    labels = torch.tensor(random.integers(0, CLASSES, (len(SEEDS), 45)))
    options = TrainingOptions(
        learning_rate=0.01, batch_size=10, optimizer=optimizer, stopping=stopping
    )
    stack = initial_stack(
        lambda: module.build(2, input_shape=shape, num_classes=CLASSES), SEEDS, shape
    )
    data = TrainingData(inputs, labels, CLASSES)
    return StackTraining(stack, data, seeds=SEEDS, epochs=epochs, options=options, **arguments)


def trained(training, **arguments):
    with logged() as said:
        training.run(progress=Progress(5, 2), **arguments)
    return training.result([0.0] * len(SEEDS)), "\n".join(said)


@pytest.fixture(autouse=True)
def uncollected(monkeypatch):
    """Of all that lives in the tests' process, half a second each time."""
    monkeypatch.setattr(halving.gc, "collect", lambda: 0)


def too_small_for(patch, engine, most, *, method="accumulate", call=1):
    """From its ``call``-th call on, an engine's pass over more than ``most`` models fails."""
    plain, calls = getattr(engine, method), []

    def limited(self, *args, **kwargs):
        models = self.parameters[0].shape[0]
        calls.append(models)
        if models > most and len(calls) >= call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args, **kwargs)

    patch.setattr(engine, method, limited)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("most", [3, 1])
def test_a_block_too_large_is_halved_and_the_log_says_so(network, most, monkeypatch):
    # Not Adam: it scales up the rounding in the gradient of a bias before a normalisation.
    expected, _ = trained(make(network, optimizer="sgd", at_once=5))
    # In the middle of the first epoch: what two updates have changed must be undone.
    too_small_for(monkeypatch, NETWORKS[network][2], most, call=3)
    training = make(network, optimizer="sgd", at_once=5)
    found, said = trained(training)
    assert "out of memory: 5 models at once are too many, now 3" in said
    assert ("3 models at once are too many, now 2" in said) == (most == 1)
    assert max(b.part.stop - b.part.start for b in training.blocks) == most
    assert [i for b in training.blocks for i in range(b.part.start, b.part.stop)] == [0, 1, 2, 3, 4]
    for name, tensor in expected.state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-6)
    assert len(training.curves[0]) == 6


@pytest.mark.parametrize(
    ("method", "stopping"),
    [("losses", None), ("accumulate", {"gradient_norm": 1e-9, "check_every": 1})],
)
def test_also_where_losses_or_gradients_are_looked_at(method, stopping, monkeypatch):
    expected, _ = trained(make(at_once=5, stopping=stopping))
    # Five updates an epoch: the sixth pass is the first of the gradient norms.
    too_small_for(monkeypatch, StackedMLP, 2, method=method, call=1 if method == "losses" else 6)
    found, said = trained(make(at_once=5, stopping=stopping))
    assert "now 3" in said
    assert "now 2" in said
    for name, tensor in expected.state.items():
        assert torch.equal(found.state[name], tensor)


def test_one_model_that_does_not_fit_is_an_error_that_says_what_to_do(monkeypatch):
    too_small_for(monkeypatch, StackedMLP, 0)
    with pytest.raises(torch.OutOfMemoryError, match=r"one model .* of cpu .*batch_size = 10"):
        trained(make())


def test_a_block_that_has_fitted_is_not_trained_twice(monkeypatch):
    too_small_for(monkeypatch, StackedMLP, 2, call=6)  # the second epoch
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        trained(make(at_once=5))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_state_does_not_depend_on_blocks(tmp_path, optimizer):
    """Memory is another one where a training goes on."""
    expected, _ = trained(make(optimizer=optimizer))
    path = tmp_path / "a.state"
    with pytest.raises(Interrupted):
        trained(make(optimizer=optimizer, at_once=5), state_path=path, should_stop=lambda: True)
    found, said = trained(make(optimizer=optimizer, at_once=2), state_path=path)
    assert "going on from epoch 1" in said
    for name, tensor in expected.state.items():
        assert torch.equal(found.state[name], tensor)


def test_halves_have_the_models_and_the_optimizer_s_memory():
    training = make("batchnorm")
    trained(training)
    whole = Block(training_stack(training), training.data, slice(0, 5), training.options)
    for i, own in enumerate(whole.optimizer.memory):
        own.copy_(torch.cat([b.optimizer.memory[i] for b in training.blocks]))
    first, second = whole.halves()
    assert (first.part, second.part) == (slice(0, 2), slice(2, 5))
    for name, tensor in whole.live_tensors().items():
        assert torch.equal(tensor[:2], first.live_tensors()[name])
        assert torch.equal(tensor[2:], second.live_tensors()[name])


def training_stack(training):
    from lipdescent.stacks.model_stack import ModelStack

    block = training.blocks[0]
    states = [b.engine.state() for b in training.blocks]
    state = {name: torch.cat([s[name] for s in states]) for name in states[0]}
    return ModelStack(block.module, state, block.input_shape)


def test_a_gpu_that_is_there_but_unusable_is_named(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", broken)
    for name in ("auto", "cuda", "cuda:0"):
        with pytest.raises(
            ValueError, match=rf"device = '{name}': .*there but unusable.*no kernel"
        ):
            device.choose(name)


def test_training_state_is_of_all_replicas():
    training = make(at_once=2)
    live = training.state().live
    assert {tensor.shape[0] for tensor in live.values()} == {5}

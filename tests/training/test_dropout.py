"""Training with dropout: a plain loop with the same masks, and the same bits in any stack."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures import cnn, cnn_batchnorm, mlp, resnet18, resnet_cifar
from lipdescent.jobs.progress import Progress
from lipdescent.stacks.seeding import generator
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import batch_order, initial_stack
from lipdescent.training.engines.choice import ENGINES
from lipdescent.training.engines.fused_cnn import StackedCNN
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.engines.looped_autograd import LoopedAutograd
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import Interrupted, StackTraining

NUM_TRAIN, BATCH, CLASSES, EPOCHS, SEEDS = 17, 8, 3, 2, [4, 7, 9]
NETWORKS = {
    "mlp": (partial(mlp.build, 9, depth=2, bias=True), (6,), StackedAutograd),
    "cnn": (partial(cnn.build, 2), (1, 8, 8), StackedAutograd),
    "batchnorm": (partial(cnn_batchnorm.build, 2), (1, 8, 8), StackedAutograd),
    "resnet18": (partial(resnet18.build, 2, batchnorm=False), (1, 8, 8), StackedAutograd),
    "resnet_cifar": (partial(resnet_cifar.build, 2, blocks=1), (1, 8, 8), StackedAutograd),
}
OPTIONS = {"learning_rate": 0.05, "momentum": 0.9, "batch_size": BATCH}


def builder(name, p=0.4):
    build, shape, _ = NETWORKS[name]
    return partial(build, input_shape=shape, num_classes=CLASSES, dropout=p), shape


def make(name, seeds=SEEDS, *, dtype=torch.float32, p=0.4, at_once=None, **options):
    build, shape = builder(name, p)
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.standard_normal((NUM_TRAIN - 1, *shape)), dtype=dtype)
    labels = torch.tensor(random.integers(0, CLASSES, (NUM_TRAIN - 1,)))
    return StackTraining(
        initial_stack(build, seeds, shape).to(dtype=dtype),
        TrainingData(inputs, labels.repeat(len(seeds), 1), CLASSES),
        seeds=seeds,
        epochs=[0, 1, EPOCHS],
        options=TrainingOptions(**OPTIONS | options),
        at_once=at_once,
    )


def trained(training, **arguments):
    training.run(progress=Progress(1, EPOCHS), **arguments)
    return training.result([0.0] * len(training.seeds)).state


def mix(z):
    """SplitMix64's finaliser, on numpy's unsigned integers."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Masked(nn.Module):
    """Dropout by the masks of a pass: a number of the key's generator for every layer."""

    key, layer = np.zeros(1, np.uint64), 0

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        own = mix(Masked.key + np.array([Masked.layer + 1], np.uint64) * GAMMA)
        Masked.layer += 1
        places = np.arange(1, x.numel() // 2 + 2, dtype=np.uint64)
        halves = mix(own + places * GAMMA).astype("<u8").view("<u4")[: x.numel()]
        # Torch's numbers are signed: the least of them is 2^31 as an unsigned one.
        kept = (halves ^ np.uint32(2**31)) >= round(self.p * 2**32)
        return x * torch.from_numpy(kept).view(x.shape) / (1 - self.p)


def with_masks(module):
    for path, part in list(module.named_modules()):
        if isinstance(part, nn.Dropout):
            module.set_submodule(path, Masked(part.p))
    return module


@pytest.mark.parametrize("engine", [StackedAutograd, LoopedAutograd])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_plain_pytorch_with_the_same_masks(name, engine, monkeypatch):
    monkeypatch.setattr("lipdescent.training.engines.choice.ENGINES", (engine,))
    monkeypatch.setattr(engine, "pays", classmethod(lambda *_: True))
    training = make(name, dtype=torch.float64)
    assert {type(b.engine) for b in training.blocks} == {engine}
    found = trained(training)
    build, _ = builder(name)
    data, updates = training.data, (NUM_TRAIN - 1) // BATCH
    for replica, seed in enumerate(SEEDS):
        model = build().double()
        assert any(isinstance(part, nn.Dropout) for part in model.modules())
        model.load_state_dict({n: t[0, replica] for n, t in found.items()})
        with_masks(model).train()
        step = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for epoch in range(EPOCHS):
            keys = torch.randint(
                2**63 - 1, (updates,), generator=generator("dropout", seed, epoch)
            ).numpy()
            order = batch_order([seed], epoch, NUM_TRAIN - 1)[0]
            for key, batch in zip(keys.astype(np.uint64), order.split(BATCH), strict=True):
                Masked.key, Masked.layer = np.array([key]), 0
                step.zero_grad()
                logits = model(data.inputs[batch])
                nn.functional.cross_entropy(logits, data.labels[replica, batch]).backward()
                step.step()
        assert Masked.layer == sum(isinstance(part, Masked) for part in model.modules())
        for tensor_name, tensor in model.state_dict().items():
            torch.testing.assert_close(found[tensor_name][-1, replica], tensor, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replica_does_not_depend_on_its_stack_mates_or_block(name):
    together = trained(make(name))
    apart = trained(make(name, at_once=2))
    assert all(torch.equal(t, apart[n]) for n, t in together.items())
    alone = trained(make(name, [7]))
    assert all(torch.equal(t[:, 0], together[n][:, 1]) for n, t in alone.items())
    without = trained(make(name, p=0.0))
    assert any(
        not torch.equal(a[-1], b[-1])
        for a, b in zip(together.values(), without.values(), strict=True)
    )


def test_equal_seeds_have_equal_masks_and_other_epochs_others():
    found = trained(make("mlp", [4, 4, 7]))
    weights = found["0.weight"]
    assert torch.equal(weights[:, 0], weights[:, 1])
    assert not torch.equal(weights[-1, 0], weights[-1, 2])


def test_interrupted_and_resumed_is_bit_identical(tmp_path):
    whole = trained(make("mlp"))
    state = tmp_path / "run.state"
    with pytest.raises(Interrupted):
        trained(make("mlp"), state_path=state, should_stop=lambda: True)
    resumed = make("mlp")
    assert all(torch.equal(t, whole[n]) for n, t in trained(resumed, state_path=state).items())


def test_halved_is_bit_identical(monkeypatch):
    whole = trained(make("mlp"))
    plain, calls = StackedAutograd.accumulate, []

    def limited(self, *args, **kwargs):
        calls.append(len(self.parameters[0]))
        if calls[-1] > 2 and len(calls) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(StackedAutograd, "accumulate", limited)
    training = make("mlp")
    found = trained(training)
    assert len(training.blocks) == 2
    assert min(calls) == 1
    assert all(torch.equal(t, whole[n]) for n, t in found.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_without_dropout_the_network_is_as_it_was(name):
    build, shape, _ = NETWORKS[name]
    plain = build(input_shape=shape, num_classes=CLASSES)
    assert str(plain) == str(builder(name, 0.0)[0]())
    assert not any(isinstance(part, nn.Dropout) for part in plain.modules())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_fused_engines_say_that_they_do_not_support_it(engine):
    fused = engine in (StackedMLP, StackedCNN)
    for name in ("mlp", "cnn"):
        assert engine.supports(builder(name)[0]()) is not fused


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_other_probabilities_are_refused(name, p):
    with pytest.raises(ValueError, match=rf"dropout = {p}: allowed are numbers from 0, less than"):
        builder(name, p)[0]()


def test_losses_and_the_gradient_that_stops_are_those_without_dropout():
    training = make("mlp", dtype=torch.float64)
    training.one_epoch()
    (own,) = training.blocks
    state = {n: t[0] for n, t in own.engine.state().items()}
    build, _ = builder("mlp")
    model = build().double().eval()
    model.load_state_dict(state)
    loss = nn.functional.cross_entropy(model(training.data.inputs), training.data.labels[0])
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    torch.testing.assert_close(own.train_losses()[0], loss.detach())
    torch.testing.assert_close(own.gradient_norms()[0], norm)

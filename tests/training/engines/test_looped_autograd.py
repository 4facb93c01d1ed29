"""A stack that is stepped model by model, against PyTorch's own steps and the stacked passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.engines.choice import make_engine
from lipdescent.training.engines.fused_cnn import StackedCNN
from lipdescent.training.engines.looped_autograd import LoopedAutograd, Work, pays, supports
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.losses import cross_entropy as our_loss
from lipdescent.training.options import TrainingOptions

MODELS, BATCH, STEPS, RATE = 3, 6, 4, 0.1
ARCHITECTURES = {
    "cnn": (3, (1, 8, 8), {}),
    "cnn_batchnorm": (3, (1, 8, 8), {}),
    "resnet18": (2, (3, 16, 16), {}),
    "vit": (2, (3, 16, 16), {"blocks": 1}),
}


def make(name):
    width, shape, options = ARCHITECTURES[name]
    module = lookup.resolve("architectures", name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [
            module.build(width, input_shape=shape, num_classes=4, **options).double()
            for _ in range(MODELS)
        ]
    state = {n: torch.stack([m.state_dict()[n] for m in models]) for n in models[0].state_dict()}
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(MODELS, BATCH, *shape, dtype=torch.float64, generator=generator)
    return models, state, inputs, torch.randint(4, (MODELS, BATCH), generator=generator)


def train(engine, inputs, labels):
    """Steps of SGD with momentum 0.5."""
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    targets = one_hot(labels, 4).double()
    for _ in range(STEPS):
        engine.accumulate(buffers, inputs, targets, decay=0.5)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.add_(buffer, alpha=-RATE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_equals_plain_pytorch(name):
    models, state, inputs, labels = make(name)
    given = {n: t.clone() for n, t in state.items()}
    engine = LoopedAutograd(copy.deepcopy(models[0]), state, our_loss.loss)
    train(engine, inputs, labels)
    assert all(torch.equal(tensor, state[n]) for n, tensor in given.items())  # left alone
    found, own = engine.state(), engine.losses(inputs, one_hot(labels, 4).double())
    for r, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.5)
        for _ in range(STEPS):
            optimizer.zero_grad()
            cross_entropy(model(inputs[r]), labels[r]).backward()
            optimizer.step()
        for n, tensor in model.state_dict().items():
            torch.testing.assert_close(found[n][r], tensor, rtol=0, atol=1e-12)
        expected = cross_entropy(model.eval()(inputs[r]), labels[r], reduction="none")
        torch.testing.assert_close(own[r], expected.detach(), rtol=0, atol=1e-12)


def test_tensors_lie_as_those_of_the_stacked_pass():
    """So a state saved by one goes on with the other."""
    models, state, _, _ = make("cnn_batchnorm")
    engines = [c(models[0], state, our_loss.loss) for c in (LoopedAutograd, StackedAutograd)]
    looped, stacked = ([*e.parameters, *e.extra_state] for e in engines)
    assert all(torch.equal(a, b) for a, b in zip(looped, stacked, strict=True))


def test_what_is_left_to_the_stacked_pass():
    constrained = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    for module in (constrained, nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout(0.1))):
        assert not supports(module)
        assert not pays(module, (2,), batch_size=10**9, beyond=Work(0, 0))
        with pytest.raises(TypeError, match="not looped over"):
            LoopedAutograd(module, {}, our_loss.loss)


def test_the_work_is_counted_by_hand():
    """A sample: 5 * 4 + 5 * 3 products, 4 + 5 + 3 activations."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    for products, per_activation, expected in [(70, 35 / 12, True), (71, 0, False), (0, 3, False)]:
        beyond = Work(products, per_activation)
        assert pays(net, (4,), batch_size=2, beyond=beyond) is expected


@pytest.mark.parametrize(
    ("name", "width", "batch_size", "engine"),
    [
        ("cnn", 8, 32, StackedCNN),
        ("cnn", 24, 128, StackedCNN),
        ("cnn_batchnorm", 2, 32, StackedAutograd),
        ("cnn_batchnorm", 16, 128, LoopedAutograd),
    ],
)
def test_the_engine_depends_on_the_work_and_not_on_the_stack(name, width, batch_size, engine):
    options = TrainingOptions(learning_rate=0.1, batch_size=batch_size)
    module = lookup.resolve("architectures", name).build(
        width, input_shape=(1, 14, 14), num_classes=10, pools=[1, 2, 1, 7]
    )
    for models in (1, 5):
        state = {n: torch.stack([t] * models) for n, t in module.state_dict().items()}
        assert type(make_engine(ModelStack(module, state, (1, 14, 14)), options)) is engine


def test_attention_is_always_looped_over():
    vit = lookup.resolve("architectures", "vit").build(1, input_shape=(1, 8, 8), num_classes=3)
    other = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    never = Work(float("inf"), float("inf"))
    for module, shape in ((vit, (1, 8, 8)), (other, (4,))):
        assert pays(module, shape, batch_size=1, beyond=never)


def test_bfloat16_is_stacked():
    module = lookup.resolve("architectures", "cnn_batchnorm").build(
        16, input_shape=(1, 28, 28), num_classes=10
    )
    assert pays(module, (1, 28, 28), batch_size=128)
    state = {n: t.unsqueeze(0) for n, t in module.state_dict().items()}
    options = TrainingOptions(learning_rate=0.1, batch_size=128, precision="bfloat16")
    assert type(make_engine(ModelStack(module, state, (1, 28, 28)), options)) is StackedAutograd

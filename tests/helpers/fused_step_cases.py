"""The kernels of a whole update, in Triton's interpreter, against loops in plain PyTorch.

Triton decides when it is imported whether it interprets, and other tests may import it: these are
run by tests/training/test_fused_step.py in a process of their own.
"""

import dataclasses
from functools import partial

import pytest
import torch
from log_lines import logged
from torch import nn
from triton.language import core
from triton.language.core import is_builtin
from triton.runtime import interpreter

from lipdescent.architectures import mlp
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training import fused_step
from lipdescent.training.block import Block, TrainingData
from lipdescent.training.draws import batch_order, initial_stack
from lipdescent.training.engines.choice import make_engine
from lipdescent.training.fused_step import OneHiddenLayer, Plan, Tile
from lipdescent.training.options import TrainingOptions


def call(self, *arguments, **options):
    """A function of a kernel: Triton's looks through all of its language in every call.

    That took a third of the time of these tests. It is done when the kernel begins, but for what
    the language's own functions call: once, as nothing takes that back.
    """
    if is_builtin(core.load):
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*arguments, **options)


interpreter.InterpretedFunction.__call__ = call
# Nor is every sum of indices computed twice, to see that it fits into 32 bits: all are small here.
interpreter.interpreter_builder.options = dataclasses.replace(
    interpreter.interpreter_builder.options, sanitize_overflow=False
)
FEATURES, CLASSES, RATES = 40, 10, (0.05, 0.1)
SMALL = Plan(Tile(64, 16, 4), Tile(64, 16, 4), part=16, span=64)
LARGE = Plan(Tile(256, 128, 4, joined=True, parts=3), Tile(256, 128, 4), part=256, span=512)

NARROW = Plan(Tile(64, 16, 4), Tile(16, 16, 4), part=16, span=32, narrow=True)


def networks(width, *, bias=False, slope=None, features=FEATURES, models=2) -> ModelStack:
    build = partial(
        mlp.build, width, input_shape=(features,), num_classes=CLASSES, bias=bias,
        output_slope=slope,
    )  # fmt: skip
    return initial_stack(build, list(range(models)), (features,))


def batches(size, *, features=FEATURES, models=2):
    """A batch and a smaller last one."""
    draws = torch.Generator().manual_seed(1)
    for count in (size, -(-size // 3)):
        x = torch.randn(models, count, features, generator=draws)
        yield x, torch.randint(CLASSES, (models, count), generator=draws)


def one_hot(labels):
    """As a block lays it out."""
    return (labels.unsqueeze(1) == torch.arange(CLASSES)[:, None]).float().mT


def fused(stack, options, data, *, plan=None, rates=RATES):
    """Its state after an update on each batch."""
    engine, optimizer = make_engine(stack, options), options.make_optimizer()
    optimizer.prepare(engine.parameters)
    assert fused_step.computed(engine, optimizer, options)
    step = OneHiddenLayer(engine, optimizer, options, plan=plan)
    for x, labels in data:
        step(x, one_hot(labels), torch.tensor(rates[: len(x)]))
    return engine.state()


LOSSES = {
    "cross_entropy": nn.functional.cross_entropy,
    "squared_error_sum": lambda z, y: (
        (z - nn.functional.one_hot(y, CLASSES)).square().sum(1).mean()
    ),
}


def plain(stack, options, data, model):
    """One network in float64: torch's gradients, clipping and SGD."""
    network = stack.module.double()
    network.load_state_dict({n: t[model].double() for n, t in stack.state.items()})
    optimizer = torch.optim.SGD(
        network.parameters(), lr=RATES[model], momentum=options.momentum,
        weight_decay=options.weight_decay,
    )  # fmt: skip
    for x, labels in data:
        optimizer.zero_grad()
        LOSSES[options.loss](network(x[model].double()), labels[model]).backward()
        if options.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), options.gradient_clip)
        optimizer.step()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("width", "batch", "network", "options", "plan"),
    [
        (4, 7, {}, {}, None),
        (4, 100, {"bias": True}, {"gradient_clip": 0.1}, None),
        (24, 7, {"slope": 0.0}, {"momentum": 0.9, "weight_decay": 0.01}, None),
        (40, 52, {"bias": True, "slope": 0.0}, {"gradient_clip": 0.1, "momentum": 0.9}, NARROW),
        (24, 33, {}, {"momentum": 0.9, "weight_decay": 0.01}, NARROW),
        (24, 100, {"features": 100}, {"gradient_clip": 0.1, "momentum": 0.9}, SMALL),
        (64, 512, {"slope": 0.0}, {"gradient_clip": 50.0}, LARGE),
        (64, 100, {"bias": True, "slope": 0.01}, {"momentum": 0.9, "weight_decay": 0.01}, None),
        (64, 33, {"features": 5}, {"loss": "squared_error_sum", "gradient_clip": 0.5}, LARGE),
        (300, 40, {"bias": True}, {"gradient_clip": 0.1, "weight_decay": 0.1}, None),
        (300, 40, {"slope": 0.0}, {"momentum": 0.9}, LARGE),
    ],
)
def test_updates_equal_plain_pytorch(width, batch, network, options, plan):
    features = network.get("features", FEATURES)
    settings = TrainingOptions(learning_rate=0.1, batch_size=batch, **options)
    stack, data = networks(width, **network), list(batches(batch, features=features))
    found = fused(stack, settings, data, plan=plan)
    for model in range(2):
        for name, expected in plain(stack, settings, data, model).items():
            before, own = stack.state[name][model].double(), found[name][model].double()
            assert (expected - before).norm() > 1e-3 * before.norm()  # there is something to see
            assert (own - expected).norm() < 1e-6 * expected.norm()


def test_a_model_has_the_same_bits_alone():
    options = TrainingOptions(learning_rate=0.1, batch_size=50, gradient_clip=0.1, momentum=0.5)
    stack, data = networks(150, bias=True), list(batches(50))[:1]
    both = fused(stack, options, data)
    alone = fused(stack[1:], options, [(x[1:], y[1:]) for x, y in data], rates=RATES[1:])
    for name, tensor in alone.items():
        assert torch.equal(tensor[0], both[name][1])


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, of NaN
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_frozen_model_stays_and_nan_is_not_hidden(clip):
    options = TrainingOptions(learning_rate=0.1, batch_size=20, gradient_clip=clip)
    stack = networks(20, slope=0.0)
    stack.state["0.weight"][1, 3, 5] = torch.nan
    found = fused(stack, options, [next(batches(20))], rates=(0.0, 0.1))
    for name, tensor in found.items():
        assert torch.equal(tensor[0], stack.state[name][0])
        assert tensor[1].isnan().any()


def trained(stack, data, **options):
    block = Block(stack, data, slice(0, 2), TrainingOptions(0.1, 20, **options))
    order = batch_order([0, 1], 0, 50)
    block.run_epoch(order, torch.tensor([RATES] * 3), 0)
    return block


@pytest.fixture
def data(generator):
    labels = torch.randint(CLASSES, (2, 50), generator=generator)
    return TrainingData(torch.randn(50, FEATURES, generator=generator), labels, CLASSES)


def test_a_block_takes_it_where_it_is_to_be_had(data, monkeypatch):
    stack = networks(12)
    expected = trained(stack, data, momentum=0.5).engine.state()
    with logged() as said:
        refused = trained(stack, data, fused_step=True, momentum=0.5)  # a CPU
    assert refused.fused_step is None
    assert any("no fused step" in line for line in said), said
    monkeypatch.setattr(fused_step, "fused_step_available", fused_step.computed)
    taken = trained(stack, data, fused_step=True, momentum=0.5)
    assert taken.fused_step is not None
    for name, tensor in expected.items():
        assert torch.equal(refused.engine.state()[name], tensor)
        torch.testing.assert_close(taken.engine.state()[name], tensor, rtol=1e-5, atol=1e-6)


def test_kernels_that_fail_are_said_and_left(data, monkeypatch):
    monkeypatch.setattr(fused_step, "fused_step_available", fused_step.computed)

    def broken(self, *others):
        raise FileNotFoundError("no C compiler")

    monkeypatch.setattr(OneHiddenLayer, "try_out", broken)
    with logged() as said:
        assert trained(networks(12), data, fused_step=True).fused_step is None
    assert any("no C compiler" in line for line in said), said


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ({}, {}),
        ({"slope": 0.0, "bias": True}, {"gradient_clip": 0.1, "momentum": 0.9}),
        ({}, {"precision": "tf32", "weight_decay": 0.1, "momentum": 0.9}),
    ],
)
def test_the_trial_compares_with_the_plain_path_and_leaves_no_trace(network, options):
    settings = TrainingOptions(learning_rate=0.1, batch_size=20, **options)
    engine, optimizer = make_engine(networks(12, **network), settings), settings.make_optimizer()
    optimizer.prepare(engine.parameters)
    before = [tensor.clone() for tensor in (*engine.parameters, *optimizer.memory)]
    apart = OneHiddenLayer(engine, optimizer, settings).try_out(engine, optimizer, 0)
    assert 0 < apart < 1e-5
    for tensor, old in zip((*engine.parameters, *optimizer.memory), before, strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.parametrize(("width", "kernel"), [(12, "both_passes"), (130, "forward")])
def test_kernels_that_compute_something_else_are_said_and_left(data, monkeypatch, width, kernel):
    monkeypatch.setattr(fused_step, "fused_step_available", fused_step.computed)
    right = getattr(OneHiddenLayer, kernel)

    def wrong(self, x, *others):
        right(self, x * 1.01, *others)

    monkeypatch.setattr(OneHiddenLayer, kernel, wrong)
    with logged() as said:
        assert trained(networks(width), data, fused_step=True).fused_step is None
    assert any("from the plain ones" in line for line in said), said


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, of NaN
def test_models_that_diverged_do_not_decide(data, monkeypatch):
    """A block that is halved late makes its step anew, from weights as they are then."""
    monkeypatch.setattr(fused_step, "fused_step_available", fused_step.computed)
    stack = networks(12)
    stack.state["0.weight"][1] = torch.nan
    assert trained(stack, data, fused_step=True).fused_step is not None

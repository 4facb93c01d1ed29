"""What every engine promises, of every engine there is: a new one is tested by being in ENGINES."""

from __future__ import annotations

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack, tensors
from lipdescent.training.engines.choice import ENGINES, choose, make_engine, split_into_blocks
from lipdescent.training.engines.engine import Setting
from lipdescent.training.losses import cross_entropy as our_loss
from lipdescent.training.options import TrainingOptions

MODELS, BATCH, CLASSES, STEPS, RATE, MOMENTUM = 3, 6, 4, 4, 0.1, 0.5
# Absolute, of weights of size one after the steps.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def architecture(name, width, **options):
    return partial(
        lookup.resolve("architectures", name).build, width, num_classes=CLASSES, **options
    )


NETWORKS = {
    "mlp": (architecture("mlp", 5, depth=2, bias=True), (7,)),
    "relu behind the logits": (architecture("mlp", 5, output_slope=0.0), (7,)),
    "leaky relu behind them": (architecture("mlp", 5, depth=2, output_slope=0.01), (7,)),
    "cnn": (architecture("cnn", 2), (1, 8, 8)),
    "average pools": (architecture("convnet", 2), (1, 8, 8)),
    "batchnorm": (architecture("cnn_batchnorm", 2), (1, 8, 8)),
    "batchnorm of much work": (architecture("cnn_batchnorm", 16), (1, 8, 8)),
    "attention": (architecture("vit", 2, blocks=1), (1, 8, 8)),
    "one axis": (architecture("conv1d", 2), (40,)),
    "smooth": (
        lambda input_shape: nn.Sequential(
            nn.Linear(*input_shape, 5), nn.Tanh(), nn.Linear(5, CLASSES)
        ),
        (7,),
    ),
}
# Nobody trains what draws random numbers: a model's bits would depend on who drew before. The masks
# of nn.Dropout are a function of keys: tests/training/test_dropout.py.
DRAWING = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.AlphaDropout(0.5), nn.Linear(4, CLASSES))


def module_of(name):
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        return build(input_shape=shape)


PAIRS = [
    pytest.param(engine, name, id=f"{engine.__name__}-{name}")
    for engine in ENGINES
    for name in NETWORKS
    if engine.supports(module_of(name))
]
REFUSED = [
    pytest.param(engine, name, id=f"{engine.__name__}-{name}")
    for engine in ENGINES
    for name in [*NETWORKS, "drawing"]
    if name == "drawing" or not engine.supports(module_of(name))
]


def make(name, dtype=torch.float32):
    """Modules, their stacked tensors, and one batch for each."""
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [build(input_shape=shape).to(dtype) for _ in range(MODELS)]
    each = [tensors(model) for model in models]
    state = {n: torch.stack([own[n].detach() for own in each]) for n in each[0]}
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(MODELS, BATCH, *shape, dtype=dtype, generator=source)
    return models, state, inputs, torch.randint(CLASSES, (MODELS, BATCH), generator=source)


def one_hots(labels, dtype):
    return one_hot(labels, CLASSES).to(dtype)


def step(engine, buffers, inputs, labels, *, steps=STEPS):
    """Steps of SGD with momentum."""
    for _ in range(steps):
        targets = one_hots(labels, inputs.dtype)
        engine.accumulate(buffers, inputs, targets, decay=MOMENTUM)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.add_(buffer, alpha=-RATE)


def begun(engine, models, state):
    made = engine(copy.deepcopy(models[0]), state, our_loss.loss)
    return made, [torch.zeros_like(p) for p in made.parameters]


def global_sources():
    """The state of every generator that all share."""
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return torch.random.get_rng_state().tolist(), numpy, random.getstate()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("engine", "name"), PAIRS)
def test_the_weights_of_a_plain_loop_of_pytorch(engine, name, dtype):
    models, state, inputs, labels = make(name, dtype)
    made, buffers = begun(engine, models, state)
    step(made, buffers, inputs, labels)
    found, losses = made.state(), made.losses(inputs, one_hots(labels, dtype))
    near = partial(torch.testing.assert_close, rtol=0, atol=TOLERANCE[dtype])
    for r, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
        for _ in range(STEPS):
            optimizer.zero_grad()
            cross_entropy(model(inputs[r]), labels[r]).backward()
            optimizer.step()
        for tensor_name, tensor in tensors(model).items():
            near(found[tensor_name][r], tensor.detach())  # its dtype too
        near(losses[r], cross_entropy(model.eval()(inputs[r]), labels[r], reduction="none"))
    # At a saddle, as attention begins, the others may stay for a while.
    last = [name for name, _ in models[0].named_parameters()][-1]
    assert (found[last] - state[last]).abs().max() > 100 * TOLERANCE[dtype]


@pytest.mark.parametrize(("engine", "name"), PAIRS)
def test_the_same_bits_again_and_what_was_given_is_left_alone(engine, name):
    models, state, inputs, labels = make(name)
    before = [t.clone() for t in (*state.values(), inputs, labels)]
    sources, found = global_sources(), []
    for _ in range(2):
        made, buffers = begun(engine, models, state)
        assert all(torch.equal(t, state[n]) for n, t in made.state().items())
        assert made.state().keys() == state.keys()
        step(made, buffers, inputs, labels)
        made.losses(inputs, one_hots(labels, inputs.dtype))
        found.append(made.state())
    assert all(torch.equal(t, found[1][n]) for n, t in found[0].items())
    assert all(map(torch.equal, before, (*state.values(), inputs, labels)))
    assert sources == global_sources()


@pytest.mark.parametrize(("engine", "name"), PAIRS)
def test_another_process_goes_on_to_the_bit(engine, name):
    """From the live tensors and the optimiser's, as a saved state has them."""
    models, state, inputs, labels = make(name)
    whole, buffers = begun(engine, models, state)
    step(whole, buffers, inputs, labels)
    first, own = begun(engine, models, state)
    step(first, own, inputs, labels, steps=STEPS - 1)
    second, new = begun(engine, models, state)
    live = [*second.parameters, *second.extra_state, *new]
    for to, tensor in zip(live, [*first.parameters, *first.extra_state, *own], strict=True):
        to.copy_(tensor)
    step(second, new, inputs, labels, steps=1)
    expected = whole.state()
    assert all(torch.equal(t, expected[n]) for n, t in second.state().items())


@pytest.mark.parametrize(("engine", "name"), REFUSED)
def test_what_it_does_not_support_is_an_error_that_names_it(engine, name):
    module = DRAWING if name == "drawing" else module_of(name)
    assert not engine.supports(module)
    state = {n: t.unsqueeze(0) for n, t in tensors(module).items()}
    with pytest.raises(TypeError, match=r"\(") as error:
        engine(module, state, our_loss.loss)
    layers = {type(part).__name__ for part in module.modules()}
    assert any(layer in str(error.value) for layer in layers)


def options(precision="float32"):
    return TrainingOptions(learning_rate=RATE, batch_size=128, precision=precision)


@pytest.mark.parametrize("precision", ["float32", "float64", "tf32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_engine_that_supports_a_network_and_pays(name, device, precision):
    module, shape = module_of(name), NETWORKS[name][1]
    setting = Setting(shape, 128, precision, torch.device(device))
    chosen = choose(module, setting)
    assert chosen.supports(module)
    earlier = ENGINES[: ENGINES.index(chosen)]
    assert not any(e.supports(module) and e.pays(module, setting) for e in earlier)


def test_every_engine_is_chosen_for_something_and_trains_all_of_it():
    chosen = set()
    for name in NETWORKS:
        models, state, _, _ = make(name)
        stack = ModelStack(models[0], state, NETWORKS[name][1])
        chosen.add(type(make_engine(stack, options())))
        parts = split_into_blocks(stack, options(), torch.device("cpu"))
        assert [i for p in parts for i in range(p.start, p.stop)] == list(range(MODELS))
    assert chosen == set(ENGINES)


def test_blocks_are_those_of_the_engine_that_is_chosen(monkeypatch):
    """Under autocast another engine steps a chain of linear layers, with other needs of memory."""
    models, state, _, _ = make("mlp")
    stack = ModelStack(models[0], state, NETWORKS["mlp"][1])
    for precision in ("float32", "bfloat16"):
        own = type(make_engine(stack, options(precision)))
        for engine in ENGINES:
            most = 1 if engine is own else MODELS
            monkeypatch.setattr(engine, "at_once", classmethod(lambda *_, most=most: most))
        parts = split_into_blocks(stack, options(precision), torch.device("cpu"))
        assert len(parts) == MODELS

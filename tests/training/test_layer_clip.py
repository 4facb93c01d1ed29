"""Layers whose norms are clipped in training: a plain loop, certified products, what is refused."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures import cnn, mlp, resnet18, resnet_cifar, vit
from lipdescent.bounds import upper_layer_product
from lipdescent.constrained.constraints import Spectral, constrain
from lipdescent.jobs.progress import Progress
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import batch_order, initial_stack
from lipdescent.training.layer_clip import LayerClip, spectral_norm
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

CLASSES, EPOCHS, SEEDS, NUM_TRAIN = 3, 4, [1, 2, 5], 24
LARGEST, RATE = 0.6, 0.3
NETWORKS = {
    "mlp": (partial(mlp.build, 9, depth=2, bias=True), (6,)),
    "dropout": (partial(mlp.build, 9, depth=2, dropout=0.3), (6,)),
    "cnn": (partial(cnn.build, 2), (1, 8, 8)),
    "resnet18": (partial(resnet18.build, 2, batchnorm=False), (1, 8, 8)),
}


def make(name, seeds=SEEDS, *, dtype=torch.float32, at_once=None, **options):
    build, shape = NETWORKS[name]
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.standard_normal((NUM_TRAIN, *shape)), dtype=dtype)
    labels = torch.tensor(random.integers(0, CLASSES, (NUM_TRAIN,)))
    options = {"learning_rate": RATE, "batch_size": 8, "layer_clip": LARGEST} | options
    return StackTraining(
        initial_stack(partial(build, input_shape=shape, num_classes=CLASSES), seeds, shape).to(
            dtype=dtype
        ),
        TrainingData(inputs, labels.repeat(len(seeds), 1), CLASSES),
        seeds=seeds,
        epochs=[0, 1, EPOCHS],
        options=TrainingOptions(**options),
        at_once=at_once,
    )


def trained(training):
    training.run(progress=Progress(1, EPOCHS))
    return training.result([0.0] * len(training.seeds)).state


def torus_norm(kernel, side):
    """Largest singular value of a 3 x 3 convolution on a torus, a zero-padded image's within."""
    symbol = torch.fft.fft2(kernel.double(), s=(side + 1, side + 1)).permute(2, 3, 0, 1)
    return torch.linalg.svdvals(symbol).max()


def clip(model, side):
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            norm = torus_norm(part.weight.detach(), side)
            side //= 2
        elif isinstance(part, nn.Linear):
            norm = torch.linalg.matrix_norm(part.weight.detach(), ord=2)
        else:
            continue
        if norm > LARGEST:
            part.weight.data.mul_(LARGEST / norm)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_equals_a_plain_loop(optimizer):
    found = trained(make("mlp", dtype=torch.float64, optimizer=optimizer, weight_decay=0.01))
    data = make("mlp", dtype=torch.float64).data
    build, shape = NETWORKS["mlp"]
    clipped = 0
    for replica, seed in enumerate(SEEDS):
        model = build(input_shape=shape, num_classes=CLASSES).double()
        model.load_state_dict({n: t[0, replica] for n, t in found.items()})
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
        step = kind(model.parameters(), lr=RATE, weight_decay=0.01)
        for epoch in range(EPOCHS):
            for batch in batch_order([seed], epoch, NUM_TRAIN)[0].split(8):
                step.zero_grad()
                logits = model(data.inputs[batch])
                nn.functional.cross_entropy(logits, data.labels[replica, batch]).backward()
                step.step()
                before = nn.utils.parameters_to_vector(model.parameters()).detach()
                clip(model, None)
                after = nn.utils.parameters_to_vector(model.parameters()).detach()
                clipped += not torch.equal(before, after)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found[name][-1, replica], tensor, rtol=0, atol=1e-11)
    assert clipped > 12  # of 36 updates


def dense_norm(conv, side):
    """Of the operator's matrix, column by column."""
    basis = torch.eye(conv.in_channels * side**2).view(-1, conv.in_channels, side, side)
    with torch.no_grad():
        return torch.linalg.matrix_norm(conv(basis).flatten(1).double(), ord=2)


def test_convolutions_are_scaled_by_a_bound_of_their_norm():
    """Not by more than 15 per cent too much, of the operator's norm on its image of 8 x 8."""
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    for stride in (1, 2):
        conv = nn.Conv2d(3, 4, 3, padding=1, stride=stride, bias=False)
        state = {"0.weight": 5 * conv.weight.detach()[None]}
        layers = LayerClip.of(ModelStack(nn.Sequential(conv), state, (3, 8, 8)), LARGEST)
        before = state["0.weight"].clone()
        layers.apply_(state.get, going=torch.tensor([True]))
        conv.weight.data.copy_(state["0.weight"][0])
        norm = dense_norm(conv, 8)
        assert norm <= LARGEST * (1 + 1e-6)
        if stride == 1:
            assert norm > 0.85 * LARGEST
            factor = LARGEST / torus_norm(before[0], 8)
            assert state["0.weight"].norm() / before.norm() <= factor * (1 + 1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_certified_layer_product_is_at_most_that_of_the_caps(name):
    training = make(name)
    found = trained(training)
    module = training.blocks[0].module.eval()
    layers = sum(isinstance(part, nn.Linear | nn.Conv2d) for part in module.modules())
    last = ModelStack(module, {n: t[-1] for n, t in found.items()}, NETWORKS[name][1])
    (measured,) = upper_layer_product.measure(last, norms=("l2",))
    if name == "resnet18":  # a block adds its skip connection, of which the largest is 1 or clipped
        bound = LARGEST**2
        for block in range(8):
            bound *= LARGEST**2 + (LARGEST if block in (2, 4, 6) else 1)
    else:
        bound = LARGEST**layers
    assert (measured.values <= bound * (1 + 1e-5)).all()
    free = trained(make(name, layer_clip=None))
    own = ModelStack(module, {n: t[-1] for n, t in free.items()}, NETWORKS[name][1])
    (unclipped,) = upper_layer_product.measure(own, norms=("l2",))
    assert (unclipped.values > measured.values).all()
    assert torch.equal(found["0.weight"][0], free["0.weight"][0]), "only updates clip"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replica_does_not_depend_on_its_stack_mates(name):
    together, apart = trained(make(name)), trained(make(name, at_once=2))
    assert all(torch.equal(t, apart[n]) for n, t in together.items())


def test_what_has_stopped_or_is_not_finite_stays_as_it_is():
    weight = 9 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    weight[2, 0, 0] = math.nan
    before = weight.clone()
    clip = LayerClip({"weight": spectral_norm}, 1.0)
    clip.apply_({"weight": weight}.get, going=torch.tensor([True, False, True]))
    assert torch.equal(weight[1], before[1])
    torch.testing.assert_close(weight[2], before[2], rtol=0, atol=0, equal_nan=True)
    assert abs(torch.linalg.matrix_norm(weight[0], ord=2) - 1) < 1e-6
    small = 1e-3 * before[:1]
    clip.apply_({"weight": small}.get, going=torch.tensor([True]))
    assert torch.equal(small, 1e-3 * before[:1])


@pytest.mark.parametrize(
    ("build", "shape", "layer"),
    [
        (partial(resnet_cifar.build, 2), (1, 8, 8), r"1 \(BatchNorm2d\)"),
        (partial(vit.build, 2, patch=4), (1, 8, 8), r"1 \(LayerNorm\)"),
        (
            lambda **_: nn.Sequential(constrain(nn.Linear(2, 3), Spectral())),
            (2,),
            r"0 \(ParametrizedLinear\)",
        ),
        (lambda **_: nn.Sequential(nn.Conv2d(2, 2, 1, groups=2)), (2, 3, 3), r"0 \(Conv2d\)"),
    ],
)
def test_other_layers_are_refused_by_name(build, shape, layer):
    module = build(input_shape=shape, num_classes=CLASSES)
    state = {name: tensor.detach()[None] for name, tensor in module.state_dict().items()}
    with pytest.raises(TypeError, match=layer + r": training\.layer_clip is for layers"):
        LayerClip.of(ModelStack(module, state, shape), 1.0)

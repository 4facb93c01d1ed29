"""A stack against its models one at a time: outputs, gradients, BatchNorm's statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_cuda import PretendCuda
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d

from lipdescent.constrained.constraints import Bjorck, constrain
from lipdescent.plugins import lookup
from lipdescent.stacks import convolution as stacked_convolution
from lipdescent.stacks import normalisation as stacked_normalisation
from lipdescent.stacks.convolution import convolve
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.pooling import max_pool
from lipdescent.stacks.workload import activation_bytes
from lipdescent.training.engines.stacked_autograd import pays_by_rows

MODELS, BATCH = 3, 6


def different_models(build, *, dtype=torch.float64, train):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [build().to(dtype).train(train) for _ in range(MODELS)]
        for model in models:
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.uniform_(-0.05, 0.05)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 3.0)
    return models


def stack_of(models):
    states = [m.state_dict() for m in models]
    stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
    parameters = {name for name, _ in models[0].named_parameters()}
    return {name: t.requires_grad_(name in parameters) for name, t in stacked.items()}, parameters


def assert_equals_models_alone(build, input_shape, *, train, atol=1e-8):
    models = different_models(build, train=train)
    state, parameters = stack_of(models)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(MODELS, BATCH, *input_shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(4, (MODELS, BATCH), generator=generator)
    structure = copy.deepcopy(models[0])
    outputs, buffers = stacked_forward(structure, state, inputs, train=train)
    loss = cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="sum") / BATCH
    leaves = {name: state[name] for name in sorted(parameters)}
    gradients = dict(zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True))
    for r, model in enumerate(models):
        alone = model(inputs[r])
        assert float(alone.detach().std()) > 1e-3  # neither dead nor constant
        torch.testing.assert_close(outputs[r], alone, rtol=0, atol=atol)
        cross_entropy(alone, labels[r]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name][r], parameter.grad, rtol=0, atol=atol)
        expected = dict(model.named_buffers()) if train else {}
        assert set(buffers) == set(expected)
        for name, buffer in expected.items():
            torch.testing.assert_close(buffers[name][r], buffer, rtol=0, atol=atol)


ARCHITECTURES = [
    ("cnn", 3, (1, 28, 28), {}),
    ("cnn", 2, (3, 14, 14), {"pools": [2, 1, 7, 1]}),
    ("cnn_batchnorm", 3, (1, 8, 8), {}),
    ("convnet", 3, (1, 8, 8), {}),
    ("conv1d", 5, (40,), {}),
    ("resnet18", 2, (3, 16, 16), {}),
    ("resnet18", 2, (3, 16, 16), {"batchnorm": False}),
    ("torchvision_resnet", 2, (3, 64, 64), {}),
    ("torchvision_resnet", 2, (1, 64, 64), {"depth": 50}),
    ("vit", 4, (3, 16, 16), {"blocks": 2}),
    ("mlp", 5, (1, 6, 6), {"depth": 2, "bias": True}),
]


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "width", "shape", "options"), ARCHITECTURES)
def test_architectures_equal_the_same_models_alone(name, width, shape, options, train):
    module = lookup.resolve("architectures", name)

    def build():
        return module.build(width, input_shape=shape, num_classes=4, **options)

    assert_equals_models_alone(build, shape, train=train)


class Unwalkable(nn.Module):
    """A forward of its own, with BatchNorm inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        self.scale = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x):
        return (self.inner(x) * self.scale).tanh()


LAYERS = {
    "unknown module": lambda: nn.Sequential(Unwalkable(), nn.Flatten(), nn.Linear(108, 4)),
    "cumulative average": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "no affine map, no running statistics": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(144, 4),
    ),
    "BatchNorm1d": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(128, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)
    ),
    "in-place ReLU, overlapping pool": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Flatten(),
        nn.Linear(36, 4),
    ),
    "pool that leaves a rest": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)
    ),
    "groups, dilation, same": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.GELU(), nn.Conv2d(4, 4, 2, dilation=2, padding="same"),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 4),
    ),
    "dropout that is off": lambda: nn.Sequential(
        nn.Flatten(), nn.Dropout(0.0), nn.LayerNorm(128), nn.Linear(128, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("layers", LAYERS)
def test_layers_equal_the_same_models_alone(layers, train):
    assert_equals_models_alone(LAYERS[layers], (2, 8, 8), train=train)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.tuples(st.integers(4, 7), st.integers(4, 7)),
    bias=st.booleans(),
)
def test_convolution_and_its_gradients(channels, kernel, stride, padding, size, bias):
    layer = nn.Conv2d(*channels, kernel, stride, padding, bias=bias)
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        drawn = torch.randn(*shape, dtype=torch.float64, generator=generator)
        return drawn.requires_grad_()

    x = draw(2, 2, channels[0], *size)
    weight = draw(2, channels[1], channels[0], *kernel)
    offset = draw(2, channels[1]) if bias else None
    leaves = [x, weight, *([offset] if bias else [])]
    out = convolve(layer, x, weight, offset)
    slope = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad(out, leaves, slope)
    alone = torch.stack(
        [
            nn.functional.conv2d(
                x[r], weight[r], offset[r] if bias else None, stride=stride, padding=padding
            )
            for r in range(2)
        ]
    )
    torch.testing.assert_close(out, alone, rtol=0, atol=1e-12)
    for own, expected in zip(gradients, torch.autograd.grad(alone, leaves, slope), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_first_of_equal_pixels_gets_the_slope():
    """Few values, many ties: as in max_pool2d, also the NaN goes through."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 3, (2, 3, 4, 9, 6), generator=generator).double().requires_grad_()
    own, theirs = max_pool(x, (3, 2)), max_pool2d(x.flatten(0, 1), (3, 2)).unflatten(0, (2, 3))
    assert torch.equal(own, theirs)
    slope = torch.randn(own.shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad(out, x, slope)[0] for out in (own, theirs)]
    assert torch.equal(*gradients)
    holed = x.detach().clone()
    holed[0, 0, 0, 4, 3] = torch.nan
    assert torch.equal(
        max_pool(holed, (3, 2)).isnan().flatten(0, 1),
        max_pool2d(holed.flatten(0, 1), (3, 2)).isnan(),
    )


@pytest.mark.parametrize("part", [slice(0, 2), slice(1, 3)])
def test_a_model_is_bit_identical_whatever_its_stack_mates(part):
    module = lookup.resolve("architectures", "cnn_batchnorm")

    def build():
        return module.build(4, input_shape=(1, 8, 8), num_classes=4)

    structure = build()
    state, _ = stack_of(different_models(build, dtype=torch.float32, train=True))
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(MODELS, BATCH, 1, 8, 8, generator=generator)

    def everything(part):
        own = {n: t.detach()[part].requires_grad_(t.requires_grad) for n, t in state.items()}
        outputs, buffers = stacked_forward(structure, own, inputs[part], train=True)
        leaves = [t for t in own.values() if t.requires_grad]
        gradients = torch.autograd.grad(outputs.square().sum(), leaves)
        return [outputs, *gradients, *buffers.values()]

    for whole, some in zip(everything(slice(None)), everything(part), strict=True):
        assert torch.equal(whole[part], some)


def test_the_grouped_ways_of_a_gpu_equal_those_of_a_cpu():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, 4, 2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    weight, bias = torch.randn(2, 3, 2, dtype=torch.float64, generator=generator).requires_grad_()
    ways = [
        stacked_normalisation._grouped(x, weight, bias, 1e-5),
        stacked_normalisation.normalise_batch(x, weight, bias, eps=1e-5),
    ]
    slope = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(way[0], [x, weight, bias], slope) for way in ways]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    kernels = torch.randn(3, 3, 2, 3, 3, dtype=torch.float64, generator=generator)
    ways = [way(layer, x, kernels, None) for way in (convolve, stacked_convolution._grouped)]
    torch.testing.assert_close(*ways, rtol=0, atol=1e-12)


def test_activation_bytes_by_hand():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 10)
    )
    expected = 64 + 2 * 3 * 64 + 3 * 16 + 48 + 10  # input, conv, ReLU, pool, flat, logits
    assert activation_bytes(net, (1, 8, 8), batch_size=5) == 4 * 5 * expected
    assert next(net.parameters()).device.type == "cpu"


def test_activation_bytes_of_constrained_layers():
    """What makes a weight does not see the batch: only the layer's output counts."""
    net = nn.Sequential(nn.Linear(30, 40), nn.ReLU())
    free = activation_bytes(net, (30,), batch_size=7)
    constrain(net[0], Bjorck())
    assert activation_bytes(net, (30,), batch_size=7) == free == 4 * 7 * (30 + 40 + 40)


def test_float32_stays_near_after_20_steps():
    module = lookup.resolve("architectures", "resnet18")
    models = different_models(
        lambda: module.build(2, input_shape=(1, 8, 8), num_classes=4),
        dtype=torch.float32,
        train=True,
    )
    state, parameters = stack_of(models)
    structure = copy.deepcopy(models[0])
    generator = torch.Generator().manual_seed(5)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in models]
    for _ in range(20):
        inputs = torch.randn(MODELS, BATCH, 1, 8, 8, generator=generator)
        labels = torch.randint(4, (MODELS, BATCH), generator=generator)
        outputs, buffers = stacked_forward(structure, state, inputs, train=True)
        loss = cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="sum") / BATCH
        leaves = {name: state[name] for name in sorted(parameters)}
        gradients = torch.autograd.grad(loss, leaves.values())
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            state[name] = (leaf.detach() - 0.01 * gradient).requires_grad_()
        state.update(buffers)
        for r, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            cross_entropy(model(inputs[r]), labels[r]).backward()
            optimizer.step()
    for r, model in enumerate(models):
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(state[name][r], tensor, rtol=1e-3, atol=1e-3)


def test_errors_name_the_layer():
    inputs = torch.zeros(1, 2, 3)
    with pytest.raises(TypeError, match=r"1 \(Dropout.*set p to 0"):
        stacked_forward(nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), {}, inputs, train=True)
    norm = nn.Sequential(nn.BatchNorm1d(3))
    state = {name: t.unsqueeze(0) for name, t in norm.state_dict().items()}
    with pytest.raises(ValueError, match=r"0 \(BatchNorm1d.*single value per channel"):
        stacked_forward(norm, state, inputs[:, :1], train=True)
    with pytest.raises(ValueError, match="the image is smaller than the kernel"):
        convolve(nn.Conv2d(1, 1, 5), torch.zeros(1, 1, 1, 3, 3), torch.zeros(1, 1, 1, 5, 5), None)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("name", "width", "shape", "options"), ARCHITECTURES)
def test_cuda_equals_cpu(name, width, shape, options):
    module = lookup.resolve("architectures", name)

    def build():
        return module.build(width, input_shape=shape, num_classes=4, **options)

    state, _ = stack_of(different_models(build, train=True))
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(MODELS, BATCH, *shape, dtype=torch.float64, generator=generator)
    there = {n: t.detach().cuda() for n, t in state.items()}
    on_cpu, _ = stacked_forward(build(), state, inputs, train=True)
    on_cuda, _ = stacked_forward(build(), there, inputs.cuda(), train=True)
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=0, atol=1e-8)


def test_images_lie_by_rows_on_cuda_where_it_is_asked_for_and_products_are_exact(monkeypatch):
    rows, asked = stacked_convolution.lies_by_rows, stacked_convolution.rows_on_cuda
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with PretendCuda():
        x = torch.zeros(2, device="cuda")
        assert rows(torch.zeros(2))
        assert not rows(x)
        with asked():
            assert rows(x)
            assert rows(x.double())
            assert not rows(x.bfloat16())
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
            assert not rows(x)
            assert rows(x.double())
        assert not rows(x.double())


@pytest.mark.parametrize(
    ("network", "width", "expected"),
    [
        ("cnn", 2, False),
        ("cnn", 12, True),
        ("cnn_batchnorm", 16, False),
        ("cnn_batchnorm", 32, True),
        ("mlp", 64, False),
    ],
)
def test_networks_train_by_rows_on_cuda_where_that_was_faster(network, width, expected):
    build = lookup.resolve("architectures", network).build
    assert pays_by_rows(build(width, input_shape=(3, 8, 8), num_classes=3)) is expected

"""The fused pass against PyTorch's own on one model at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from lipdescent.plugins import lookup
from lipdescent.training.engines import fused_cnn
from lipdescent.training.engines.fused_cnn import StackedCNN, supports
from lipdescent.training.losses import cross_entropy as our_loss

MODELS, BATCH = 3, 7


def build(name, **options):
    return lookup.resolve("architectures", name).build(2, num_classes=4, **options)


def odd_shapes() -> nn.Module:
    """Kernels that are not square, pools that leave a rest or are not square, several pixels."""
    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 5), padding=(1, 2)), nn.ReLU(), nn.MaxPool2d((2, 3)),
        nn.Conv2d(3, 2, (1, 3), padding=(0, 1), bias=False), nn.ReLU(),
        nn.Conv2d(2, 3, 1), nn.ReLU(), nn.MaxPool2d((1, 2), (1, 2)),
        nn.Flatten(), nn.Linear(3 * 4 * 1, 4),
    )  # fmt: skip


def one_pool_twice() -> nn.Module:
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), pool,
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), pool,
        nn.Flatten(), nn.Linear(3 * 2 * 2, 4),
    )  # fmt: skip


NETWORKS = {
    "one pool twice": (one_pool_twice, (1, 8, 8)),
    "cnn": (lambda: build("cnn", input_shape=(1, 28, 28)), (1, 28, 28)),
    "cnn 14": (lambda: build("cnn", input_shape=(1, 14, 14), pools=[1, 2, 1, 7]), (1, 14, 14)),
    "convnet": (lambda: build("convnet", input_shape=(3, 8, 8), pooling="max"), (3, 8, 8)),
    "odd shapes": (odd_shapes, (2, 9, 8)),
    "narrow": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 7, padding=3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
        ),
        (1, 3, 2),
    ),
}


def make(network, *, dtype=torch.float64):
    function, shape = NETWORKS[network]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [function().to(dtype) for _ in range(MODELS)]
    state = {
        name: torch.stack([m.state_dict()[name] for m in models]) for name in models[0].state_dict()
    }
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(MODELS, BATCH, *shape, dtype=dtype, generator=generator)
    labels = torch.randint(4, (MODELS, BATCH), generator=generator)
    return models, state, inputs, labels


def gradients(models, state, inputs, labels, *, loss=our_loss.loss, times=1):
    """By the module's names and in its shapes."""
    engine = StackedCNN(models[0], state, loss)
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    for _ in range(times):
        engine.accumulate(buffers, inputs, one_hot(labels, 4).to(inputs.dtype), decay=0.5)
    for parameter, buffer in zip(engine.parameters, buffers, strict=True):
        parameter.copy_(buffer)
    return engine.state()


@pytest.mark.parametrize("cache", [1, 1 << 30], ids=["by parts", "at once"])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_equal_the_same_models_alone(network, cache, monkeypatch):
    monkeypatch.setattr(fused_cnn, "CACHE_BYTES", cache)
    monkeypatch.setattr(fused_cnn, "SMALLEST_PART", 3)
    models, state, inputs, labels = make(network)
    found = gradients(models, state, inputs, labels, times=2)
    for r, model in enumerate(models):
        cross_entropy(model(inputs[r]), labels[r]).backward()
        for name, parameter in model.named_parameters():
            expected = 1.5 * parameter.grad  # the second pass adds to half of the first
            torch.testing.assert_close(found[name][r], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", ["convnet", "odd shapes"])
def test_losses_and_state(network, monkeypatch):
    models, state, inputs, labels = make(network)
    engine = StackedCNN(models[0], state, our_loss.loss)
    assert all(torch.equal(tensor, state[name]) for name, tensor in engine.state().items())
    assert set(engine.state()) == set(state)
    monkeypatch.setattr(fused_cnn, "CACHE_BYTES", 1)
    monkeypatch.setattr(fused_cnn, "SMALLEST_PART", 3)
    found = engine.losses(inputs, one_hot(labels, 4).double())
    for r, model in enumerate(models):
        expected = cross_entropy(model(inputs[r]), labels[r], reduction="none").detach()
        torch.testing.assert_close(found[r], expected, rtol=0, atol=1e-12)


def test_a_loss_without_closed_form_goes_through_autograd():
    models, state, inputs, labels = make("cnn 14")
    closed = gradients(models, state, inputs, labels)
    plain = gradients(models, state, inputs, labels, loss=lambda x, y: our_loss.loss(x, y))
    for name, tensor in closed.items():
        torch.testing.assert_close(plain[name], tensor, rtol=0, atol=1e-12)


def test_a_model_is_bit_identical_whatever_its_stack_mates():
    models, state, inputs, labels = make("convnet", dtype=torch.float32)
    together = gradients(models, state, inputs, labels)
    for r in range(MODELS):
        own = {name: tensor[r : r + 1] for name, tensor in state.items()}
        alone = gradients(models, own, inputs[r : r + 1], labels[r : r + 1])
        assert all(torch.equal(together[name][r : r + 1], t) for name, t in alone.items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("network", ["cnn", "cnn 14", "convnet"])
def test_20_steps_stay_near_plain_pytorch(network, dtype, tolerance):
    models, state, inputs, labels = make(network, dtype=dtype)
    engine = StackedCNN(models[0], state, our_loss.loss)
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    for _ in range(20):
        engine.accumulate(buffers, inputs, one_hot(labels, 4).to(dtype), decay=0.9)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.add_(buffer, alpha=-0.01)
    found = engine.state()
    for r, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            cross_entropy(model(inputs[r]), labels[r]).backward()
            optimizer.step()
        for name, tensor in model.state_dict().items():
            assert not torch.equal(tensor, state[name][r])
            torch.testing.assert_close(found[name][r], tensor, rtol=0, atol=tolerance)


def test_a_smaller_last_batch():
    models, state, inputs, labels = make("convnet")
    engine = StackedCNN(models[0], state, our_loss.loss)
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    for size in (BATCH, 2):
        targets = one_hot(labels[:, :size], 4).double()
        engine.accumulate(buffers, inputs[:, :size], targets, decay=0.0)
    small = gradients(models, state, inputs[:, :2], labels[:, :2])
    for parameter, buffer in zip(engine.parameters, buffers, strict=True):
        parameter.copy_(buffer)
    for name, tensor in engine.state().items():
        torch.testing.assert_close(tensor, small[name], rtol=0, atol=1e-12)


def test_equal_pixels_the_first_gets_the_slope():
    """Constant images: all inner pixels of a window tie, as in a picture's background."""
    models, state, inputs, labels = make("cnn 14")
    inputs = torch.ones_like(inputs)
    found = gradients(models, state, inputs, labels)
    for r, model in enumerate(models):
        cross_entropy(model(inputs[r]), labels[r]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][r], parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(2, 2),
        nn.Sequential(nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(nn.Conv2d(1, 2, 1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(2, 2)
        ),
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Flatten(),
            nn.Linear(2, 2),
        ),
        build("cnn_batchnorm", input_shape=(1, 8, 8)),
        build("conv1d", input_shape=(40,)),
    ],
)  # fmt: skip
def test_other_networks_are_left_to_autograd(module):
    assert not supports(module)
    with pytest.raises(TypeError, match="not a chain of convolutions"):
        StackedCNN(module, {}, our_loss.loss)

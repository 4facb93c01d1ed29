"""Jointly scaled blocks: sound against Jacobians, scaling is exact, and undoes a bad scaling."""

import math

import pytest
import torch
from convolutions import conv, jacobian_norm, stack_of
from torch import nn

from lipdescent import bracket
from lipdescent.bounds import upper_scaled_blocks
from lipdescent.bounds.lipsdp import channel_scales
from lipdescent.bounds.upper_block_lipsdp import block_lipsdp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.bounds.upper_scaled_blocks import _factors, measure, scaled_blocks
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack


def end(channels, pixels):
    return nn.Flatten(), nn.Linear(channels * pixels, 3)


NETWORKS = {
    "pools": (
        lambda: nn.Sequential(
            conv(2, 3), nn.ReLU(), conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), *end(4, 4)
        ),
        (2, 4, 4),
    ),
    "batch norm, stride": (
        lambda: nn.Sequential(
            conv(2, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), *end(3, 4)
        ),
        (2, 8, 8),
    ),
    "groups": (
        lambda: nn.Sequential(
            conv(2, 4), nn.MaxPool2d(2), nn.GELU(), conv(4, 4, groups=2), nn.Tanh(), *end(4, 9)
        ),
        (2, 6, 6),
    ),
    "leaky": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 3, 3), nn.LeakyReLU(0.2), nn.MaxPool1d(2), nn.Conv1d(3, 2, 3), *end(2, 1)
        ),
        (1, 8),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_never_below_a_jacobian_nor_above_the_blocks(name, dtype, monkeypatch) -> None:
    monkeypatch.setattr(channel_scales, "STEPS", 40)
    build, shape = NETWORKS[name]
    stack = stack_of(build, shape, count=2, dtype=dtype)
    value = scaled_blocks(stack)
    assert value.dtype == torch.float64
    for index in range(stack.num_models):
        assert float(value[index]) >= jacobian_norm(stack, index, points=12)
    assert bool((value <= layer_product(stack)).all())
    if name == "pools":
        assert bool((value <= block_lipsdp(stack)).all())


def test_a_model_alone_is_a_model_in_a_batch(monkeypatch) -> None:
    monkeypatch.setattr(channel_scales, "STEPS", 25)
    build, shape = NETWORKS["pools"]
    stack = stack_of(build, shape, count=5, dtype=torch.float32)
    together = scaled_blocks(stack)
    alone = torch.cat([scaled_blocks(stack[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, rtol=1e-9, atol=0)


def test_finds_the_scaling_that_has_been_taken_away(monkeypatch) -> None:
    build, shape = NETWORKS["pools"]
    stack = stack_of(build, shape, dtype=torch.float32)
    good = float(scaled_blocks(stack))
    powers = torch.tensor([1.0, 32.0, 0.25, 4.0])
    state = dict(stack.state)
    state["2.weight"] = state["2.weight"] * powers[:, None, None, None]
    state["2.bias"] = state["2.bias"] * powers
    state["6.weight"] = state["6.weight"] / powers.repeat_interleave(4)
    same = ModelStack(stack.module, state, shape)
    assert float(block_lipsdp(same)) > 2 * good
    assert float(scaled_blocks(same)) == pytest.approx(good, rel=0.03)
    monkeypatch.setattr(channel_scales, "STEPS", 0)
    assert float(scaled_blocks(same)) == float(block_lipsdp(same))


def test_factors_round_in_no_product_and_their_product_is_at_least_one() -> None:
    log_d = torch.linspace(-12, 12, 501, dtype=torch.float64)[None]
    a, b = _factors(log_d, fine=True)
    assert bool((a * b >= 1).all())
    assert float((a * b).max()) <= 1 + 2.0**-11
    assert float((a.log() - log_d).abs().max()) <= 2.0**-12
    full = 1 + torch.rand(501, generator=torch.Generator().manual_seed(1))  # 24 bits, float32
    product = full.double() * a * b.flip(1)
    assert torch.equal(product / b.flip(1) / a, full.double()[None])
    powers, inverse = _factors(log_d, fine=False)
    assert bool((powers * inverse == 1).all())
    assert bool((torch.frexp(powers)[0] == 0.5).all())
    assert float((powers.log() - log_d).abs().max()) <= math.log(2) / 2 + 1e-12


def test_refusals(monkeypatch) -> None:
    dense = stack_of(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), (4,))
    with pytest.raises(NotApplicable, match="no convolution"):
        scaled_blocks(dense)
    build, shape = NETWORKS["pools"]
    stack = stack_of(build, shape)
    with pytest.raises(NotApplicable, match="linf"):
        list(measure(stack, norms=["linf"]))
    monkeypatch.setattr(upper_scaled_blocks, "_LARGEST", 100)
    with pytest.raises(NotApplicable, match="symbol entries; allowed are 100"):
        scaled_blocks(stack)


class Divided(nn.Module):
    """Layers with numbers between that are linear maps without weights."""

    def __init__(self, first, second, numbers, between):
        super().__init__()
        self.first, self.second, self.between = first, second, between
        self.register_buffer("numbers", numbers)

    def forward(self, x):
        return self.second(self.between(torch.relu(self.first(x)), self.numbers))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "between", [lambda y, w: torch.relu(y / w), lambda y, w: torch.tanh(y * w) / w]
)
def test_numbers_between_layers_take_no_factors(between, seed):
    draws = torch.Generator().manual_seed(seed)

    def sizes(*shape):
        return 10 ** torch.randn(shape, generator=draws, dtype=torch.float64)

    dense = Divided(nn.Linear(3, 4), nn.Linear(4, 2), 10 * sizes(4), between).double().eval()
    image = Divided(conv(2, 4), conv(4, 2), sizes(4, 1, 1), between).double().eval()
    with torch.no_grad():
        for network in (dense, image):
            tail = [1] * (network.first.weight.ndim - 1)
            network.first.weight.mul_(sizes(4, *tail))
            network.second.weight.mul_(sizes(1, 4, *tail[1:]))
    for network, shape in ((dense, (3,)), (image, (2, 4, 4))):
        (row,) = bracket(network, shape, methods=["upper_scaled_blocks"]).table.itertuples()
        assert row.status in ("ok", "not_applicable"), row
        x = torch.randn(200, *shape, generator=draws, dtype=torch.float64) * 3
        jacobians = torch.func.vmap(torch.func.jacrev(lambda u, f=network: f(u[None])[0]))(x)
        norms = torch.linalg.matrix_norm(jacobians.flatten(-len(shape)).flatten(1, -2), 2)
        assert row.status == "not_applicable" or float(norms.max()) <= row.value

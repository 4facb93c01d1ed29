"""Block LipSDP: sound against Jacobians, below the product, exact where the truth is known."""

import math

import pytest
import torch
from convolutions import conv, jacobian_norm, stack_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.architectures._blocks import Residual
from lipdescent.bounds.lipsdp import blocks
from lipdescent.bounds.lipsdp import symbols as lipsdp_symbols
from lipdescent.bounds.upper_block_lipsdp import block_lipsdp, measure
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.trace import trace


def residual(*branch, skip=None):
    return nn.Sequential(Residual(nn.Sequential(*branch), skip))


BLOCKS = {
    "pair": (lambda: nn.Sequential(conv(2, 3), nn.ReLU(), conv(3, 2)), (2, 6, 5)),
    "strides": (
        lambda: nn.Sequential(conv(2, 3, stride=2), nn.ReLU(), conv(3, 2, stride=2)),
        (2, 9, 8),
    ),
    "leaky": (lambda: nn.Sequential(conv(2, 3), nn.LeakyReLU(0.2), conv(3, 2)), (2, 5, 5)),
    "gelu": (lambda: nn.Sequential(conv(2, 3), nn.GELU(), conv(3, 2)), (2, 5, 5)),
    "prelu": (lambda: nn.Sequential(conv(2, 3), nn.PReLU(), conv(3, 2)), (2, 5, 5)),
    "groups, dilation": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 3, dilation=2, padding=1)
        ),
        (4, 8, 7),
    ),
    "residual": (lambda: residual(conv(2, 3), nn.ReLU(), conv(3, 2)), (2, 5, 6)),
    "folded residual": (
        lambda: residual(conv(2, 3), nn.BatchNorm2d(3), nn.ReLU(), conv(3, 2), nn.BatchNorm2d(2)),
        (2, 5, 6),
    ),
    "downsampling": (
        lambda: residual(
            conv(2, 3, stride=2),
            nn.ReLU(),
            conv(3, 3),
            skip=nn.Sequential(nn.Conv2d(2, 3, 1, stride=2), nn.BatchNorm2d(3)),
        ),
        (2, 7, 6),
    ),
    "1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 5, padding=2), nn.ReLU(), nn.Conv1d(3, 2, 3)),
        (2, 11),
    ),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
    "network": (
        lambda: nn.Sequential(
            conv(1, 3),
            nn.ReLU(),
            conv(3, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            conv(3, 3),
            nn.ReLU(),
            conv(3, 2),
            nn.Flatten(),
            nn.Linear(32, 3),
        ),
        (1, 8, 8),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_above_the_jacobians_and_not_above_the_product(name):
    build, shape = BLOCKS[name]
    for seed in range(2):
        stack = stack_of(build, shape, seed=seed)
        value = float(block_lipsdp(stack))
        assert jacobian_norm(stack) <= value <= float(layer_product(stack))


@pytest.mark.parametrize("name", ["pair", "residual", "downsampling", "mlp"])
def test_tighter_than_the_product(name):
    stack = stack_of(*BLOCKS[name])
    assert float(block_lipsdp(stack)) < 0.95 * float(layer_product(stack))


def linear_stack(first, second, *, skip=False):
    first, second = torch.tensor(first).double(), torch.tensor(second).double()
    branch = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0], bias=False),
        nn.ReLU(),
        nn.Linear(second.shape[1], second.shape[0], bias=False),
    )
    branch[0].weight.data, branch[2].weight.data = first, second
    net = Residual(branch) if skip else branch
    return ModelStack.from_modules([net.eval()], (first.shape[1],))


def test_exact_values():
    absolute = linear_stack([[1.0], [-1.0]], [[1.0, 1.0]])
    assert float(block_lipsdp(absolute)) == pytest.approx(1, rel=1e-5)  # |x|, product 2
    identity = linear_stack([[1.0], [-1.0]], [[1.0, -1.0]])
    assert float(block_lipsdp(identity)) == pytest.approx(2, rel=1e-5)  # over all patterns
    minimum = linear_stack([[1.0]], [[-1.0]], skip=True)  # x - relu(x) = min(x, 0), product 2
    assert float(block_lipsdp(minimum)) == pytest.approx(1, rel=1e-5)
    scaled = linear_stack([[1e3], [-1e3]], [[1e-3, 1e-3]])
    assert float(block_lipsdp(scaled)) == pytest.approx(1, rel=1e-5)


def test_one_hidden_layer_against_an_sdp_solver():
    cp = pytest.importorskip("cvxpy")
    stack = stack_of(lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), (5,))
    w1, w2 = stack.state["0.weight"][0].numpy(), stack.state["2.weight"][0].numpy()
    t, rho = cp.Variable(7), cp.Variable()
    top = cp.hstack([rho * torch.eye(5).numpy(), -w1.T @ cp.diag(t) / 2])
    low = cp.hstack([-cp.diag(t) @ w1 / 2, cp.diag(t) - w2.T @ w2])
    problem = cp.Problem(cp.Minimize(rho), [cp.vstack([top, low]) >> 0, t >= 0])
    problem.solve(solver=cp.CLARABEL)
    value, optimum = float(block_lipsdp(stack)), math.sqrt(float(rho.value))
    assert optimum * (1 - 1e-7) <= value <= optimum * 1.02


def test_the_bound_holds_at_any_multiplier():
    stack = stack_of(*BLOCKS["downsampling"])
    truth = jacobian_norm(stack, points=10)
    node = trace(stack)
    from lipdescent.bounds.upper_block_lipsdp import linear_map

    branch, skip = node.parts
    first, second, skip = (linear_map(n, stack) for n in (branch.parts[0], branch.parts[2], skip))
    sizes = lipsdp_symbols.torus_sizes(first, second, skip)
    symbols = lipsdp_symbols.block_symbols(
        first, second, skip, sizes=sizes, exponent=torch.zeros(1, dtype=torch.int64)
    )
    half = torch.full((1,), 0.5, dtype=torch.float64)
    for seed in range(5):
        log_d = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed)).double()
        value = float(blocks.certificate(symbols, log_d, half, half))
        eigenvalues = torch.linalg.eigvalsh(lipsdp_symbols.matrices(symbols, log_d, half, half))
        assert value >= truth
        assert float(eigenvalues.max()) <= value <= float(eigenvalues.max()) * (1 + 1e-9)


def test_the_crop_between_the_layers_counts_as_a_slope_of_zero():
    """Slope 1 everywhere: the convolutions without the crop between them have norm 5 only."""
    stack = stack_of(
        lambda: nn.Sequential(
            nn.Conv1d(1, 1, 3, padding=1, bias=False),
            nn.LeakyReLU(1.0),
            nn.Conv1d(1, 1, 3, padding=1, bias=False),
        ),
        (1, 5),
    )
    stack.state["0.weight"][0, 0, 0] = torch.tensor([1.0, -2.0, 2.0])
    stack.state["2.weight"][0, 0, 0] = torch.tensor([2.0, 2.0, 1.0])
    truth = jacobian_norm(stack, points=1)
    assert truth == pytest.approx(5.560534984535793, rel=1e-12)
    assert truth <= float(block_lipsdp(stack)) <= float(layer_product(stack))


@settings(max_examples=12)
@given(
    channels=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    kernels=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 100),
)
def test_random_pairs_are_bounded(channels, size, kernels, strides, seed):
    a, b, c = channels
    stack = stack_of(
        lambda: nn.Sequential(
            nn.Conv2d(a, b, kernels[0], stride=strides[0], padding=2),
            nn.ReLU(),
            nn.Conv2d(b, c, kernels[1], stride=strides[1], padding=1),
        ),
        (a, *size),
        seed=seed,
    )
    assert jacobian_norm(stack, points=3) <= float(block_lipsdp(stack))


def test_a_stack_has_the_bounds_of_its_models():
    stack = stack_of(*BLOCKS["folded residual"], count=3)
    together = block_lipsdp(stack)
    apart = torch.cat([block_lipsdp(stack[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=2e-3, atol=0)
    for i in range(3):
        assert jacobian_norm(stack, index=i) <= float(together[i])


def test_dead_channels_and_zero_layers(random_state_untouched):
    stack = stack_of(*BLOCKS["pair"])
    stack.state["0.weight"][0, 1] = 0.0
    assert jacobian_norm(stack) <= float(block_lipsdp(stack)) <= float(layer_product(stack))
    stack.state["2.weight"].zero_()
    assert 0 <= float(block_lipsdp(stack)) <= 1e-9


def test_where_it_does_not_apply():
    stack = stack_of(lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (2,))
    with pytest.raises(NotApplicable, match="no pair"):
        block_lipsdp(stack)
    with pytest.raises(NotApplicable, match="'linf'"):
        list(measure(stack, norms=["linf"]))
    found = list(measure(stack_of(*BLOCKS["mlp"])))
    assert [(m.quantity, m.direction, m.norm) for m in found] == [
        ("upper_block_lipsdp", "upper", "l2")
    ]


@pytest.mark.parametrize("skip", [False, True])
def test_zero_weights(skip):
    """Adam's direction is 0 / 0 there: the bound is that of the skip connection."""
    stack = linear_stack([[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [0.0, 1.0]], skip=skip)
    assert float(block_lipsdp(stack)) == pytest.approx(float(skip), abs=1e-12)


@pytest.mark.parametrize("power", [-500, -60, 60, 500])
def test_scales_of_any_size_give_the_same_bound(power):
    first, second = [[1.0, -2.0], [0.5, 3.0]], [[1.0, 2.0], [-4.0, 1.0]]
    expected = float(block_lipsdp(linear_stack(first, second)))
    stack = linear_stack(first, second).to(dtype=torch.float64)
    stack.state["0.weight"].mul_(2.0**power)
    stack.state["2.weight"].mul_(2.0 ** (power // 2))
    scale = 2.0 ** (power + power // 2)
    assert float(block_lipsdp(stack)) == pytest.approx(expected * scale, rel=1e-12)


@pytest.mark.parametrize(
    "scales", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1e-30, 1e30), (1.0, 1e-40)]
)
@pytest.mark.parametrize("skip", [False, True])
def test_large_blocks_beyond_the_range_of_float32(scales, skip):
    """Of more than ``LARGE`` channels, whose multipliers are searched in complex64."""
    convolutions = [nn.Conv2d(130, 4, 1, bias=False), nn.Conv2d(4, 130, 1, bias=False)]
    for convolution, scale in zip(convolutions, scales, strict=True):
        convolution.weight.data *= scale
    network = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1])
    network = (Residual(network) if skip else network).double().eval()
    stack = ModelStack.from_modules([network], (130, 2, 2))
    value = float(block_lipsdp(stack))
    first, second = (c.weight.detach()[:, :, 0, 0] for c in convolutions)
    linear = second @ first / 2 + (torch.eye(130) if skip else 0)  # half the slopes: below L
    assert float(torch.linalg.matrix_norm(linear, 2)) <= value * (1 + 1e-12)
    assert value <= float(layer_product(stack)) * (1 + 1e-12)

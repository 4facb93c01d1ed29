"""Layer constants where numbers cancel, underflow, or stand beside those of other models."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from lipdescent.bounds import upper_block_lipsdp, upper_layer_product
from lipdescent.networks.expressions import layers as all_layers
from lipdescent.networks.expressions import residual
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure import composition, layer_constants
from lipdescent.structure.trace import trace

NORMS = ("l1", "l2", "linf")


def bounds(module, shape):
    stack = ModelStack.from_modules([module.double().eval()], shape)
    node = trace(stack)
    return {norm: float(composition.bound(node, stack, norm=norm)) for norm in NORMS}


def filled(module, *tensors):
    for own, value in zip(module.parameters(), tensors, strict=True):
        own.data = torch.tensor(value, dtype=torch.float64)
    return module


def wrapped(kernel, mode):
    """A convolution on an input of one element, which all its taps read."""
    padding = (len(kernel) - 1) // 2
    module = nn.Conv1d(1, 1, len(kernel), padding=padding, padding_mode=mode, bias=False)
    return filled(module, [[kernel]])


@pytest.mark.parametrize("mode", ["circular", "replicate"])
@pytest.mark.parametrize(
    "kernel", [[2.0**54, 1.0, -(2.0**54)], [2.0**53, 1.0, 1.0 - 2.0**53], [1e300, 1e-300, -1e300]]
)
def test_taps_that_read_the_same_element_may_cancel(mode, kernel):
    truth = abs(sum(map(Fraction, kernel)))
    for norm, value in bounds(nn.Sequential(wrapped(kernel, mode)), (1, 1)).items():
        assert Fraction(value) >= truth, norm
        assert value <= float(truth) + 1e-13 * max(map(abs, kernel)), norm


@pytest.mark.parametrize("seed", range(20))
def test_a_folded_slope_is_rounded_before_taps_cancel(seed):
    generator = torch.Generator().manual_seed(seed)
    gamma, variance = (torch.rand(2, generator=generator, dtype=torch.float64) + 0.5).tolist()
    norm = nn.BatchNorm1d(1, eps=0.0)
    norm.double().running_var.fill_(variance)
    filled(norm, [gamma], [0.0])
    kernel = [1 + 2.0**-30, 0.0, -1.0]
    square = (Fraction(gamma) * sum(map(Fraction, kernel))) ** 2 / Fraction(variance)
    for value in bounds(nn.Sequential(wrapped(kernel, "circular"), norm), (1, 1)).values():
        assert Fraction(value) ** 2 >= square
        assert value == pytest.approx(math.sqrt(square), rel=1e-4)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("sizes", [(1e-300, 1e-20, 1e300), (1e-310, 1e-10, 1e308), (1e-200,) * 3])
def test_folded_weights_that_underflow_count_in_pairs(linear, sizes):
    """W2 relu(g W1 x): g W1 is a subnormal number or 0."""

    def layer(value):
        one = nn.Linear(1, 1, bias=False) if linear else nn.Conv1d(1, 1, 1, bias=False)
        return filled(one, [[value]] if linear else [[[value]]])

    norm = filled(nn.BatchNorm1d(1, eps=0.0).double(), [sizes[1]], [0.0])
    net = nn.Sequential(layer(sizes[0]), norm, nn.ReLU(), layer(sizes[2])).double().eval()
    stack = ModelStack.from_modules([net], (1,) if linear else (1, 1))
    truth = math.prod(map(Fraction, sizes))
    for bound in (upper_block_lipsdp, upper_layer_product):
        (found,) = bound.measure(stack, norms=["l2"])
        assert Fraction(float(found.values)) >= truth


def test_a_small_skip_connection_beside_a_pair_that_cancels():
    """Slopes [1, 1]: W2 W1 = 0 exactly, and W0, 1e-320 of their size, is all that is left."""
    skip = nn.Linear(1, 1, bias=False)
    branch = nn.Sequential(
        filled(nn.Linear(1, 2, bias=False), [[1e160], [0.0]]),
        nn.LeakyReLU(1.0),
        filled(nn.Linear(2, 1, bias=False), [[0.0, 1e160]]),
    )

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.skip = branch, filled(skip, [[1e-30]])

        def forward(self, x):
            return self.branch(x) + self.skip(x)

        def lipschitz_structure(self):
            return residual(self.branch, self.skip)

    stack = ModelStack.from_modules([Block().double().eval()], (1,))
    (found,) = upper_block_lipsdp.measure(stack, norms=["l2"])
    assert float(found.values) >= 1e-30


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 1, 3, dilation=2), (4, 5)),
    "conv2d": (lambda: nn.Conv2d(3, 2, 3, stride=2, padding=1), (3, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, stride=2), (4, 5)),
    "wrapped": (lambda: nn.Conv1d(3, 2, 5, padding=2, padding_mode="circular"), (3, 2)),
    "reflected": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 4)),
    "linear": (lambda: nn.Linear(7, 5), (7,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_constant_has_the_same_bits_alone_and_among_others(name):
    build, shape = LAYERS[name]
    module = nn.Sequential(build(), nn.ReLU()).double().eval()
    generator = torch.Generator().manual_seed(0)
    state = {
        n: torch.randn(42, *t.shape, generator=generator, dtype=torch.float64)
        for n, t in module.named_parameters()
    }
    stack = ModelStack(module, state, shape)
    layer = next(all_layers(trace(stack)))
    for norm in NORMS:
        together = layer_constants.layer_bound(layer, stack, norm=norm)
        apart = [layer_constants.layer_bound(layer, stack[i : i + 1], norm=norm) for i in range(42)]
        assert torch.equal(torch.cat(apart), together), norm

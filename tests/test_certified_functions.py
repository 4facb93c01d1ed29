"""Which scalar functions are certified: torch's against the formulas in 40 digits."""

import mpmath as mp
import pytest
import torch
from torch import nn

from lipdescent.layers.activation import SLOPES

S, A = mp.mpf("1.0507009873554804934193349852946"), mp.mpf("1.6732632423543772848170429916717")


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(-abs(x))) + max(x, 0)


def clamp(x, low, high):
    return min(max(x, low), high)


FUNCTIONS = {
    nn.ReLU(): lambda x: max(x, 0),
    nn.ReLU6(): lambda x: clamp(x, 0, 6),
    nn.Hardtanh(-0.5, 2.0): lambda x: clamp(x, -0.5, 2),
    nn.LeakyReLU(0.125): lambda x: x if x > 0 else x / 8,
    nn.PReLU(init=0.25): lambda x: x if x > 0 else x / 4,
    nn.RReLU(0.125, 0.375): lambda x: x if x > 0 else x / 4,
    nn.ELU(0.75): lambda x: x if x > 0 else 0.75 * mp.expm1(x),
    nn.CELU(0.75): lambda x: x if x > 0 else 0.75 * mp.expm1(x / 0.75),
    nn.SELU(): lambda x: S * (x if x > 0 else A * mp.expm1(x)),
    nn.GELU(): lambda x: x * (1 + mp.erf(x / mp.sqrt(2))) / 2,
    nn.GELU("tanh"): lambda x: (
        x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))) / 2
    ),
    nn.SiLU(): lambda x: x * sigmoid(x),
    nn.Mish(): lambda x: x * mp.tanh(softplus(x)),
    nn.Hardswish(): lambda x: x * clamp(x + 3, 0, 6) / 6,
    nn.Hardsigmoid(): lambda x: clamp(x + 3, 0, 6) / 6,
    nn.Sigmoid(): sigmoid,
    nn.Tanh(): mp.tanh,
    nn.Softplus(2.0, 30.0): lambda x: softplus(2 * x) / 2,
    nn.Softsign(): lambda x: x / (1 + abs(x)),
    nn.LogSigmoid(): lambda x: -softplus(-x),
    nn.Softshrink(0.25): lambda x: x - clamp(x, -0.25, 0.25),
    nn.Tanhshrink(): lambda x: x - mp.tanh(x),
    nn.Threshold(0.5, 0.5): lambda x: max(x, 0.5),
}


def points(dtype):
    draw = torch.randn(4, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scales = torch.tensor([0.01, 1.0, 8.0, 40.0], dtype=torch.float64)[:, None]
    edges = torch.tensor([3.0, -3.0, 2.999, -2.999, 20.0, 20.001, 15.0, 15.001, 0.0])
    return torch.cat([(draw * scales).flatten(), edges]).to(dtype)


def errors(module, function, dtype):
    """|torch - truth| at points, in units of u (|x| + |truth| + 1)."""
    x = points(dtype)
    with torch.no_grad():
        values = module.to(dtype).eval()(x)
    with mp.workdps(40):
        pairs = [(mp.mpf(a), mp.mpf(b)) for a, b in zip(x.tolist(), values.tolist(), strict=True)]
        found = [abs(b - function(a)) / (abs(a) + abs(function(a)) + 1) for a, b in pairs]
    return torch.tensor([float(e) for e in found], dtype=torch.float64) / (
        torch.finfo(dtype).eps / 2
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("module", FUNCTIONS, ids=str)
def test_torch_computes_the_certified_function_but_for_rounding(module, dtype):
    found = errors(module, FUNCTIONS[module], dtype)
    if isinstance(module, nn.Softplus):  # but where it leaves log(1 + exp(-threshold)) / beta out
        leaves_out = (points(dtype) * module.beta > module.threshold) & (found > 8)
        if dtype == torch.float64:
            assert bool(leaves_out.any())
        found = found[~leaves_out]
    assert float(found.max()) < 8


@pytest.mark.parametrize("threshold", [20.0, 30.0])
def test_softplus_is_off_by_what_the_documentation_says(threshold):
    module, beta = nn.Softplus(2.0, threshold), 2.0
    at = torch.tensor([threshold / beta * (1 + 2.0**-50)], dtype=torch.float64)
    with mp.workdps(40):
        left_out = mp.mpf(float(module(at))) - softplus(beta * mp.mpf(float(at))) / beta
        expected = -mp.log1p(mp.exp(-threshold)) / beta
        assert abs(left_out - expected) < abs(expected) / 100


def test_every_scalar_activation_is_here():
    jumps = {nn.Hardshrink}
    assert set(SLOPES) - jumps == {type(module) for module in FUNCTIONS}

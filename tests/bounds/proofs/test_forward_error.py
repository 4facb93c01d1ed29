"""Proven rounding errors of a forward pass, against exact rational and 50-digit arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import nn

from lipdescent.architectures import cnn_batchnorm, vit
from lipdescent.architectures._blocks import Residual
from lipdescent.bounds import lower_ascent, lower_jacobian, lower_pairs, upper_layer_product
from lipdescent.bounds.proofs.forward_error import ROUNDING, ProvenForward
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

EXACT = {
    nn.GELU(): lambda x: x * mpmath.ncdf(x),
    nn.GELU("tanh"): lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    ),
    nn.SiLU(): lambda x: x / (1 + mpmath.exp(-x)),
    nn.Mish(): lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    nn.ELU(2.5): lambda x: x if x > 0 else mpmath.mpf(2.5) * mpmath.expm1(x),
    nn.CELU(0.5): lambda x: x if x > 0 else mpmath.mpf(0.5) * mpmath.expm1(2 * x),
    nn.SELU(): lambda x: (
        mpmath.mpf(1.0507009873554804934193349852946)
        * (x if x > 0 else mpmath.mpf(1.6732632423543772848170429916717) * mpmath.expm1(x))
    ),
    nn.Softplus(): lambda x: mpmath.log1p(mpmath.exp(x)),
    nn.Softplus(beta=-3.0): lambda x: mpmath.log1p(mpmath.exp(-3 * x)) / -3,
    nn.Tanh(): mpmath.tanh,
    nn.Sigmoid(): lambda x: 1 / (1 + mpmath.exp(-x)),
    nn.LogSigmoid(): lambda x: -mpmath.log1p(mpmath.exp(-x)),
    nn.Tanhshrink(): lambda x: x - mpmath.tanh(x),
    nn.Hardswish(): lambda x: x * min(max(x + 3, 0), 6) / 6,
    nn.Hardsigmoid(): lambda x: min(max(x + 3, 0), mpmath.mpf(6)) / 6,
    nn.Softsign(): lambda x: x / (1 + abs(x)),
    nn.LeakyReLU(0.3): lambda x: max(x, 0) + mpmath.mpf(0.3) * min(x, 0),
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def length(errors: list) -> float:
    return math.sqrt(sum(float(e) ** 2 for e in errors))


@pytest.mark.parametrize("module", EXACT, ids=str)
def test_activations_against_50_digits(module):
    grid = torch.tensor([0.0, 1e-300, -1e-9, 0.7, 6.6667, -6.6667, 20.0, 20.001, -40.0, 700.0])
    for x in (draw(64), 10 * draw(64, seed=1), grid.double()):
        y = module(x[None])
        with mpmath.workdps(50):
            exact = [EXACT[module](mpmath.mpf(float(v))) for v in x]
            off = length([mpmath.mpf(float(v)) - e for v, e in zip(y[0], exact, strict=True)])
        assert off <= float(ROUNDING[type(module)](module, {}, x[None], y))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(7, 4), (7,)),
        (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 6)),
        (nn.Conv2d(2, 2, 3, dilation=(1, 2), padding=(1, 2), padding_mode="circular"), (2, 3, 5)),
        (nn.ConvTranspose1d(3, 2, 3, stride=2, output_padding=1), (3, 4)),
        (nn.AvgPool1d(3, 2, 1, ceil_mode=True), (2, 6)),
        (nn.AdaptiveAvgPool2d((2, 2)), (1, 5, 3)),
        (nn.Upsample(scale_factor=2, mode="linear", align_corners=True), (2, 5)),
        (nn.BatchNorm1d(3, eps=1e-30), (3, 4)),
        (nn.MaxPool1d(2), (2, 6)),
        (nn.ReflectionPad1d(2), (2, 4)),
    ],
)  # fmt: skip
def test_linear_layers_against_rational_numbers(module, shape):
    """The matrix comes from unit vectors, whose images are sums of one term."""
    module = module.double().eval()
    for i, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            tensor.copy_(draw(*tensor.shape, seed=i) ** (2 if name == "running_var" else 3))
    x = draw(1, *shape, seed=9) + 30
    stack = ModelStack.from_modules([nn.Sequential(nn.Identity(), module, nn.Linear(1, 1))], shape)
    state = {n.split(".", 1)[1]: t[0] for n, t in stack.state.items() if n.startswith("1.")}
    with torch.no_grad():
        y = module(x)
        bound = float(ROUNDING[type(module)](module, state, x, y))
        exact = _rational(module, x)
    off = length([Fraction(float(v)) - e for v, e in zip(y.flatten(), exact, strict=True)])
    assert off <= bound
    assert bound <= 1e-10 * float(y.norm())
    if type(module) in (nn.MaxPool1d, nn.ReflectionPad1d):
        assert off == bound == 0


def _rational(module: nn.Module, x: torch.Tensor) -> list[Fraction]:
    entries = [Fraction(float(v)) for v in x.flatten()]
    if isinstance(module, nn.BatchNorm1d):
        out = []
        for i, v in enumerate(entries):
            c = i // x.shape[2]
            mean, var, weight, bias = (
                Fraction(float(t[c]))
                for t in (module.running_mean, module.running_var, module.weight, module.bias)
            )
            with mpmath.workdps(50):
                root = mpmath.sqrt(mpmath.mpf(float(var)) + mpmath.mpf(module.eps))
                scale = Fraction(str(mpmath.nstr(1 / root, 45)))
            out.append((v - mean) * scale * weight + bias)
        return out
    if isinstance(module, (nn.MaxPool1d, nn.ReflectionPad1d)):
        return [Fraction(float(v)) for v in module(x).flatten()]
    size = x[0].numel()
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *x.shape[1:])
    bias = getattr(module, "bias", None)
    offset = 0.0
    if bias is not None:
        offset, module.bias = bias, None
    matrix = module(unit).flatten(1)
    if bias is not None:
        module.bias = nn.Parameter(bias.detach())
        offset = (
            bias.detach().reshape(-1, *[1] * (x.ndim - 2)).expand(module(x).shape[1:]).flatten()
        )
    else:
        offset = torch.zeros(matrix.shape[1], dtype=torch.float64)
    share = {nn.AvgPool1d: 6, nn.AdaptiveAvgPool2d: 36, nn.Upsample: 9}.get(type(module))
    rows = []
    for column, b in zip(matrix.T, offset, strict=True):
        taps = [Fraction(float(v)) for v in column]
        if share:  # the weights that are meant are multiples of 1 / share
            taps = [Fraction(round(float(t) * share), share) for t in taps]
        rows.append(sum((t * v for t, v in zip(taps, entries, strict=True)), Fraction(float(b))))
    return rows


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 1)
        )
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Residual(branch),
            nn.MaxPool2d(3, 2, 1), nn.Mish(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(16, 5), nn.Softmax(-1),
        )  # fmt: skip


def test_a_whole_network_against_mpmath_by_way_of_a_wider_format():
    """float32 evaluation with float64 as the truth: the same bound, 2^29 times as large."""
    stack = ModelStack.from_modules([network().eval()], (2, 8, 8))
    points = draw(6, 2, 8, 8)
    outputs, error = ProvenForward(stack)(0, points)
    expected = stack.to(dtype=torch.float64)(points)[0]
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-14)
    assert (error < 1e-11).all()
    single = stack(points.float())[0].double()
    exact, _ = ProvenForward(stack)(0, points.float().double())
    assert ((single - exact).norm(dim=1) <= 2.0**29 * error).all()


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_lower_bounds_of_a_known_network_are_proved_and_below_the_upper_one(norm):
    stack = ModelStack.from_modules([network().eval(), network().eval()], (2, 8, 8))
    inputs = {"test": draw(6, 2, 8, 8)}
    upper = next(upper_layer_product.measure(stack, norms=[norm])).values
    for bound in (lower_jacobian, lower_ascent, lower_pairs):
        found = next(bound.measure(stack, inputs=inputs, norms=[norm]))
        assert found.direction == "lower"
        assert ((found.values > 0) & (found.values <= upper)).all()


@pytest.mark.parametrize("seed", [0, 19, 45, 119])
def test_the_proved_value_is_hardly_below_the_jacobian_norm(seed):
    """Wherever the next kink is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = cnn_batchnorm.build(4, input_shape=(1, 8, 8), num_classes=3)
    stack = ModelStack.from_modules([network], (1, 8, 8))
    points = draw(5, 1, 8, 8)
    proved = next(lower_jacobian.measure(stack, inputs={"test": points})).values
    plain = lower_jacobian.jacobian_norms(stack, points).amax(1)
    assert (proved >= plain * (1 - 1e-6)).all()


@pytest.mark.parametrize("beta", [1.0, -2.0])
def test_the_jump_that_torch_puts_into_softplus_proves_nothing(beta):
    """Two points about 1e-11 apart on both sides of it: the quotient of floats is about 100."""
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Softplus(beta=beta))
    module[0].weight.data.fill_(1.0)
    stack = ModelStack.from_modules([module.double()], (1,))
    points = torch.tensor([[20 / beta], [(20 + 2e-11) / beta], [1.0], [2.0]], dtype=torch.float64)
    outputs = stack(points)[0]
    assert float((outputs[1] - outputs[0]).abs() / (points[1] - points[0]).abs()) > 10
    found = next(lower_pairs.measure(stack, inputs={"test": points}))
    assert found.direction == "lower"
    assert 0 < float(found.values) <= 1


def test_where_no_proof_is_known_the_direction_is_estimate():
    with torch.random.fork_rng(devices=[]):
        attention = vit.build(8, input_shape=(1, 8, 8), num_classes=3)
        unknown = nn.Sequential(nn.Conv1d(1, 2, 3), nn.LPPool1d(2, 2), nn.Flatten())
    for module, shape in ((attention, (1, 8, 8)), (unknown, (1, 8))):
        stack = ModelStack.from_modules([module], shape)
        inputs = {"test": draw(3, *shape)}
        for bound in (lower_jacobian, lower_ascent, lower_pairs):
            found = next(bound.measure(stack, inputs=inputs))
            assert found.direction == "estimate"
            assert (found.values > 0).all()
        assert "rounding is not proved: " in Prover(stack).reason
        with pytest.raises(NotApplicable):
            ProvenForward(stack)

"""Chains against the forward pass; everything that is not a chain is refused by name."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import affine_chain
from lipdescent.structure.slope_intervals import compose, recentred, slope_interval


def models(make, count: int = 3) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [make() for _ in range(count)]


def chain_of(make, shape: tuple[int, ...] = (6,), count: int = 3):
    return affine_chain(ModelStack.from_modules(models(make, count), shape))


def evaluate(chain, activation, inputs: torch.Tensor) -> torch.Tensor:
    hidden = inputs.flatten(1).double().expand(len(chain.weights[0]), -1, -1)
    for i, (weight, bias) in enumerate(zip(chain.weights, chain.biases, strict=True)):
        hidden = hidden @ weight.mT + bias[:, None]
        if i < chain.depth:
            hidden = activation(hidden)
    return hidden


def batch_norm(features: int) -> nn.BatchNorm1d:
    module = nn.BatchNorm1d(features)
    with torch.no_grad():
        for tensor in (module.weight, module.bias, module.running_mean):
            tensor.normal_()
        module.running_var.uniform_(0.1, 3.0)
    return module


def test_nested_sequential_with_merged_layers_computes_the_same() -> None:
    def make() -> nn.Module:
        relu = nn.ReLU()  # the same module twice, as people do
        return nn.Sequential(
            nn.Flatten(),
            batch_norm(6),
            nn.Sequential(nn.Linear(6, 5), batch_norm(5), relu, nn.Dropout(0.5)),
            nn.Linear(5, 4, bias=False),
            nn.Identity(),
            nn.Linear(4, 7),
            relu,
            nn.Linear(7, 2),
        ).double()

    stack = ModelStack.from_modules(models(make), (2, 3))
    chain = affine_chain(stack)
    assert [tuple(w.shape) for w in chain.weights] == [(3, 5, 6), (3, 7, 5), (3, 2, 7)]
    assert chain.slopes == [(0.0, 1.0), (0.0, 1.0)]
    inputs = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = evaluate(chain, torch.relu, inputs) - stack(inputs)
    assert float(difference.abs().max()) < 1e-12


def test_plain_layers_are_exact_and_merged_ones_carry_their_rounding() -> None:
    plain = chain_of(lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert all(float(error.abs().max()) == 0 for error in plain.errors)
    assert float(plain.excess().abs().max()) == 0

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), batch_norm(4), nn.Linear(4, 5)).double()

    stack = ModelStack.from_modules(models(make), (6,))
    chain = affine_chain(stack)
    with mpmath.workdps(50):
        for i in range(3):
            state = {k: v[i].tolist() for k, v in stack.state.items() if v.ndim > 1}
            first, last = mpmath.matrix(state["0.weight"]), mpmath.matrix(state["2.weight"])
            gamma, var = stack.state["1.weight"][i], stack.state["1.running_var"][i]
            scale = [
                mpmath.mpf(g) / mpmath.sqrt(mpmath.mpf(v) + mpmath.mpf(1e-5))
                for g, v in zip(gamma.tolist(), var.tolist(), strict=True)
            ]
            exact = last * mpmath.diag(scale) * first
            off = mpmath.mnorm(exact - mpmath.matrix(chain.weights[0][i].tolist()), "f")
            assert off <= mpmath.mpf(float(chain.errors[0][i]))
            assert 0 < float(chain.errors[0][i]) < 1e-12
            assert float(chain.excess()[i]) >= float(chain.errors[0][i])


def test_activations_at_either_end_and_in_a_row() -> None:
    chain = chain_of(lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 3), nn.GELU(), nn.Sigmoid()))
    assert [tuple(w.shape[1:]) for w in chain.weights] == [(6, 6), (3, 6), (3, 3)]
    low, high = chain.slopes[1]
    assert (low, high) == pytest.approx((-0.1289041452 / 4, 1.1289041452 / 4))
    assert chain_of(lambda: nn.Sequential(nn.Linear(6, 3), nn.LeakyReLU(1.0))).depth == 0


SMOOTH = [
    nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-2, 0.5), nn.Tanh(), nn.Tanhshrink(), nn.Softshrink(0.3),
    nn.Softsign(), nn.LogSigmoid(), nn.CELU(0.4), nn.ELU(2.5), nn.ELU(-0.5), nn.GELU(),
    nn.GELU("tanh"), nn.Hardsigmoid(), nn.Hardswish(), nn.LeakyReLU(0.2), nn.LeakyReLU(-0.5),
    nn.LeakyReLU(3.0), nn.Mish(), nn.SELU(), nn.SiLU(), nn.Sigmoid(), nn.Softplus(3.0),
]  # fmt: skip


@pytest.mark.parametrize("module", SMOOTH, ids=str)
def test_slope_intervals_contain_the_derivative_and_are_attained(module: nn.Module) -> None:
    low, high = slope_interval(module)
    x = torch.linspace(-40, 40, 800_001, dtype=torch.float64) + 1e-7
    x.requires_grad_(True)
    (slopes,) = torch.autograd.grad(module(x).sum(), x)
    assert low - 1e-9 <= float(slopes.min()) <= float(slopes.max()) <= high + 1e-9
    assert float(slopes.min()) == pytest.approx(low, abs=2e-3)
    assert float(slopes.max()) == pytest.approx(high, abs=2e-3)


def test_slopes_of_gelu_silu_and_mish_to_ten_digits() -> None:
    tops = {nn.GELU(): 1.1289041452, nn.GELU("tanh"): 1.1289930687, nn.SiLU(): 1.0998393201}
    for module, top in {**tops, nn.Mish(): 1.0884981613, nn.SELU(): 1.7580993408}.items():
        assert slope_interval(module)[1] == pytest.approx(top, abs=6e-11)


def test_recentred_covers_the_interval_and_compose_rounds_outwards() -> None:
    assert recentred((0.0, 1.0)) == (0.5, 0.5)
    for low, high in [(-0.1289, 1.1289), (1e-17, 1.0), (-3.0, -0.1), (0.1, 0.3)]:
        middle, radius = map(mpmath.mpf, recentred((low, high)))
        with mpmath.workdps(40):
            assert middle - radius <= low < high <= middle + radius
    low, high = compose((-0.1, 0.3), (0.1, 0.7))
    assert Fraction(low) <= Fraction(-0.1) * Fraction(0.7)
    assert Fraction(0.3) * Fraction(0.7) <= Fraction(high)
    with pytest.raises(ValueError, match="finite a <= b"):
        recentred((1.0, 0.0))


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[2].weight = net[0].weight
    return net


def twice() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    net[1].register_forward_hook(lambda module, args, output: 3 * output)
    return net


def overridden() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6))
    net[0].forward = lambda x: 5 * x
    return net


REFUSED = {
    "0 \\(Conv1d\\)": lambda: nn.Sequential(nn.Conv1d(1, 2, 3)),
    "1.0 \\(Doubled\\)": lambda: nn.Sequential(nn.ReLU(), nn.Sequential(Doubled(6, 6))),
    "0 \\(ParametrizedLinear\\)": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 6))
    ),
    "2.weight is shared with 0.weight": tied,
    "2.weight is shared with 0.weight; allowed are": twice,
    "1 \\(ReLU\\) has hooks": hooked,
    "0 \\(Linear\\): forward was replaced": overridden,
    "1 \\(BatchNorm1d\\)": lambda: nn.Sequential(
        nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False)
    ),
    "1 \\(Hardshrink\\)": lambda: nn.Sequential(nn.Linear(6, 6), nn.Hardshrink()),
    "1 \\(Softplus\\)": lambda: nn.Sequential(nn.Linear(6, 6), nn.Softplus(threshold=1)),
    "1 \\(PReLU\\)": lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU()),
    "1 \\(Softmax\\)": lambda: nn.Sequential(nn.Linear(6, 6), nn.Softmax(-1)),
    "the network \\(TransformerEncoderLayer\\)": lambda: nn.TransformerEncoderLayer(6, 2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_a_chain_is_named(message: str) -> None:
    with pytest.raises(NotApplicable, match=message):
        chain_of(REFUSED[message])


def test_linear_on_the_last_axis_is_not_a_chain() -> None:
    with pytest.raises(NotApplicable, match="not a vector"):
        chain_of(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), shape=(2, 3))


def test_values_and_shapes_that_make_no_sense() -> None:
    def broken() -> nn.Module:
        net = nn.Sequential(nn.Linear(6, 2))
        net[0].weight.data[0, 0] = math.nan
        return net

    with pytest.raises(ValueError, match=r"models \[0, 1, 2\] contain NaN"):
        chain_of(broken)
    with pytest.raises(ValueError, match="takes 6 features, its input has 5"):
        chain_of(lambda: nn.Sequential(nn.Linear(6, 2)), shape=(5,))

    def negative() -> nn.Module:
        net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
        net[0].running_var.fill_(-1.0)
        return net

    with pytest.raises(ValueError, match="running_var"):
        chain_of(negative)


def test_a_product_that_overflows_is_refused_by_name():
    layers = [nn.Linear(2, 2, dtype=torch.float64) for _ in range(2)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1e200)
    stack = ModelStack.from_modules([nn.Sequential(*layers).eval()], (2,))
    with pytest.raises(NotApplicable, match="overflows float64"):
        affine_chain(stack)

"""Certified Jacobian norms: closed forms, enumeration of masks, kinks, invariances, mistakes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.bounds import lower_jacobian
from lipdescent.bounds.proofs.prover import certify
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

NORMS = ("l2", "linf", "l1")
ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1}


def network(*weights, biases=None, activation=nn.ReLU) -> nn.Sequential:
    """Bias-free (or not) chain with the given float64 matrices."""
    layers: list[nn.Module] = []
    for i, weight in enumerate(weights):
        weight = torch.as_tensor(weight, dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(*weight.T.shape, bias=biases is not None).double()
        layer.weight.data = weight
        if biases is not None:
            layer.bias.data = torch.as_tensor(biases[i], dtype=torch.float64)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


class Opaque(nn.Module):
    """Hides a chain, so that the general way is taken."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def stacked(*modules: nn.Module) -> ModelStack:
    first = next(m for m in modules[0].modules() if isinstance(m, nn.Linear))
    return ModelStack.from_modules(modules, (first.in_features,))


def bounds(stack: ModelStack, points: torch.Tensor, norm: str = "l2") -> torch.Tensor:
    measured = lower_jacobian.measure(stack, inputs={"train": points}, norms=[norm])
    return next(m.values for m in measured if m.quantity == "lower_jacobian")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def enumerated(first: torch.Tensor, last: torch.Tensor, norm: str) -> float:
    """Largest norm over all masks: the exact constant if W1 has full row rank."""
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(first)))).double()
    jacobians = (last * masks[:, None, :]) @ first
    return torch.linalg.matrix_norm(jacobians, ord=ORDERS[norm]).max().item()


LINE = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]  # -1 and 0 are among them
CONSTANT = network(
    [[1.0], [-1.0], [1.0], [-1.0]], [[1.0, -1.0, -1.0, 1.0]], biases=[[0.0, 0.0, 1.0, -1.0], [0.0]]
)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("wrap", [lambda m: m, Opaque])
def test_closed_forms(norm, wrap):
    absolute = network([[1.0], [-1.0]], [[1.0, 1.0]])
    identity = network([[1.0], [-1.0]], [[1.0, -1.0]])
    found = bounds(stacked(wrap(absolute), wrap(identity)), LINE, norm)
    assert (found <= 1).all()
    assert (found >= 1 - 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("wrap", [lambda m: m, Opaque])
def test_constant_network_at_its_kinks(norm, wrap):
    """autograd's Jacobian is 1 at x = 0, the Lipschitz constant is 0."""
    kinks = torch.tensor([[0.0], [-1.0]], dtype=torch.float64)
    for points in (kinks, LINE, kinks + 1e-17):
        found = bounds(stacked(wrap(CONSTANT)), points, norm)
        assert 0 <= found.item() <= 1e-12
    norms = lower_jacobian.jacobian_norms(stacked(CONSTANT), kinks, norm=norm)
    assert norms.max() == 1


def test_constant_network_with_cancelling_weights():
    """Computed values of the network are rounding noise, of the size 1e-8."""
    big = network([[1.0], [-1.0], [1e8], [-1e8]], [[1e8, -1e8, -1.0, 1.0]])
    for wrap in (lambda m: m, Opaque):
        assert bounds(stacked(wrap(big)), LINE * 0.777)[0] <= 1e-6


def test_kinks_that_do_not_matter():
    """A dead unit is at its kink everywhere; it must not cost the point."""
    first, last = draw(5, 3), draw(2, 5, seed=1)
    first[0], last[:, 1] = 0, 0
    points = draw(50, 3, seed=2)
    points[0] -= first[1] * (points[0] @ first[1]) / first[1].square().sum()  # kink of unit 1
    jacobian = (last * (points[:1] @ first.T > 0)) @ first
    expected = torch.linalg.matrix_norm(jacobian, ord=2).item()
    found = certify(stacked(network(first, last)), points[None, :1], norm="l2").item()
    assert expected * (1 - 1e-12) <= found <= expected
    zero = certify(stacked(network(first, last)), torch.zeros(1, 1, 3), norm="l2").item()
    assert zero == 0


def test_points_closer_to_a_kink_than_rounding():
    """3 relu(z) - relu(-3 z) = 3 z, but the computed signs of z and -3 z may disagree."""
    row = torch.tensor([[3.0, 5.0, 7.0]], dtype=torch.float64)
    first, last = torch.cat([row, -3 * row]), torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    points = draw(2000, 3)
    points -= points @ row.T * row / row.square().sum()
    computed = torch.linalg.matrix_norm((last * (points @ first.T > 0)[:, None]) @ first, ord=2)
    constant = 3 * 83**0.5
    assert computed.max() > 1.9 * constant
    assert bounds(stacked(network(first, last)), points).item() <= constant
    away = points + 1e-9 * row
    assert bounds(stacked(network(first, last)), away).item() >= constant * (1 - 1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_deep_linear(norm):
    weights = [draw(7, 5), draw(6, 7, seed=1), draw(4, 6, seed=2)]
    module = network(*weights, activation=nn.Identity)
    product = weights[2] @ weights[1] @ weights[0]
    expected = torch.linalg.matrix_norm(product, ord=ORDERS[norm]).item()
    found = bounds(stacked(module), draw(3, 5), norm).item()
    assert expected * (1 - 1e-11) <= found <= expected * (1 + 1e-15)


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from(NORMS),
)
def test_below_enumeration_and_attained(width, features, outputs, seed, norm):
    first, last = draw(width, features, seed=seed), draw(outputs, width, seed=seed + 100)
    points = draw(400, features, seed=seed + 200)
    module = network(first, last)
    exact = enumerated(first, last, norm)
    jacobians = (last * (points @ first.T > 0)[:, None, :]) @ first
    attained = torch.linalg.matrix_norm(jacobians, ord=ORDERS[norm]).max().item()
    found = bounds(stacked(module), points, norm).item()
    assert found <= exact
    assert attained * (1 - 1e-11) <= found <= attained * (1 + 1e-15)
    general = bounds(stacked(Opaque(module)), points, norm).item()
    assert general <= exact
    assert general >= attained * (1 - 1e-6) or width > 3  # small linear regions may be missed


@pytest.mark.parametrize("depth", [1, 2])
def test_invariance(depth):
    shape = {"input_shape": (6,), "num_classes": 4}
    weights = [draw(9, 6)] + [draw(9, 9, seed=1)] * (depth - 1) + [draw(4, 9, seed=2)]
    assert [tuple(w.shape) for w in weights] == [
        tuple(p.shape) for p in mlp.build(9, depth=depth, **shape).parameters()
    ]
    points = draw(60, 6, seed=3)
    plain = bounds(stacked(network(*weights)), points)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    permuted = [weights[0][order], weights[1][:, order], *weights[2:]]
    factor = torch.linspace(0.1, 10, 9, dtype=torch.float64)
    rescaled = [weights[0] * factor[:, None], weights[1] / factor, *weights[2:]]
    for other in (permuted, rescaled):
        torch.testing.assert_close(
            bounds(stacked(network(*other)), points), plain, rtol=1e-11, atol=0
        )


@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("norm", NORMS)
def test_extreme_scales(scale, norm):
    first, last = draw(5, 4), draw(3, 5, seed=1)
    points = draw(20, 4, seed=2)
    plain = bounds(stacked(network(first, last)), points, norm)
    found = bounds(stacked(network(first * scale, last * scale)), points, norm)
    torch.testing.assert_close(found / scale / scale, plain, rtol=1e-11, atol=0)


def test_independent_of_stack_mates():
    modules = [network(draw(12, 5, seed=i), draw(3, 12, seed=-i)) for i in range(6)]
    points = draw(100, 5)
    for norm in NORMS:
        together = bounds(stacked(*modules), points, norm)
        assert torch.equal(bounds(stacked(modules[4]), points, norm), together[4:5])


def test_metrics():
    modules = [network(draw(12, 5, seed=i), draw(3, 12, seed=9 - i)) for i in range(2)]
    inputs = {"train": draw(31, 5).float(), "test": draw(17, 5, seed=1).float()}
    measured = list(
        lower_jacobian.measure(stacked(*modules), inputs=inputs, norms=NORMS, quantiles=[0.5, 1])
    )
    assert {m.split for m in measured} == {"train", "test"}
    assert {m.norm for m in measured} == set(NORMS)
    for m in measured:
        assert m.values.shape == (2,)
        assert m.values.dtype == torch.float64
        norms = lower_jacobian.jacobian_norms(stacked(*modules), inputs[m.split], norm=m.norm)
        expected = {
            "lower_jacobian": norms.amax(1),
            "jacobian_norm_mean": norms.mean(1),
            "jacobian_norm_rms": norms.square().mean(1).sqrt(),
            "jacobian_norm_q50": norms.quantile(0.5, dim=1),
            "jacobian_norm_q100": norms.amax(1),
        }[m.quantity]
        assert m.direction == ("lower" if m.quantity == "lower_jacobian" else "metric")
        torch.testing.assert_close(m.values, expected, rtol=1e-11, atol=0)
    assert len(measured) == 2 * 3 * 5


def test_right_and_wrong_predictions():
    modules = [network(draw(12, 5, seed=i), draw(3, 12, seed=9 - i)) for i in range(2)]
    stack, inputs = stacked(*modules), {"train": draw(31, 5), "test": draw(17, 5, seed=1)}
    own = torch.stack([module(inputs["train"]).argmax(1) for module in modules])
    labels = {"train": own.clone(), "test": torch.zeros(17, dtype=torch.int64)}
    labels["train"][0, :10] = (own[0, :10] + 1) % 3  # model 0 is wrong there, model 1 nowhere
    measured = {
        (m.quantity, m.split): m
        for m in lower_jacobian.measure(stack, inputs=inputs, labels=labels)
    }
    norms = lower_jacobian.jacobian_norms(stack, inputs["train"])
    right, wrong = (measured[f"jacobian_norm_mean_{name}", "train"] for name in ("right", "wrong"))
    assert right.defined.tolist() == [True, True]
    assert wrong.defined.tolist() == [True, False]
    expected = torch.stack([norms[0, 10:].mean(), norms[1].mean()])
    torch.testing.assert_close(right.values, expected)
    torch.testing.assert_close(wrong.values[0], norms[0, :10].mean())
    norms = lower_jacobian.jacobian_norms(stack, inputs["test"])
    predicted = torch.stack([module(inputs["test"]).argmax(1) for module in modules])
    for i in range(2):
        value = measured["jacobian_norm_mean_wrong", "test"].values[i]
        torch.testing.assert_close(value, norms[i][predicted[i] != 0].mean())


def test_part_of_the_points():
    stack, points = stacked(network(draw(12, 5), draw(3, 12))), draw(31, 5)
    labels = {"train": torch.zeros(31, dtype=torch.int64)}
    part, whole = (
        list(lower_jacobian.measure(stack, inputs={"train": p}, labels=labels, num_points=n))
        for p, n in ((points, 8), (points[:8], None))
    )
    assert [m.values.tolist() for m in part] == [m.values.tolist() for m in whole]
    with pytest.raises(ValueError, match="num_points = 0: allowed are integers >= 1"):
        list(lower_jacobian.measure(stack, inputs={"train": points}, num_points=0))


@pytest.mark.usefixtures("random_state_untouched")
def test_mistakes_are_named():
    stack = stacked(network(draw(4, 3), draw(2, 4)))
    for inputs, message in (
        ({}, "no split"),
        ({"test": draw(5, 4)}, r"test: shape \(5, 4\)"),
        ({"test": draw(0, 3)}, "n >= 1"),
        ({"test": draw(5, 3) / 0}, "test: contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            list(lower_jacobian.measure(stack, inputs=inputs))
    with pytest.raises(ValueError, match=r"quantiles: 50; allowed are numbers in \[0, 1\]"):
        list(lower_jacobian.measure(stack, inputs={"test": draw(5, 3)}, quantiles=[50]))
    with pytest.raises(NotApplicable, match="l3"):
        list(lower_jacobian.measure(stack, inputs={"test": draw(5, 3)}, norms=["l3"]))


def test_biases_that_leave_the_range_of_float64_prove_nothing():
    """Scaled by 2^-1994 the bias is 0: its unit's sign would be taken from the inputs alone."""
    module = nn.Sequential(
        nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
    ).double()
    with torch.no_grad():
        for parameter, value in zip(
            module.parameters(), (1e300, 1e300, -1.0, 1.0, 0.0), strict=True
        ):
            parameter.fill_(value)
    stack = ModelStack.from_modules([module], (1,))
    points = torch.tensor([[[1e-310]]], dtype=torch.float64)  # f(x) = relu(1e600 relu(x) - 1)
    assert float(certify(stack, points, norm="l2")) == 0

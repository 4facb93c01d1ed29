"""The SDP bounds per logit against closed forms, enumeration, and cvxpy with Clarabel."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds import upper_geolip, upper_layer_product, upper_lipsdp
from lipdescent.bounds.geolip import deep
from lipdescent.bounds.geolip.ascent import Ascent
from lipdescent.bounds.geolip.deep import deep_sdp
from lipdescent.bounds.geolip.natural import certificate, natural_sdp
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

SMALL = settings(deadline=None, derandomize=True, max_examples=25)
RELU = (0.0, 1.0)


def stack_of(*weights, activation=nn.ReLU, dtype=torch.float64) -> ModelStack:
    layers: list[nn.Module] = []
    for weight in weights:
        weight = torch.as_tensor(weight, dtype=dtype)
        layers += [
            nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype),
            activation(),
        ]
        layers[-2].weight.data = weight
    return ModelStack.from_modules([nn.Sequential(*layers[:-1])], (weights[0].shape[1],))


def random_weights(seed: int, *sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = itertools.pairwise(sizes)
    return [torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in pairs]


def fgl(first, logit, norm: str, low: float = 0.0, high: float = 1.0) -> float:
    patterns = np.array(list(itertools.product([low, high], repeat=len(first))))
    rows = (patterns * np.asarray(logit)) @ np.asarray(first)
    return float(np.linalg.norm(rows, ord=1 if norm == "linf" else 2, axis=1).max())


def clarabel_natural(first, logit, norm: str, low: float, high: float) -> float:
    """The natural SDP, as in the paper's section 4."""
    a = np.asarray(first).T * np.asarray(logit)
    b = np.hstack([(high - low) / 2 * a, (high + low) / 2 * a.sum(1, keepdims=True)])
    n, h = b.shape
    if norm == "linf":
        x = cp.Variable((n + h, n + h), PSD=True)
        problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(b, x[:n, n:]))), [cp.diag(x) == 1])
        return float(problem.solve(solver="CLARABEL"))
    x = cp.Variable((h, h), PSD=True)
    problem = cp.Problem(cp.Maximize(cp.trace((b.T @ b) @ x)), [cp.diag(x) == 1])
    return float(np.sqrt(problem.solve(solver="CLARABEL")))


def clarabel_deep(
    hidden, logit, low: float, high: float, *, norm: str = "linf", per_layer: bool = False
) -> float:
    """The dual with one multiplier per unit and, in l_inf, per input; or one per hidden layer."""
    sizes = [hidden[0].shape[1], *(len(w) for w in hidden)]
    total = sum(sizes)
    s, multiplier, c = cp.Variable(sizes[0]), cp.Variable(total - sizes[0]), cp.Variable()
    if per_layer:
        shared = [cp.multiply(cp.Variable(), np.ones(size)) for size in sizes[1:]]
        multiplier = cp.hstack(shared)
    if norm == "l2":
        s = cp.multiply(cp.Variable(), np.ones(sizes[0]))
    pick = np.eye(total)
    matrix = pick[:, : sizes[0]] @ cp.diag(s) @ pick[: sizes[0]]
    row, column = sizes[0], 0
    for w in hidden:
        rows = np.zeros((len(w), total))
        rows[:, column : column + w.shape[1]] = np.asarray(w)
        units = pick[row : row + len(w)]
        f, g = units - low * rows, units - high * rows
        weights = cp.diag(multiplier[row - sizes[0] : row - sizes[0] + len(w)])
        matrix = matrix + (f.T @ weights @ g + g.T @ weights @ f) / 2
        row, column = row + len(w), column + w.shape[1]
    e = np.zeros((total, 1))
    e[-len(logit) :, 0] = np.asarray(logit)
    block = cp.bmat([[matrix, -e], [-e.T, cp.reshape(c, (1, 1), order="F")]])
    constraints = [(block + block.T) / 2 >> 0, multiplier >= 0]
    budget = cp.sum(s) if norm == "linf" else s[0]
    problem = cp.Problem(cp.Minimize((budget + c) / 2), constraints)
    return float(problem.solve(solver="CLARABEL"))


@pytest.mark.parametrize(
    ("first", "logit", "linf", "l2"),
    [
        ([[1.0], [-1]], [[1.0, 1]], 1.0, 1.0),  # |x|
        ([[1.0], [-1]], [[1.0, -1]], 2.0, 2.0),  # relu(x) - relu(-x)
        ([[1.0, 1], [1, -1]], [[1.0, 1]], 1 + 2**0.5, 2.0),
        ([[1.0, 0], [0, 1], [-1, -1]], [[1.0, 1, 1]], 2.0, 2**0.5),
    ],
)
def test_exact_cases(first, logit, linf, l2):
    stack = stack_of(torch.tensor(first), torch.tensor(logit))
    for norm, truth in (("linf", linf), ("l2", l2)):
        value = float(upper_geolip.per_logit(stack, norm=norm, tolerance=1e-10))
        assert truth <= value <= truth * (1 + 1e-9)
    (measured,) = upper_geolip.measure(stack, inputs={}, norms=["linf"], seed=0, tolerance=1e-10)
    assert (measured.quantity, measured.direction, measured.norm) == (
        "upper_geolip",
        "upper",
        "linf",
    )
    assert float(measured.values) == pytest.approx(linf, rel=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("low", "high"), [RELU, (0.1, 1.0), (-0.129, 1.129)])
@pytest.mark.parametrize("sizes", [(4, 6, 2), (6, 3, 1), (1, 5, 1)])
def test_one_hidden_layer_equals_clarabel(sizes, low, high, norm):
    first, last = random_weights(sum(sizes), *sizes)
    slopes = (torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))
    bound = upper_geolip.one_hidden_layer(
        first[None], last[None], *slopes, norm=norm, tolerance=1e-8, max_iterations=4096
    )[0]
    for k, value in enumerate(bound.tolist()):
        assert value == pytest.approx(clarabel_natural(first, last[k], norm, low, high), rel=1e-6)
        assert fgl(first, last[k], norm, low, high) <= value


@pytest.mark.parametrize(("low", "high"), [RELU, (0.2, 1.0), (-0.129, 1.129)])
@pytest.mark.parametrize("sizes", [(3, 4, 5, 1), (2, 3, 3, 3, 1), (5, 4, 1)])
def test_deep_equals_clarabel(sizes, low, high):
    weights = random_weights(sum(sizes), *sizes)
    slopes = [(low, high)] * (len(weights) - 1)
    upper, value = deep_sdp([w[None] for w in weights], slopes, tolerance=1e-8)
    truth = clarabel_deep(weights[:-1], weights[-1][0], low, high)
    assert float(upper) == pytest.approx(truth, rel=1e-6)
    assert float(value) == pytest.approx(float(upper), rel=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deep_and_shallow_agree_on_one_hidden_layer(norm):
    first, last = random_weights(0, 20, 30, 3)
    shallow = upper_geolip.per_logit(stack_of(first, last), norm=norm, tolerance=1e-7)[0]
    chains = [first.expand(3, -1, -1), last[:, None]]
    found, _ = deep_sdp(chains, [RELU], norm=norm, tolerance=1e-7)
    assert torch.allclose(found, shallow, rtol=3e-7, atol=0)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_deep_l2_is_lipsdp(slope):
    *hidden, last = random_weights(2, 9, 8, 7, 6, 3)
    stack = stack_of(*hidden, last, activation=lambda: nn.LeakyReLU(slope))
    found = upper_geolip.per_logit(stack, norm="l2", tolerance=1e-7)[0]
    chains = [*(w.expand(3, -1, -1) for w in hidden), last[:, None]]
    truth = upper_lipsdp.lipsdp(chains, slopes=(slope, 1.0), tolerance=1e-7)
    assert torch.allclose(found, truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("sizes", [(3, 4, 5, 1), (5, 4, 1)])
def test_one_multiplier_per_layer_equals_clarabel(sizes, norm):
    weights = random_weights(sum(sizes), *sizes)
    truth = clarabel_deep(weights[:-1], weights[-1][0], *RELU, norm=norm, per_layer=True)
    options = {"norm": norm, "tolerance": 1e-8, "per_layer": True}
    upper, _ = deep_sdp([w[None] for w in weights], [RELU] * (len(sizes) - 2), **options)
    assert float(upper) == pytest.approx(truth, rel=1e-6)
    per_unit = clarabel_deep(weights[:-1], weights[-1][0], *RELU, norm=norm)
    assert per_unit < truth * (1 - 1e-3), "then there is nothing to lose"


@pytest.mark.parametrize("sizes", [(6, 5, 4), (5, 8, 7, 3), (4, 6, 6, 6, 2)])
def test_one_multiplier_per_layer_lies_between_one_per_unit_and_the_product(sizes):
    stack = stack_of(*random_weights(1, *sizes))
    for bound, norm in ((upper_geolip, "linf"), (upper_lipsdp, "l2")):
        unit, layer = (
            float(next(bound.measure(stack, norms=[norm], multipliers=m)).values)
            for m in ("unit", "layer")
        )
        product = float(upper_layer_product.layer_product(stack, norm=norm))
        assert unit < layer <= product
        with pytest.raises(ValueError, match="multipliers: 'both'; allowed are 'unit', 'layer'"):
            next(bound.measure(stack, norms=[norm], multipliers="both"))


def test_deep_with_weights_of_very_different_sizes():
    """Units a thousand times apart, as in ACAS-Xu's networks: no start at one size for all."""
    weights = random_weights(8, 5, 20, 20, 20, 20, 20, 1)
    for weight in weights[1:]:
        weight *= torch.logspace(-2, 1, weight.shape[1], dtype=torch.float64)
    upper, value = deep_sdp([w[None] for w in weights], [RELU] * 5)
    assert float(value) <= float(upper) <= float(value) * (1 + 1e-3)
    product = float(upper_layer_product.layer_product(stack_of(*weights), norm="linf"))
    assert float(upper) < product / 10


@SMALL
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(1, 3)),
    scale=st.sampled_from([1.0, 1e-30, 1e12]),
    zero=st.booleans(),
    twin=st.booleans(),
)
def test_order_of_the_ladder(seed, sizes, scale, zero, twin):
    first, last = random_weights(seed, *sizes)
    first = first * scale
    if zero:
        first[0] = 0
    if twin:
        first[-1] = first[0]
    stack = stack_of(first, last)
    points = torch.randn(200, sizes[0], generator=torch.Generator().manual_seed(seed)).double()
    masks = (points @ first.T > 0).double()
    jacobians = torch.einsum("kh,ph,hn->pkn", last, masks, first)
    product = float(upper_layer_product.layer_product(stack, norm="linf"))
    for norm, order in (("linf", 1), ("l2", 2)):
        value = upper_geolip.per_logit(stack, norm=norm)[0]
        for k in range(sizes[2]):
            exact = fgl(first, last[k], norm)
            sampled = float(jacobians[:, k].norm(p=order, dim=-1).max())
            limit = {"linf": 1.783, "l2": (np.pi / 2) ** 0.5}[norm]
            assert sampled <= exact * (1 + 1e-12)
            assert exact * (1 - 1e-14) <= float(value[k]) <= limit * exact * (1 + 2e-4) + 1e-300
    whole = float(next(upper_geolip.measure(stack, inputs={}, norms=["linf"], seed=0)).values)
    assert whole <= product * (1 + 1e-12)
    best = float(upper_geolip.per_logit(stack).max())
    assert best * (1 - 2e-4) <= whole <= best * (1 + 2e-4)


@SMALL
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=5),
    slope=st.sampled_from([0.0, 0.3]),
)
def test_deep_bound_is_above_all_patterns_and_below_the_product(seed, sizes, slope):
    weights = random_weights(seed, *sizes)
    stack = stack_of(*weights, activation=lambda: nn.LeakyReLU(slope))
    value = float(next(upper_geolip.measure(stack, inputs={}, norms=["linf"], seed=0)).values)
    generator = torch.Generator().manual_seed(seed)
    jacobian = weights[0].expand(500, -1, -1)
    for weight in weights[1:]:
        mask = torch.rand(500, weight.shape[1], 1, generator=generator).double() < 0.5
        jacobian = weight @ torch.where(mask, 1.0, slope).mul(jacobian)
    assert float(jacobian.abs().sum(-1).amax()) <= value
    assert value <= float(upper_layer_product.layer_product(stack, norm="linf")) * (1 + 1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_invariances(depth):
    first, *middle, last = random_weights(3, 6, *[7] * depth, 3)
    truth = upper_geolip.per_logit(stack_of(first, *middle, last), tolerance=1e-8)

    def same(*weights):
        value = upper_geolip.per_logit(stack_of(*weights), tolerance=1e-8)
        return torch.allclose(value, truth, rtol=3e-8, atol=0)

    after = middle[0] if middle else last
    rest = [*middle[1:], last] if middle else []
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert same(first * 1000, after / 1000, *rest)
    assert same(first[order], after[:, order], *rest)
    split = torch.cat([after[:, :1] * 0.3, after[:, :1] * 0.7, after[:, 1:]], 1)
    assert same(torch.cat([first[:1], first]), split, *rest)
    dead_in = (
        torch.cat([first, torch.zeros(1, 6)]),
        torch.cat([after, torch.ones(len(after), 1)], 1),
    )
    assert same(*dead_in, *rest)
    dead_out = (
        torch.cat([first, torch.ones(1, 6)]),
        torch.cat([after, torch.zeros(len(after), 1)], 1),
    )
    assert same(*dead_out, *rest)


def test_a_result_does_not_depend_on_the_rest_of_the_stack():
    generator = torch.Generator().manual_seed(1)
    module = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 4))
    state = {
        k: torch.randn(9, *v.shape, generator=generator)
        * torch.logspace(-3, 3, 9).view(-1, *[1] * v.ndim)
        for k, v in module.state_dict().items()
    }
    stack = ModelStack(module, state, (10,))
    together = next(upper_geolip.measure(stack, inputs={}, norms=["linf"], seed=0)).values
    for i in (0, 4, 8):
        alone = next(
            upper_geolip.measure(stack[i : i + 1], inputs={}, norms=["linf"], seed=5)
        ).values
        assert float(alone) == pytest.approx(float(together[i]), rel=1e-12)


def test_any_iterate_and_any_multipliers_give_a_bound():
    first, last = random_weights(7, 8, 12, 1)
    matrix, _ = upper_geolip.natural_matrix(
        first[None], last[None], *(torch.tensor([s]).double() for s in RELU)
    )
    truth = clarabel_natural(first, last[0], "linf", *RELU)
    for steps in (1, 2, 5):
        upper, value = natural_sdp(matrix, norm="linf", max_iterations=steps)
        assert float(value) <= truth * (1 + 1e-7) <= float(upper) * (1 + 2e-7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        p = torch.rand(8, generator=generator, dtype=torch.float64) + 0.01
        q = torch.rand(13, generator=generator, dtype=torch.float64) + 0.01
        assert float(certificate(matrix[0, 0], p, q, norm="linf")) >= truth * (1 - 1e-7)
    with pytest.raises(ValueError, match="a zero belongs to a row or column that is not zero"):
        certificate(matrix[0, 0], torch.zeros(8).double(), q, norm="linf")


@pytest.mark.parametrize("sizes", [(4, 5, 5, 1), (7, 5, 4, 1)])
def test_any_multipliers_of_a_deep_network_give_a_bound(sizes):
    """Also where the matrix inequality fails: its smallest eigenvalue is paid for."""
    weights = random_weights(5, *sizes)
    truth = clarabel_deep(weights[:-1], weights[-1][0], *RELU)
    small, slopes, exponent, _ = deep.normalised([w[None] for w in weights], [RELU] * 2)
    ascent = Ascent(small, slopes, norm="linf", rank=3)
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 10.0, 1e3, 1e-3):
        noise = [torch.rand(u.shape, generator=generator).double() for u in ascent.units]
        units = [factor * (u + n) for u, n in zip(ascent.units, noise, strict=True)]
        bound = deep._certified(small, slopes, ascent.inputs, units, "linf") * 2.0**exponent
        assert float(bound) >= truth * (1 - 1e-7)


def test_an_ascent_stopped_early_gives_a_bound():
    weights = random_weights(5, 6, 5, 5, 5, 1)
    truth = clarabel_deep(weights[:-1], weights[-1][0], *RELU)
    for steps in (2, 3, 8):
        upper, value = deep_sdp([w[None] for w in weights], [RELU] * 3, max_iterations=steps)
        assert float(value) <= truth * (1 + 1e-7) <= float(upper) * (1 + 2e-7)


def test_certified_where_the_exact_value_is_known_in_rational_numbers():
    """One unit: the constant is |u| |w|_1, summed in exact arithmetic."""
    from fractions import Fraction

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first = torch.randn(1, 17, generator=generator)
        last = torch.randn(1, 1, generator=generator)
        exact = abs(Fraction(float(last))) * sum(abs(Fraction(x)) for x in first[0].tolist())
        value = float(upper_geolip.per_logit(stack_of(first, last, dtype=torch.float32)))
        assert exact <= Fraction(value) <= exact * (1 + Fraction(1, 10**12))


def test_gap_is_what_was_asked_for():
    matrices = torch.stack([
        upper_geolip.natural_matrix(
            first[None], last[None], *(torch.tensor([s]).double() for s in RELU)
        )[0][0]
        for first, last in (random_weights(seed, 40, 96, 3) for seed in range(3))
    ])  # fmt: skip
    for tolerance in (1e-2, 1e-4, 1e-6):
        upper, value = natural_sdp(matrices, norm="linf", tolerance=tolerance)
        assert bool((upper <= value * (1 + 1.001 * tolerance)).all())


def test_linear_and_zero_networks():
    (weight,) = random_weights(0, 4, 3)
    linear = ModelStack.from_modules([nn.Sequential(nn.Linear(4, 3).double())], (4,))
    linear.module[0].weight.data = weight
    linear = ModelStack.from_modules([linear.module], (4,))
    rows = weight.abs().sum(1)
    assert torch.allclose(upper_geolip.per_logit(linear)[0], rows, rtol=1e-12)
    zero = stack_of(torch.zeros(3, 4), torch.ones(2, 3))
    assert upper_geolip.per_logit(zero).tolist() == [[0.0, 0.0]]
    deep_zero = stack_of(torch.ones(3, 4), torch.zeros(3, 3), torch.ones(2, 3))
    assert upper_geolip.per_logit(deep_zero).tolist() == [[0.0, 0.0]]


def test_merged_layers_are_covered():
    """Linear-Linear-BatchNorm1d: the chain rounds, the bound stays above the merged truth."""
    torch_layers = [nn.Linear(5, 6), nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2)]
    module = nn.Sequential(*torch_layers).double().eval()
    for index, weight in zip((0, 1, 4), random_weights(2, 5, 6, 7, 2), strict=True):
        module[index].weight.data = weight
    first = module[1].weight @ module[0].weight / (1 + module[2].eps) ** 0.5
    value = upper_geolip.per_logit(ModelStack.from_modules([module], (5,)), tolerance=1e-7)[0]
    plain = upper_geolip.per_logit(
        stack_of(first.detach(), module[4].weight.detach()), tolerance=1e-7
    )[0]
    assert torch.allclose(value, plain, rtol=1e-6)


def test_global_random_state_is_untouched():
    stacks = [stack_of(*random_weights(0, *sizes)) for sizes in ((5, 6, 3), (5, 6, 4, 3))]
    before = torch.get_rng_state()
    for stack in stacks:
        upper_geolip.per_logit(stack)
    assert torch.equal(before, torch.get_rng_state())


def test_what_does_not_fit_is_refused():
    stack = stack_of(*random_weights(0, 3, 4, 2))
    with pytest.raises(NotApplicable, match="l1"):
        list(upper_geolip.measure(stack, inputs={}, norms=["l1"], seed=0))
    with pytest.raises(ValueError, match="tolerance: 0"):
        upper_geolip.per_logit(stack, tolerance=0)
    stack.state["0.weight"][0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        upper_geolip.per_logit(stack)
    larger = stack_of(*random_weights(0, 3, 4, 4, 2))
    with pytest.raises(NotApplicable, match="11 inputs and hidden units"):
        upper_geolip.per_logit(larger, max_units=10)
    conv = ModelStack.from_modules([nn.Sequential(nn.Conv2d(1, 1, 3))], (1, 5, 5))
    with pytest.raises(NotApplicable, match="Conv2d"):
        upper_geolip.per_logit(conv)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    for sizes in ((10, 30, 4), (6, 8, 8, 2)):
        stack = stack_of(*random_weights(4, *sizes))
        cpu = upper_geolip.per_logit(stack, tolerance=1e-6)
        cuda = upper_geolip.per_logit(stack.to(device="cuda"), tolerance=1e-6)
        assert torch.allclose(cpu, cuda.cpu(), rtol=1e-9, atol=0)

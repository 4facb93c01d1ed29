"""Local bounds against Jacobians and quotients inside the ball, and against the global bounds."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds import upper_geolip, upper_lipsdp, upper_local
from lipdescent.bounds.lipsdp.per_unit import lipsdp_per_unit
from lipdescent.bounds.upper_local import local_bounds
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

SMALL = settings(deadline=None, derandomize=True, max_examples=25)
ORDER = {"l2": 2, "linf": torch.inf}


def random_stack(seed: int, *sizes: int, slope: float = 0.0, bias: bool = True) -> ModelStack:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=bias), nn.LeakyReLU(slope) if slope else nn.ReLU()]
    module = nn.Sequential(*layers[:-1]).double()
    generator = torch.Generator().manual_seed(seed)
    state = {
        k: torch.randn(1, *v.shape, generator=generator, dtype=torch.float64)
        for k, v in module.state_dict().items()
    }
    return ModelStack(module, state, (sizes[0],))


def in_ball(generator, center, radius: float, norm: str, count: int) -> torch.Tensor:
    x = torch.randn(count, len(center), generator=generator, dtype=torch.float64)
    x = x / torch.linalg.vector_norm(x, ord=ORDER[norm], dim=1, keepdim=True)
    length = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    length[: count // 2] = 1.0
    return center + radius * x * length


def quotients(stack: ModelStack, points: torch.Tensor, norm: str) -> float:
    """Largest |f(a) - f(b)| / |a - b| over neighbours in ``points`` and close pairs."""
    pairs = [
        (points, points.roll(1, 0)),
        (points[1:], points[1:] + 1e-6 * (points[0] - points[1:])),
    ]
    best = 0.0
    for a, b in pairs:
        top = torch.linalg.vector_norm((stack(a) - stack(b))[0], ord=ORDER[norm], dim=-1)
        best = max(
            best, float((top / torch.linalg.vector_norm(a - b, ord=ORDER[norm], dim=-1)).max())
        )
    return best


@SMALL
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 6), min_size=3, max_size=5),
    radius=st.sampled_from([1e-3, 0.1, 1.0]),
    norm=st.sampled_from(["l2", "linf"]),
    slope=st.sampled_from([0.0, 0.2, -0.5]),
)
def test_no_quotient_in_the_ball_is_above(seed, sizes, radius, norm, slope):
    stack = random_stack(seed, *sizes, slope=slope)
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(2, sizes[0], generator=generator, dtype=torch.float64)
    bounds = local_bounds(stack, centers, radius=radius, norm=norm)[0]
    for center, bound in zip(centers, bounds, strict=True):
        points = in_ball(generator, center, radius, norm, 200)
        assert quotients(stack, points, norm) <= float(bound) * (1 + 1e-7)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_radius_zero_is_the_jacobian_and_infinity_the_global_bound(norm):
    stack = random_stack(0, 5, 9, 3)
    points = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first, last = stack.state["0.weight"][0], stack.state["2.weight"][0]
    masks = (points @ first.T + stack.state["0.bias"][0] > 0).double()
    jacobians = (last * masks[:, None]) @ first
    truth = torch.linalg.matrix_norm(jacobians, ord=ORDER[norm])
    assert torch.allclose(local_bounds(stack, points, radius=0, norm=norm)[0], truth, rtol=1e-11)
    far = local_bounds(stack, points, radius=1e6, norm=norm, tolerance=1e-8)[0]
    if norm == "linf":
        whole = upper_geolip.per_logit(stack, tolerance=1e-8).amax()
    else:
        zero = first.new_zeros(1, 9)
        whole = lipsdp_per_unit(first[None], last[None], zero, zero + 1, tolerance=1e-8)[0]
    assert torch.allclose(far, whole.expand(4), rtol=3e-8)


@pytest.mark.parametrize("sizes", [(5, 12, 3), (4, 8, 8, 2)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_bounds_grow_with_the_radius(sizes, norm):
    stack = random_stack(1, *sizes)
    points = torch.randn(3, sizes[0], generator=torch.Generator().manual_seed(1)).double()
    found = [
        local_bounds(stack, points, radius=r, norm=norm, tolerance=1e-6)[0]
        for r in (0, 0.01, 0.1, 1, 10)
    ]
    for small, large in itertools.pairwise(found):
        assert bool((small <= large * (1 + 2e-6)).all())
    assert bool((found[0] < found[-1]).any())  # not all: the bound on the whole space caps them


def test_a_linear_piece_is_bounded_exactly():
    """|x| = relu(x) + relu(-x) and the kink at 0: 1 on either side, 1 across it."""
    stack = random_stack(0, 1, 2, 1, bias=False)
    stack.state["0.weight"][0] = torch.tensor([[1.0], [-1.0]])
    stack.state["2.weight"][0] = torch.tensor([[1.0, -1.0]])  # x itself: FGL 2
    point = torch.tensor([[1.0]], dtype=torch.float64)
    assert float(local_bounds(stack, point, radius=0.5)) == pytest.approx(1, rel=1e-12)
    assert float(local_bounds(stack, point, radius=2.0)) == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_kink_near_the_edge_of_the_ball_is_seen(norm):
    """relu(relu(x + 10) - 10.9) and its mirror image: flat around 0 up to |x| = .9."""
    stack = random_stack(0, 1, 2, 2, 1)
    state = stack.state
    state["0.weight"][0], state["0.bias"][0] = torch.tensor([[1.0], [-1]]), torch.tensor([10.0, 10])
    state["2.weight"][0], state["2.bias"][0] = torch.eye(2), torch.tensor([-10.9, -10.9])
    state["4.weight"][0] = torch.tensor([[1.0, 1.0]])
    point = torch.zeros(1, 1, dtype=torch.float64)
    assert float(local_bounds(stack, point, radius=0.89 / 2**0.5, norm=norm)) < 1e-300
    assert float(local_bounds(stack, point, radius=0.91, norm=norm)) >= 1.0


def clarabel_lipsdp(first, last, low, high) -> float:
    """LipSDP-Neuron (Fazlyab et al. 2019, theorem 2) with slopes per unit."""
    units, inputs = first.shape
    t, bound = cp.Variable(units, nonneg=True), cp.Variable()
    total = inputs + units
    rows = np.hstack([first, np.zeros((units, units))])
    pick = np.hstack([np.zeros((units, inputs)), np.eye(units)])
    f, g = pick - low[:, None] * rows, pick - high[:, None] * rows
    middle = (f.T @ cp.diag(t) @ g + g.T @ cp.diag(t) @ f) / 2
    top = np.zeros((total, total))
    top[:inputs, :inputs] = np.eye(inputs)
    out = np.hstack([np.zeros((len(last), inputs)), last])
    matrix = bound * top + middle - out.T @ out
    problem = cp.Problem(cp.Minimize(bound), [(matrix + matrix.T) / 2 >> 0])
    return float(np.sqrt(problem.solve(solver="CLARABEL")))


@pytest.mark.parametrize("seed", range(4))
def test_slopes_per_unit_equal_clarabel(seed):
    rng = np.random.default_rng(seed)
    first, last = rng.standard_normal((6, 4)), rng.standard_normal((3, 6))
    low = np.array([0, 0, 0.0, 0.7, -0.2, 0.3])
    high = np.array([1, 1, 0.2, 1.0, 1.1, 0.8])
    tensors = (torch.from_numpy(x)[None] for x in (first, last, low, high))
    upper, value, _ = lipsdp_per_unit(*tensors, tolerance=1e-8, max_iterations=4096)
    truth = clarabel_lipsdp(first, last, low, high)
    assert float(upper) == pytest.approx(truth, rel=1e-6)
    assert float(value) <= float(upper) <= float(value) * (1 + 1e-7)


def test_fixed_slopes_are_the_norm_of_the_matrix():
    rng = np.random.default_rng(0)
    first, last = (torch.from_numpy(rng.standard_normal(s))[None] for s in ((7, 5), (4, 7)))
    slopes = torch.from_numpy(rng.uniform(-1, 1, (1, 7)))
    upper, _, slack = lipsdp_per_unit(first, last, slopes, slopes)
    truth = np.linalg.norm((last[0] * slopes) @ first[0], ord=2)
    assert truth <= float(upper) <= truth * (1 + 1e-12)
    assert float(slack.abs().max()) == 0


def test_measure_takes_the_largest_and_the_mean_over_chosen_points():
    stack = random_stack(2, 4, 6, 3)
    stack = ModelStack(
        stack.module, {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in stack.state.items()}, (4,)
    )
    data = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    found = list(
        upper_local.measure(
            stack, inputs={"train": data}, norms=["l2", "linf"], seed=3, radius=0.2, num_points=20
        )
    )
    assert torch.equal(before, torch.get_rng_state())
    assert [(m.quantity, m.direction, m.norm, m.split) for m in found] == [
        (name, "metric", norm, "train")
        for norm in ("l2", "linf")
        for name in ("upper_local", "upper_local_mean")
    ]
    each = local_bounds(stack, data, radius=0.2)
    assert torch.allclose(found[0].values, each.amax(1))
    assert torch.allclose(found[1].values, each.mean(1))
    fewer = next(
        upper_local.measure(stack, inputs={"train": data}, seed=3, radius=0.2, num_points=5)
    )
    assert bool((fewer.values <= found[0].values).all())


def test_what_does_not_fit_is_refused():
    stack = random_stack(0, 3, 4, 2)
    data = torch.zeros(2, 3)
    with pytest.raises(NotApplicable, match="no data"):
        list(upper_local.measure(stack, inputs={}, seed=0))
    with pytest.raises(NotApplicable, match="l1"):
        list(upper_local.measure(stack, inputs={"train": data}, norms=["l1"], seed=0))
    with pytest.raises(ValueError, match="radius: -1"):
        local_bounds(stack, data, radius=-1)
    with pytest.raises(ValueError, match="expected \\(n, 3\\)"):
        local_bounds(stack, torch.zeros(2, 4), radius=1)
    with pytest.raises(ValueError, match="expected \\(n, 3\\)"):
        local_bounds(stack, torch.zeros(0, 3), radius=1)
    with pytest.raises(ValueError, match="NaN"):
        local_bounds(stack, torch.full((1, 3), torch.nan), radius=1)
    with pytest.raises(TypeError, match="int64"):
        local_bounds(stack, torch.zeros(1, 3, dtype=torch.int64), radius=1)
    tanh = ModelStack.from_modules(
        [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))], (3,)
    )
    with pytest.raises(NotApplicable, match="ReLU"):
        local_bounds(tanh, data, radius=1)


@pytest.mark.parametrize("sizes", [(5, 12, 3), (3, 6, 6, 2), (3, 5, 5, 5, 2)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_ball_has_more_than_the_whole_space(sizes, norm):
    """201.5 was printed for balls on which the global LipSDP bound is 191.4."""
    stack = random_stack(7, *sizes)
    points = torch.randn(4, sizes[0], generator=torch.Generator().manual_seed(1)).double()
    bound = upper_lipsdp if norm == "l2" else upper_geolip
    (whole,) = next(bound.measure(stack, norms=[norm])).values.tolist()
    for radius in (0.0, 0.3, 1e3):
        assert float(local_bounds(stack, points, radius=radius, norm=norm).max()) <= whole

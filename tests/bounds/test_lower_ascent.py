"""Ascent: never above enumeration, at least its start, and often the exact constant."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.bounds import lower_ascent, lower_jacobian
from lipdescent.bounds.jacobians.ascent import dual_vectors
from lipdescent.bracketing.bracket import bracket
from lipdescent.stacks.model_stack import ModelStack

ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1}
NORMS = tuple(ORDERS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network(widths, seed: int = 0, bias: bool = False, activation=nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(n_in, n_out, bias=bias).double()
        layer.weight.data = draw(n_out, n_in, seed=100 * seed + i)
        if bias:
            layer.bias.data = draw(n_out, seed=100 * seed + 50 + i)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def exact(module: nn.Sequential, norm: str, slope: float = 0.0) -> float:
    """Maximum over all masks of one hidden layer: the constant, or FGL where not all exist."""
    first, last = module[0].weight.detach(), module[2].weight.detach()
    masks = torch.tensor(list(itertools.product((slope, 1.0), repeat=len(first)))).double()
    return torch.linalg.matrix_norm((last * masks[:, None]) @ first, ord=ORDERS[norm]).max().item()


def ascent(module, points, norm="l2", **options) -> float:
    stack = ModelStack.from_modules([module], tuple(points.shape[1:]))
    measured = list(lower_ascent.measure(stack, inputs={"a": points}, norms=[norm], **options))
    assert len(measured) == 1
    known = type(module) is not Unknown
    assert (measured[0].split, measured[0].direction) == ("", "lower" if known else "estimate")
    return measured[0].values.item()


def from_data(module, points, norm="l2") -> float:
    stack = ModelStack.from_modules([module], tuple(points.shape[1:]))
    measured = lower_jacobian.measure(stack, inputs={"a": points}, norms=[norm])
    return next(m.values.item() for m in measured if m.quantity == "lower_jacobian")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bias", [False, True])
def test_exact_where_every_mask_exists(norm, bias):
    """10 units of 12 inputs: W1 has full row rank, so the largest mask is the exact constant."""
    for seed in range(3):
        module = network((12, 10, 4), seed=seed, bias=bias)
        best = exact(module, norm)
        found = ascent(module, draw(20, 12), norm, restarts=20, steps=60)
        assert best * (1 - 1e-11) <= found <= best


@settings(max_examples=15)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_between_the_data_and_all_masks(width, features, outputs, bias, seed):
    module = network((features, width, outputs), seed=seed, bias=bias)
    points = draw(12, features, seed=seed)
    for norm in NORMS:
        found = ascent(module, points, norm, steps=5)
        assert from_data(module, points, norm) <= found <= exact(module, norm)


def test_leaky():
    module = network((8, 6, 3), activation=lambda: nn.LeakyReLU(0.25))
    best = exact(module, "l2", slope=0.25)
    found = ascent(module, draw(20, 8), restarts=10, steps=40)
    assert best * (1 - 1e-11) <= found <= best


@pytest.mark.parametrize("norm", NORMS)
def test_gains_on_wide_and_deep_networks(norm):
    points = draw(50, 10)
    for widths in ((10, 60, 4), (10, 30, 30, 4)):
        module = network(widths)
        start, found = from_data(module, points, norm), ascent(module, points, norm)
        product = 1.0
        for layer in module[::2]:
            product *= torch.linalg.matrix_norm(layer.weight.detach(), ord=ORDERS[norm]).item()
        assert 1.02 * start < found < product


class Unknown(nn.Module):
    """A network that is no chain: convolution and GELU."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.conv, self.last = nn.Conv1d(1, 4, 3), nn.Linear(4 * 8, 3)
        self.conv.weight.data, self.last.weight.data = draw(4, 1, 3).float(), draw(3, 32).float()

    def forward(self, x):
        return self.last(torch.nn.functional.gelu(self.conv(x)).flatten(1))


@pytest.mark.parametrize("norm", NORMS)
def test_any_module(norm):
    """GELU's slopes are in [-.129, 1.129]; the convolution as a dense matrix."""
    module, points = Unknown(), draw(30, 1, 10)
    dense = torch.zeros(32, 10, dtype=torch.float64)
    for channel in range(4):
        for i in range(8):
            dense[8 * channel + i, i : i + 3] = module.conv.weight.detach()[channel, 0]
    last = module.last.weight.detach().double()
    upper = torch.linalg.matrix_norm(dense, ord=ORDERS[norm])
    upper = 1.1289041453 * upper * torch.linalg.matrix_norm(last, ord=ORDERS[norm])
    found = ascent(module, points, norm)
    assert from_data(module, points, norm) * (1 - 1e-9) <= found <= upper


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 4), (4, 1)])
def test_dual_vectors(norm, shape):
    matrices = draw(9, *shape)
    left, right, value = dual_vectors(matrices, norm)
    expected = torch.linalg.matrix_norm(matrices, ord=ORDERS[norm])
    torch.testing.assert_close(value, expected)
    product = (left[:, None] @ matrices @ right[..., None]).flatten()
    torch.testing.assert_close(product.abs(), expected)
    dual = {"l2": 2, "linf": 1, "l1": torch.inf}[norm]
    assert (torch.linalg.vector_norm(left, ord=dual, dim=-1) <= 1 + 1e-12).all()
    assert (torch.linalg.vector_norm(right, ord=ORDERS[norm], dim=-1) <= 1 + 1e-12).all()


def test_reproducible_and_independent_of_stack_mates():
    before = torch.get_rng_state()
    modules = [network((6, 14, 3), seed=i) for i in range(4)]
    points = draw(40, 6)
    stack = ModelStack.from_modules(modules, (6,))
    runs = [
        next(lower_ascent.measure(stack, inputs={"a": points}, seed=s)).values for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    alone = ModelStack.from_modules(modules[2:3], (6,))
    assert torch.equal(next(lower_ascent.measure(alone, inputs={"a": points})).values, runs[0][2:3])
    assert torch.equal(torch.get_rng_state(), before)


def test_degenerate_networks_and_data():
    assert ascent(network((1, 1, 1)), torch.zeros(1, 1)) >= 0
    dead = network((3, 4, 2))
    dead[0].weight.data.zero_()
    assert ascent(dead, draw(5, 3)) == 0
    dead[2].weight.data.zero_()
    assert ascent(dead, draw(5, 3), "linf") == 0


@pytest.mark.parametrize("option", ["restarts", "steps", "num_candidates"])
def test_mistakes_are_named(option):
    with pytest.raises(ValueError, match=f"{option} = 0: allowed are integers >= 1"):
        ascent(network((3, 4, 2)), draw(5, 3), **{option: 0})
    stack = ModelStack.from_modules([network((3, 4, 2))], (3,))
    with pytest.raises(ValueError, match="no split"):
        list(lower_ascent.measure(stack, inputs={}))


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_map_has_no_surrogate_to_climb(norm):
    module = network((4, 3))
    expected = torch.linalg.matrix_norm(module[0].weight.detach(), ord=ORDERS[norm]).item()
    found = ascent(module, draw(3, 4), norm)
    assert expected * (1 - 1e-12) <= found <= expected


def dead(kind: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Networks that are constant around all normal points, but not everywhere."""
    if kind == "convolution":
        parts = [nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.ReLU()]
        shape: tuple[int, ...] = (2, 6)
    elif kind == "hidden":
        parts, shape = [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)], (3,)
    else:
        parts, shape = [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2), nn.ReLU()], (3,)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in parts:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    with torch.no_grad():
        parts[0 if kind == "hidden" else -2].bias.fill_(-50.0)
    return nn.Sequential(*parts).double().eval(), shape


@pytest.mark.parametrize("kind", ["output", "hidden", "convolution"])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_a_network_that_is_off_at_every_point_is_climbed_out_of(kind, norm):
    """0 was printed, "no change exceeds the proven rounding error": there was no change at all."""
    module, shape = dead(kind)
    methods = ["lower_jacobian", "lower_ascent", "upper_layer_product"]
    frame = bracket(module, shape, norm=norm, methods=methods).table.set_index("quantity")
    assert frame.value["lower_jacobian"] == 0
    assert "the Jacobian is 0 at all" in frame.reason["lower_jacobian"]
    assert 0.05 * frame.value["upper_layer_product"] < frame.value["lower_ascent"]
    assert frame.value["lower_ascent"] <= frame.value["upper_layer_product"]
    assert not frame.reason["lower_ascent"]


def test_a_network_that_is_off_everywhere_says_so():
    module, shape = dead("output")
    with torch.no_grad():
        module[2].weight.copy_(-module[2].weight.abs())
    frame = bracket(module, shape, methods=["lower_ascent", "lower_pairs"]).table.set_index(
        "quantity"
    )
    assert frame.value["lower_ascent"] == frame.value["lower_pairs"] == 0
    assert "search reached" in frame.reason["lower_ascent"]
    assert "no two of them" in frame.reason["lower_pairs"]


def told(stack: ModelStack, inputs: dict[str, torch.Tensor], norm: str) -> dict:
    """What ``lower_jacobian`` says of where its norms are largest."""
    found = lower_jacobian.measure(stack, inputs=inputs, norms=[norm])
    return {norm: {m.split: m.largest_at for m in found if m.quantity == "lower_jacobian"}}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [20, 40])
def test_where_the_norms_are_largest_may_be_known(norm, width):
    """Of narrow and of wide networks, whose norms are taken in float64 and in float32."""
    modules = [network((6, width, width, 4), seed=i, bias=True) for i in range(3)]
    stack = ModelStack.from_modules(modules, (6,))
    inputs = {"train": draw(300, 6), "test": draw(90, 6, seed=1)}
    options = {"inputs": inputs, "norms": [norm], "populations": 2, "rounds": 2, "steps": 2}
    largest = told(stack, inputs, norm)
    for split, points in inputs.items():
        for index, module in enumerate(modules):
            jacobians = torch.func.vmap(torch.func.jacrev(module))(points).detach()
            expected = torch.linalg.matrix_norm(jacobians, ord=ORDERS[norm]).topk(48).indices
            assert torch.equal(largest[norm][split][index].sort()[0], expected.sort()[0])
    alone = next(lower_ascent.measure(stack, **options)).values
    known = next(lower_ascent.measure(stack, largest=largest, **options)).values
    assert torch.equal(known, alone)


@pytest.mark.parametrize("at_kinks", [0.0, 1.0])
def test_points_that_prove_nothing_may_be_said_to_be_the_largest(at_kinks):
    """With a unit at its kink there, at the candidates too, all norms are taken."""
    module = network((6, 20, 20, 4))
    with torch.no_grad():
        module[0].weight[0] = torch.eye(6, dtype=torch.float64)[0]
    points = draw(300, 6)
    points[:, 0] += torch.sign(points[:, 0])
    index = lower_ascent._candidates(points, 20, 0)
    points[index] = at_kinks * points[index]
    points[index, 0] = 0
    stack = ModelStack.from_modules([module], (6,))
    wrong = {"l2": {"a": index.repeat(2)[None]}}
    options = {"inputs": {"a": points}, "populations": 1, "rounds": 1, "num_candidates": 20}
    found = next(lower_ascent.measure(stack, largest=wrong, **options)).values.item()
    jacobians = torch.func.vmap(torch.func.jacrev(module))(points).detach()
    largest = torch.linalg.matrix_norm(jacobians, ord=2)
    assert set(largest.topk(3).indices.tolist()).isdisjoint(index.tolist())
    assert found >= largest.max().item() * (1 - 1e-12)


def test_of_few_units_or_one_hidden_layer_nothing_is_told():
    for widths in ((6, 8, 8, 3), (6, 40, 3)):
        stack = ModelStack.from_modules([network(widths)], (6,))
        assert told(stack, {"a": draw(30, 6)}, "l2") == {"l2": {"a": None}}

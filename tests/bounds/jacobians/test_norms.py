"""Jacobian norms against autograd and LAPACK; their largest eigenvalues against LAPACK."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipdescent.architectures import cnn, mlp
from lipdescent.arithmetic.eigenvalues import largest_eigenvalue
from lipdescent.bounds.jacobians import norms
from lipdescent.bounds.jacobians.chains import largest_roots, squared
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain

NORMS = ("l2", "linf", "l1")


def seeded(build, seed: int) -> nn.Module:
    """``build()`` with weights drawn by ``seed``, the global generator untouched."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        module = build()
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan**0.5
    return module


def points(count: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def reference(module: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """One backward pass per logit, LAPACK's singular values: no example depends on another."""
    x = inputs.double().requires_grad_()
    y = module.double().eval()(x).flatten(1)
    rows = [torch.autograd.grad(v, x, retain_graph=True)[0].flatten(1) for v in y.sum(0)]
    jacobian = torch.stack(rows, 1)
    orders = {"l2": 2, "linf": torch.inf, "l1": 1}
    return {n: torch.linalg.matrix_norm(jacobian, ord=orders[n]) for n in NORMS}


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3)
        self.last = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.nn.functional.gelu(self.norm(self.conv(x)))
        return self.last(torch.nn.functional.max_pool1d(x, 2).flatten(1))


CASES = {
    "one hidden": ((6,), lambda: mlp.build(9, input_shape=(6,), num_classes=3)),
    "wide": ((6,), lambda: mlp.build(40, input_shape=(6,), num_classes=3, bias=True)),
    "more outputs": ((3,), lambda: mlp.build(30, input_shape=(3,), num_classes=7)),
    "many outputs": ((20,), lambda: mlp.build(30, input_shape=(20,), num_classes=18)),
    "one output": ((5,), lambda: mlp.build(8, input_shape=(5,), num_classes=1, bias=True)),
    "one input": ((1,), lambda: mlp.build(8, input_shape=(1,), num_classes=3, bias=True)),
    "image": ((2, 3), lambda: mlp.build(8, input_shape=(2, 3), num_classes=3)),
    "deep": ((6,), lambda: mlp.build(9, input_shape=(6,), num_classes=3, depth=3, bias=True)),
    "linear": ((6,), lambda: nn.Linear(6, 3)),
    "leaky, nested, end": (
        (6,),
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(6, 9), nn.LeakyReLU(0.1), nn.Dropout()),
            nn.Linear(9, 4),
            nn.LeakyReLU(0.01),
        ),
    ),
    "two linear": ((6,), lambda: nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 4), nn.ReLU())),
    "smooth": ((2, 8), Smooth),
    "tanh": ((5,), lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))),
    "Lanczos": ((20,), lambda: nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 140))),
    "100 logits": ((3, 8, 8), lambda: cnn.build(2, input_shape=(3, 8, 8), num_classes=100)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_autograd(name):
    shape, build = CASES[name]
    modules = [seeded(build, seed) for seed in (1, 2)]
    stack = ModelStack.from_modules(modules, shape)
    assert (chain(stack) is None) == (name in ("smooth", "tanh", "Lanczos", "100 logits"))
    inputs = points(15, shape)
    found = jacobian_norms(stack, inputs, norms=NORMS)
    for index, module in enumerate(modules):
        for norm, expected in reference(module, inputs).items():
            assert found[norm].shape == (2, 15)
            torch.testing.assert_close(found[norm][index], expected, rtol=1e-12, atol=1e-12)


def test_a_part_of_the_points_at_a_time(monkeypatch):
    """As memory has it; 100 logits and 3 x 8 x 8 inputs by Lanczos too."""
    shape, build = CASES["100 logits"]
    stack = ModelStack.from_modules([seeded(build, 1)], shape)
    inputs = points(7, shape)
    expected = jacobian_norms(stack, inputs, norms=NORMS)
    monkeypatch.setitem(norms._CHUNK_BYTES, "cpu", 2**20)
    for norm, values in jacobian_norms(stack, inputs, norms=NORMS).items():
        torch.testing.assert_close(values, expected[norm], rtol=1e-12, atol=0)
    monkeypatch.setattr(norms, "_MANY_OUTPUTS", 99)
    by_lanczos = jacobian_norms(stack, inputs, norms=["l2"])["l2"]
    torch.testing.assert_close(by_lanczos, expected["l2"], rtol=1e-10, atol=0)


def test_not_a_chain():
    relu = nn.ReLU()
    hooked = mlp.build(4, input_shape=(3,), num_classes=2)
    hooked[1].register_forward_hook(lambda module, args, output: 2 * output)
    for module in (
        nn.Sequential(relu, nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU6(), nn.Linear(3, 2)),
        hooked,
    ):
        stack = ModelStack.from_modules([module], (3,))
        assert chain(stack) is None
        found = jacobian_norms(stack, points(5, (3,)), norms=["l2"])["l2"][0]
        torch.testing.assert_close(found, reference(module, points(5, (3,)))["l2"])
    shared = nn.Linear(3, 3)
    assert chain(ModelStack.from_modules([nn.Sequential(shared, relu, shared)], (3,))) is None
    repeated = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    assert len(chain(ModelStack.from_modules([repeated], (3,))).weights) == 3


@pytest.mark.parametrize("name", ["one hidden", "wide", "deep", "many outputs", "smooth"])
def test_independent_of_stack_mates(name):
    shape, build = CASES[name]
    modules = [seeded(build, seed) for seed in range(5)]
    together = jacobian_norms(ModelStack.from_modules(modules, shape), points(300, shape))["l2"]
    for index in (0, 3):
        alone = ModelStack.from_modules([modules[index]], shape)
        assert torch.equal(jacobian_norms(alone, points(300, shape))["l2"][0], together[index])


@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("name", ["one hidden", "deep"])
def test_extreme_scales(name, scale):
    shape = (6,)
    depth = 1 if name == "one hidden" else 2
    module = seeded(lambda: mlp.build(9, input_shape=shape, num_classes=3, depth=depth), 0).double()
    plain = jacobian_norms(ModelStack.from_modules([module], shape), points(20, shape))["l2"]
    module[0].weight.data *= scale
    found = jacobian_norms(ModelStack.from_modules([module], shape), points(20, shape))["l2"]
    torch.testing.assert_close(found / scale, plain, rtol=1e-12, atol=0)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 10**6), st.integers(-100, 100))
def test_largest_eigenvalue(size, rank, seed, power):
    factor = points(30, (size, rank), seed) * 10.0**power
    factor[0] = 0
    factor[1, :, 1:] = 0
    factor[2, 1:] *= 1e-12
    matrices = factor @ factor.mT
    matrices[3] = 10.0**power * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.eigvalsh(matrices)[:, -1]
    found = largest_eigenvalue(matrices)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    if size <= 16:  # larger ones go to LAPACK
        assert torch.equal(largest_eigenvalue(matrices[7:9]), found[7:9])


@pytest.mark.parametrize("size", [2, 3, 10, 16])
def test_one_eigenvalue_and_entries_of_all_sizes(size):
    """v v^T, whose eigenvalue is |v|^2: as of a softmax that is nearly certain of its class."""
    generator = torch.Generator().manual_seed(0)
    v = 10.0 ** (-40 * torch.rand(500, size, generator=generator, dtype=torch.float64))
    found = largest_eigenvalue(v[:, :, None] * v[:, None])
    torch.testing.assert_close(found, v.square().sum(1), rtol=1e-13, atol=0)


def test_close_eigenvalues():
    """Clusters, where Laguerre's iteration is slow."""
    basis = torch.linalg.qr(points(40, (10, 10)))[0]
    values = torch.ones(40, 10, dtype=torch.float64)
    values[:, 5:] -= 10.0 ** -torch.arange(1, 41, dtype=torch.float64)[:, None] / 3
    values[:, 8:] = 0
    found = largest_eigenvalue(basis @ torch.diag_embed(values) @ basis.mT)
    torch.testing.assert_close(found, torch.ones(40, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 16])
@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-5])
def test_all_eigenvalues_in_one_cluster(size, spread):
    """As of a network that keeps lengths: a step of Laguerre's from afar undercuts all of them."""
    basis = torch.linalg.qr(points(30, (size, size)))[0]
    factor = basis * (1 + spread * points(30, (size,), 1))[:, None]
    matrices = factor @ factor.mT
    expected = torch.linalg.eigvalsh(matrices)[:, -1]
    torch.testing.assert_close(largest_eigenvalue(matrices), expected, rtol=3e-14, atol=0)


def test_mistakes_are_named():
    module = mlp.build(4, input_shape=(3,), num_classes=2)
    stack = ModelStack.from_modules([module], (3,))
    with pytest.raises(ValueError, match=r"shape \(5, 4\), expected \(n, 3\)"):
        jacobian_norms(stack, points(5, (4,)))
    with pytest.raises(ValueError, match="n >= 1"):
        jacobian_norms(stack, points(0, (3,)))
    with pytest.raises(ValueError, match="points: contains NaN"):
        jacobian_norms(stack, points(5, (3,)) * float("nan"))
    with pytest.raises(TypeError, match="int64"):
        jacobian_norms(stack, torch.ones(5, 3, dtype=torch.int64))
    with pytest.raises(NotApplicable, match="'l3'"):
        jacobian_norms(stack, points(5, (3,)), norms=["l3"])
    stack.state["0.weight"][0, 1, 1] = float("inf")
    with pytest.raises(ValueError, match=r"infinite weights in models \[0\]"):
        jacobian_norms(stack, points(5, (3,)))


def test_global_generator_untouched():
    before = torch.get_rng_state()
    stack = ModelStack.from_modules([seeded(CASES["Lanczos"][1], 0)], (20,))
    jacobian_norms(stack, points(3, (20,)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
def test_lanczos_beyond_the_range_of_float32(scale):
    """float32 finds the vectors where it can; float64 takes over where it cannot."""
    module = seeded(CASES["Lanczos"][1], 2).double()
    with torch.no_grad():
        module[0].weight.mul_(1 / scale)
        module[0].bias.zero_()
        module[2].weight.mul_(scale)
    stack = ModelStack.from_modules([module], (20,))
    inputs = scale * points(4, (20,))
    found = jacobian_norms(stack, inputs, norms=["l2"])["l2"][0]
    torch.testing.assert_close(found, reference(module, inputs)["l2"], rtol=1e-11, atol=0)


def test_steepest_of_many_outputs_attains_the_norm():
    stack = ModelStack.from_modules([seeded(CASES["Lanczos"][1], 3)], (20,))
    inputs = points(5, (20,))
    vectors = norms.steepest(stack, inputs, "l2")
    jacobians = norms.rows(norms.one_model(stack), inputs.double(), 140)
    images = (jacobians @ vectors[:, :, None])[..., 0].norm(dim=1) / vectors.norm(dim=1)
    expected = torch.linalg.matrix_norm(jacobians, ord=2)
    torch.testing.assert_close(images, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("slope", [0.0, 0.3, -2.0])
def test_narrow_deep_networks_whose_points_share_their_pieces(slope):
    """More points than pieces, at two places of the batch, in two chunks."""
    widths = [(3, 4), (4, 3), (3, 5)]
    layers = [part for pair in widths for part in (nn.Linear(*pair), nn.LeakyReLU(slope))]
    module = seeded(lambda: nn.Sequential(*layers[:-1]), 3)
    some = points(30, (3,))
    many = some.repeat(20_000, 1)
    expected = reference(module, some)
    stack = ModelStack.from_modules([module, module], (3,))
    for norm, values in jacobian_norms(stack, many, norms=NORMS).items():
        torch.testing.assert_close(
            values.view(2, -1, len(some)),
            expected[norm].expand(2, 20_000, -1),
            rtol=1e-12,
            atol=0,
        )


@pytest.mark.parametrize("outputs", [3, 16, 17, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_of_parts_and_of_large_matrices_no_squares_are_kept(outputs, dtype, generator):
    parts = [torch.randn(n, outputs, 50, generator=generator, dtype=dtype) for n in (5, 1)]
    kept = [squared(part) for part in parts]
    assert all(one.ndim == (3 if outputs <= 16 else 1) for one in kept)
    expected = torch.linalg.svdvals(torch.cat(parts).double())[:, 0]
    close = {"rtol": 1e-12 if dtype == torch.float64 else 1e-5, "atol": 0}
    torch.testing.assert_close(largest_roots(kept).double(), expected, **close)

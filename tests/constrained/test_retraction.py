"""Putting weights back onto the orthonormal matrices, against singular value decompositions."""

import pytest
import torch

from lipdescent.architectures import lipschitz_mlp
from lipdescent.constrained import retractions
from lipdescent.constrained.constraints import bjorck
from lipdescent.constrained.layers import GroupSort
from lipdescent.constrained.retraction import retract_, tangent_
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.sorting import SortPairs
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.losses.cross_entropy import loss as cross_entropy


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polar(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("shape", [(3, 7, 5), (3, 5, 5), (3, 4, 9)])
@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_the_nearest_orthonormal_matrix_at_any_scale(shape, scale):
    weight = normal(*shape) * scale
    exact = polar(weight)
    torch.testing.assert_close(retract_(weight), exact)


def test_one_step_away_a_few_iterations_suffice(monkeypatch):
    start = polar(normal(2, 64, 64)).float()
    moved = start + 0.02 * normal(2, 64, 64, seed=1).float() / 8
    monkeypatch.setattr("lipdescent.constrained.retraction.MAX_ITERATIONS", 2)
    torch.testing.assert_close(retract_(moved.clone()), polar(moved.double()).float())


def test_norms_stay_below_one_without_convergence(monkeypatch):
    monkeypatch.setattr("lipdescent.constrained.retraction.MAX_ITERATIONS", 1)
    for scale in (1e-30, 0.3, 1.0, 1.7, 5.0, 1e30):
        for weight in (normal(4, 6, 6), normal(4, 6, 1) @ normal(4, 1, 6)):
            found = retract_(weight.float() * scale)
            assert torch.linalg.svdvals(found.double()).max() <= 1 + 1e-6


def test_zero_stays_and_what_is_not_finite_harms_nobody():
    weight = normal(3, 4, 3)
    weight[1] = 0
    weight[2, 0, 0] = torch.nan
    before = weight.clone()
    retract_(weight)
    torch.testing.assert_close(weight[0], polar(before[0]))
    assert (weight[1] == 0).all()
    torch.testing.assert_close(weight[2], before[2], equal_nan=True)


def test_orthonormal_matrices_do_not_move_and_mates_do_not_matter():
    weight = normal(3, 8, 6, dtype=torch.float32)
    weight[1] *= 100
    alone = torch.cat([retract_(w[None].clone()) for w in weight])
    together = retract_(weight.clone())
    assert torch.equal(alone, together)
    assert torch.equal(retract_(together.clone()), together)


@pytest.mark.parametrize("shape", [(2, 7, 4), (2, 4, 7), (2, 5, 5)])
def test_tangent_is_the_gradient_through_the_iteration(shape):
    weight = polar(normal(*shape)).requires_grad_()
    direction = normal(*shape, seed=1)
    (exact,) = torch.autograd.grad((bjorck(weight) * direction).sum(), weight)
    torch.testing.assert_close(tangent_(weight.detach(), direction.clone()), exact)


def test_the_engine_has_the_gradient_of_the_constrained_network():
    def build():
        return lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, depth=2, constant=2.0)

    stack = initial_stack(build, [0, 1], (6,)).to(dtype=torch.float64)
    names = retractions(stack.module)
    assert len(names) == 3
    inputs = normal(2, 10, 6)
    targets = torch.nn.functional.one_hot(torch.arange(10) % 3, 3).double().expand(2, -1, -1)
    for name in names:
        retract_(stack.state[name])
    engine = StackedAutograd(stack.module, stack.state, cross_entropy)
    found = [torch.zeros_like(p) for p in engine.parameters]
    engine.accumulate(found, inputs, targets, decay=0.0)
    leaves = {n: t.clone().requires_grad_() for n, t in stack.state.items()}
    outputs, _ = stacked_forward(stack.module, leaves, inputs, train=True)
    loss = cross_entropy(outputs, targets).mean(1).sum()
    for exact, own in zip(torch.autograd.grad(loss, list(leaves.values())), found, strict=True):
        torch.testing.assert_close(own, exact)
    torch.testing.assert_close(engine.losses(inputs, targets), cross_entropy(outputs, targets))


def test_only_bjorck_layers_are_retracted():
    def names(**options):
        return retractions(lipschitz_mlp.build(4, input_shape=(4,), num_classes=2, **options))

    assert list(names()) == [
        "0.parametrizations.weight.original",
        "2.parametrizations.weight.original",
    ]
    for constraint in ("cayley", "spectral", "l1_rows"):
        assert names(constraint=constraint) == {}


def test_sorted_pairs_and_their_gradient():
    x = normal(2, 6, 4).requires_grad_()
    assert torch.autograd.gradcheck(SortPairs.apply, x)
    assert torch.equal(SortPairs.apply(x), GroupSort(2)(x))
    image = normal(2, 3, 4, 5, 5)
    module = torch.nn.Sequential(GroupSort(2))
    out, _ = stacked_forward(module, {}, image, train=False)
    assert torch.equal(out, torch.stack([GroupSort(2)(model) for model in image]))

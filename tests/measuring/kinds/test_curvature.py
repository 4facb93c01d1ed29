"""Gradients and Hessians against torch.autograd.functional and NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.measuring.kinds import curvature
from lipdescent.training.losses import cross_entropy, mean_squared_error


def images():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))  # fmt: skip


def flat_loss(module, x, y, loss):
    """(loss as a function of all parameters as one vector, their vector)."""
    shapes = {name: p.shape for name, p in module.named_parameters()}

    def function(vector):
        parts = vector.split([s.numel() for s in shapes.values()])
        state = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        logits = torch.func.functional_call(module, state, (x,))
        return loss(logits, nn.functional.one_hot(y, logits.shape[1]).to(logits)).mean()

    return function


@pytest.mark.parametrize("loss", [cross_entropy.loss, mean_squared_error.loss])
@pytest.mark.parametrize(
    ("build", "shape"),
    [(lambda: mlp.build(4, input_shape=(3,), num_classes=3, depth=2), (3,)), (images, (1, 4, 4))],
)
def test_gradient_and_eigenvalue_equal_the_whole_hessians(
    build, shape, loss, make_stack, generator, monkeypatch
):
    stack = make_stack(build, 3, shape, dtype=torch.float64)
    x = torch.randn(7, *shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(2, (3, 7), generator=generator)
    classes = stack(x).shape[-1]
    data = {"inputs": x, "labels": labels, "loss": loss, "num_classes": classes}
    norms, eigenvalues = (m.values for m in curvature.measure(stack, **data, iterations=60))
    for i in range(3):
        function = flat_loss(stack.module, x, labels[i], loss)
        vector = torch.cat(
            [stack.state[n][i].flatten() for n, _ in stack.module.named_parameters()]
        )
        gradient = torch.autograd.functional.jacobian(function, vector)
        torch.testing.assert_close(norms[i], gradient.norm())
        hessian = torch.autograd.functional.hessian(function, vector)
        largest = np.linalg.eigvalsh(hessian.numpy())[-1]
        assert eigenvalues[i].item() == pytest.approx(largest, rel=1e-7)
    # Two models at once, two points at a time, fewer steps: from below.
    monkeypatch.setattr(curvature, "CHUNK_BYTES", 2 * 8 * 8 * 1000)
    again, fewer = (m.values for m in curvature.measure(stack, **data, iterations=6))
    torch.testing.assert_close(again, norms)
    assert (fewer <= eigenvalues * (1 + 1e-12)).all()
    assert (fewer > 0.5 * eigenvalues).all()


def test_without_steps_there_is_no_eigenvalue_and_fewer_points_are_fewer(make_stack, generator):
    stack = make_stack(lambda: mlp.build(4, input_shape=(3,), num_classes=3), 2, (3,))
    x = torch.randn(9, 3, generator=generator)
    labels = torch.randint(3, (2, 9), generator=generator)
    rest = {"loss": cross_entropy.loss, "num_classes": 3, "iterations": 0}
    (some,) = curvature.measure(stack, inputs=x, labels=labels, num_points=4, **rest)
    (first,) = curvature.measure(stack, inputs=x[:4], labels=labels[:, :4], **rest)
    assert some.quantity == "parameter_gradient_norm"
    torch.testing.assert_close(some.values, first.values)


@pytest.mark.parametrize("size", [1, 2, 30])
def test_lanczos_equals_numpy_and_invents_nothing(size, generator):
    """Matrices of every sign and of low rank; steps beyond the dimension change nothing."""
    random = torch.randn(4, size, size, dtype=torch.float64, generator=generator)
    matrices = random + random.transpose(1, 2)
    matrices[1] = -random[1] @ random[1].T - torch.eye(size)  # negative definite
    matrices[2] = torch.outer(random[2, 0], random[2, 0])  # rank one
    matrices[3] = -3 * torch.eye(size)
    start = torch.randn(size, dtype=torch.float64, generator=generator).expand(4, size)
    found = curvature.lanczos(
        lambda v: [torch.einsum("mij,mj->mi", matrices, v[0])], [start], iterations=size + 5
    )
    expected = np.linalg.eigvalsh(matrices.numpy())[:, -1]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_a_models_numbers_do_not_depend_on_its_stack(make_stack, generator):
    stack = make_stack(lambda: mlp.build(4, input_shape=(3,), num_classes=3), 4, (3,))
    x = torch.randn(9, 3, generator=generator)
    labels = torch.randint(3, (4, 9), generator=generator)
    data = {"inputs": x, "loss": cross_entropy.loss, "num_classes": 3}
    whole = [m.values[2:3] for m in curvature.measure(stack, labels=labels, **data)]
    alone = [m.values for m in curvature.measure(stack[2:3], labels=labels[2:3], **data)]
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=0)

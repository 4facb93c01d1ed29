"""Norms of layers against NumPy's."""

import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures import lipschitz_mlp, mlp
from lipdescent.measuring.kinds import layer_norms
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage.table_words import describe
from lipdescent.structure.materialise import materialise


def found(stack):
    return {m.quantity: m for m in layer_norms.measure(stack)}


def image_network():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


@pytest.mark.parametrize(
    ("build", "shape", "weights"),
    [
        (lambda: mlp.build(5, input_shape=(4,), num_classes=3, depth=2), (4,), 3),
        (image_network, (2, 4, 4), 2),
    ],
)
def test_norms_equal_numpys(build, shape, weights, make_stack):
    stack = make_stack(build, 3, shape, dtype=torch.float32)
    measured = found(stack)
    assert len(measured) == 2 * weights  # of matrices and kernels; no bias, no scale
    for name, one in measured.items():
        kind, _, parameter = name.partition("@")
        order = "fro" if "frobenius" in kind else 2
        matrices = stack.state[parameter].double().flatten(2).numpy()
        expected = [np.linalg.norm(matrix, order) for matrix in matrices]
        np.testing.assert_allclose(one.values, expected, rtol=1e-12)
        assert (one.direction, one.split) == ("metric", "")
        assert describe(name).unit == "weights"


def test_a_convolutions_kernel_is_a_matrix_of_outputs_and_all_else(make_stack):
    stack = make_stack(image_network, 1, (2, 4, 4))
    kernel = stack.state["0.weight"][0].double().reshape(3, 18)
    value = found(stack)["layer_spectral_norm@0.weight"].values.item()
    assert value == pytest.approx(torch.linalg.matrix_norm(kernel, 2).item())


def test_of_constrained_layers_the_weights_that_they_use(make_stack):
    raw = make_stack(lambda: lipschitz_mlp.build(6, input_shape=(4,), num_classes=3), 2, (4,))
    stack = ModelStack(*materialise(raw.module, raw.state), raw.input_shape)
    measured = found(stack)
    ranks = {"0": 4, "2": 3}  # of orthonormal rows or columns, all singular values are 1
    for layer, rank in ranks.items():
        whole = measured[f"layer_frobenius_norm@{layer}.weight"].values
        spectral = measured[f"layer_spectral_norm@{layer}.weight"].values
        np.testing.assert_allclose(whole, np.sqrt(rank), rtol=1e-5)
        np.testing.assert_allclose(spectral, 1, rtol=1e-5)

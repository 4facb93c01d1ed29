"""Which graphs are chains, and that their matrices are those of the layers."""

import pytest
import torch
from local_cases import chain, network
from torch import nn

from lipdescent.bounds.graph.conversion import graph_of
from lipdescent.bounds.local.network import network_of
from lipdescent.stacks.model_stack import ModelStack


def found(model, *shape):
    return network_of(graph_of(ModelStack.from_modules([model.eval()], shape), 0))


def test_a_chain_has_its_weights_slopes_and_units():
    model = chain(3, 5, 4, 2, slope=0.25)
    own = network(model, 3)
    assert own.negative == (0.25, 0.25)
    assert (own.inputs, own.units, own.outputs) == (3, 9, 2)
    assert [(s.start, s.stop) for s in own.hidden] == [(0, 5), (5, 9)]
    for layer, linear in zip(own.layers, model[::2], strict=True):
        torch.testing.assert_close(layer.weight, linear.weight.detach(), rtol=0, atol=0)
        torch.testing.assert_close(layer.bias, linear.bias.detach(), rtol=1e-15, atol=0)
        norm = torch.linalg.matrix_norm(linear.weight.detach(), 2)
        assert norm <= layer.norm == pytest.approx(float(norm))


def test_convolutions_pools_and_normalisations_are_matrices():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(12, 4), nn.ReLU(),
    ).double().eval()  # fmt: skip
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    own = found(model, 1, 4, 4)
    assert own.negative == (0.0, 0.0)
    x = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    hidden = x.flatten(1)
    for layer in own.layers[:-1]:
        hidden = (hidden @ layer.weight.mT + layer.bias).clamp_min(0)
    torch.testing.assert_close(hidden @ own.layers[-1].weight.mT + own.layers[-1].bias, model(x))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)),
        (nn.Linear(3, 3), nn.LeakyReLU(-0.5), nn.Linear(3, 2)),
        (nn.Linear(3, 3), nn.LeakyReLU(1.5), nn.Linear(3, 2)),
        (nn.Linear(3, 2),),
    ],
)
def test_what_is_no_chain_of_relus_is_left_to_others(layers):
    assert found(nn.Sequential(*layers), 3) is None


@pytest.mark.parametrize("scale", [1e-40, 1e40])
def test_numbers_that_are_not_moderate_are_left_to_others(scale):
    model = chain(3, 4, 2)
    with torch.no_grad():
        model[0].weight *= scale
    assert found(model, 3) is None

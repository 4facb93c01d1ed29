"""Proven errors of graphs of operations, against 80-bit arithmetic."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipdescent.bounds.proofs.graph_forward import ProvenGraph
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.measurement import NotApplicable
from lipdescent.networks.export.network import export
from lipdescent.stacks.model_stack import ModelStack

TOKENS, WIDTH = 5, 4


class Block(nn.Module):
    """Attention behind a normalisation, a gate, a quotient, and functions with steep slopes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.norm.weight.data, self.norm.bias.data = torch.randn(2, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        y = self.norm(x)
        z = F.softmax(self.q(y) @ self.k(y).mT / 2, -1) @ self.v(y)
        z = torch.sigmoid(z) * x - 0.3 * torch.maximum(x, z)
        return (z / (2 + torch.exp(y)) + (z * z).mean(1, keepdim=True)).flatten(1)


def exact(net, x):
    """The same in numpy's longest floating-point numbers."""
    w = {
        name: t.detach().double().numpy().astype(np.longdouble)
        for name, t in net.state_dict().items()
    }
    x = x.numpy().astype(np.longdouble)
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.longdouble(net.norm.eps))
    y = y * w["norm.weight"] + w["norm.bias"]
    q, k, v = (y @ w[f"{n}.weight"].T + w[f"{n}.bias"] for n in "qkv")
    scores = np.exp(q @ np.swapaxes(k, 1, 2) / 2)
    z = scores / scores.sum(-1, keepdims=True) @ v
    z = x / (1 + np.exp(-z)) - np.longdouble(0.3) * np.maximum(x, z)
    z = z / (2 + np.exp(y)) + (z * z).mean(1, keepdims=True)
    return z.reshape(len(z), -1)


@pytest.fixture(scope="module")
def block():
    net = Block().eval()
    plain = export(net, [(TOKENS, WIDTH)]).network
    return net, ModelStack.from_modules([plain], (TOKENS, WIDTH))


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_errors_are_bounded_and_small(block, scale):
    net, stack = block
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn(50, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    y, error = ProvenGraph(stack)(0, x)
    off = np.linalg.norm((exact(net, x) - y.numpy().astype(np.longdouble)).astype(float), axis=1)
    assert (off <= error.numpy()).all()
    assert float((error / y.norm(dim=1)).median()) < 1e-9


def test_a_lower_bound_of_attention_is_proved(block):
    net, stack = block
    prover = Prover(stack)
    assert prover.direction == "lower"
    x = torch.randn(
        1, 20, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    proved = prover.certify(x, norm="l2")[0]
    wide = copy.deepcopy(net).double()
    jacobians = [torch.autograd.functional.jacobian(lambda p: wide(p[None])[0], p) for p in x[0]]
    norms = torch.linalg.matrix_norm(torch.stack(jacobians).flatten(2), 2)
    assert (proved > 0.99 * norms).all()
    assert (proved < 1.01 * norms).all()


def test_constant_values_prove_nothing(block):
    """Where the variance is 0 the constant near the point is that everywhere: errors are larger."""
    _, stack = block
    x = torch.full((1, TOKENS, WIDTH), 1e6, dtype=torch.float64)
    _, error = ProvenGraph(stack)(0, x)
    assert not bool(error.isfinite().any())


def test_an_operation_without_a_rule_is_named():
    class Cubed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            return torch.tan(self.a(x)) * x

    plain = export(Cubed().eval(), [(2,)]).network
    with pytest.raises(NotApplicable, match="tan"):
        ProvenGraph(ModelStack.from_modules([plain], (2,)))


def test_layers_in_sequence_with_a_normalisation_are_proved():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)
    ).eval()
    prover = Prover(ModelStack.from_modules([net], (4,)))
    assert prover.direction == "lower"
    x = torch.randn(5, 4, dtype=torch.float64)
    y, error = prover.evaluate(0, x)
    assert torch.allclose(y, copy.deepcopy(net).double()(x), rtol=1e-12)
    assert bool((error < 1e-9).all())

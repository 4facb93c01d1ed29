"""Networks as users write them: read as the same function, or refused with place and way out."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipdescent.networks.export.network import export
from lipdescent.networks.operations import Function
from lipdescent.networks.reading import Unreadable

LSTM, SIZE = 3, 4


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor | None = None
    attentions: tuple | None = None


class ModelOutput(OrderedDict):
    pass


class Written(nn.Module):
    """``how`` of the module and an input of (n, 5, 4)."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.a, self.b = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.lstm, self.gru = (
            kind(SIZE, LSTM, batch_first=True, bidirectional=True) for kind in (nn.LSTM, nn.GRU)
        )
        self.cells = nn.ModuleList([k(SIZE, LSTM) for k in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)])
        self.experts = nn.ModuleList([nn.Linear(SIZE, SIZE) for _ in range(3)])
        self.gate = nn.Linear(SIZE, 3)
        self.register_buffer("adjacency", torch.rand(5, 5))
        self.register_buffer("waves", torch.randn(SIZE, 3))
        self.kernels = nn.Parameter(torch.randn(5, SIZE, SIZE))

    def forward(self, x, mask=None, *, scale: float = 2.0, **options):
        return self.how(self, x)


def unrolled(s, x):
    h = c = x.new_zeros(len(x), LSTM)
    g = r = torch.zeros_like(h)
    for t in range(x.size(1)):
        h, c = s.cells[0](x[:, t], (h, c))
        g, r = s.cells[1](x[:, t], g), s.cells[2](x[:, t], r)
    return torch.cat([h, g, r], 1)


def fixed_point(s, x):
    z = torch.zeros_like(x)
    for _ in range(5):
        z = torch.tanh(0.3 * s.a(z) + s.b(x))
    return z


def coupling(s, x):
    a, b = x.chunk(2, -1)
    scale, shift = s.a(torch.cat([a, a], -1)).chunk(2, -1)
    return torch.cat([b * torch.exp(torch.tanh(scale)) + shift, a], -1)


def mixture(s, x):
    gates = F.softmax(s.gate(x), -1)
    return torch.einsum("nte,netf->ntf", gates, torch.stack([e(x) for e in s.experts], 1))


def root_mean_square(s, x):
    return s.a(x) * torch.rsqrt(s.a(x).pow(2).mean(-1, keepdim=True) + 1e-5)


def centred(s, x):
    mean = x.mean(1, keepdim=True)
    return (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-5)


def waves(s, x):
    phases = 6.28 * x @ s.waves
    return torch.cat([phases.sin(), phases.cos()], -1)


READ = {
    "dataclass": lambda s, x: Answer(logits=s.a(F.gelu(x))),
    "mapping": lambda s, x: ModelOutput(logits=s.a(F.gelu(x)), hidden=None),
    "dictionary": lambda s, x: {"logits": s.b(F.gelu(x))},
    "lstm": lambda s, x: s.lstm(x)[0][:, -1],
    "gru": lambda s, x: s.gru(x)[1].transpose(0, 1).flatten(1),
    "cells": unrolled,
    "fixed point": fixed_point,
    "coupling": coupling,
    "energy": lambda s, x: (s.a(x) ** 2).sum((1, 2)) + 0.5 * x.pow(2).sum((1, 2)),
    "mixture": mixture,
    "graph": lambda s, x: torch.einsum("ij,njf->nif", s.adjacency, s.a(F.relu(s.adjacency @ x))),
    "several matrices": lambda s, x: (s.kernels @ x[..., None])[..., 0],
    "waves": waves,
    "own leaky": lambda s, x: torch.where(s.a(x) > 0, s.a(x), 0.1 * s.a(x)),
    "own relu": lambda s, x: torch.where(s.a(x) <= 0, torch.zeros_like(x), s.a(x)),
    "chosen": lambda s, x: torch.where(s.adjacency[:, :4] > 0.5, s.a(x), -x),
    "a number": lambda s, x: torch.where(s.adjacency[:, :4] > 0.5, s.a(x), 0.25),
    "the larger": lambda s, x: torch.where(x < s.a(x), s.a(x), x),
    "the smaller": lambda s, x: torch.where(x > s.adjacency[:, :4], s.adjacency[:, :4], x),
    "wider": lambda s, x: torch.where(x[..., :1] > 0.5, 0.5, x[..., :1]).expand_as(x),
    "lerp": lambda s, x: torch.lerp(x, s.a(x), 0.3),
    "log of sum": lambda s, x: torch.logaddexp(x, s.a(x)),
    "the largest": lambda s, x: x.topk(3)[0][:, :3] - x.topk(3, 1, False)[0][..., :3],
    "downwards": lambda s, x: torch.sort(s.a(x), -1, descending=True).values,
    "distances": lambda s, x: torch.cdist(x, s.adjacency[:, :4]) - torch.cdist(x, s.a(x)),
    "bilinear": lambda s, x: F.bilinear(x[:, 0], s.a(x[:, 1]), s.kernels, s.adjacency[0]),
    "running sum": lambda s, x: torch.cumsum(x, 1) + torch.cumsum(s.a(x), -1),
    "root mean square": root_mean_square,
    "centred": centred,
}


def tensors(result):
    if isinstance(result, Answer):
        return result.logits
    return next(iter(result.values())) if isinstance(result, dict) else result


@pytest.mark.parametrize("name", READ)
def test_it_is_read_as_the_same_function(name):
    module = Written(READ[name]).eval()
    exported = export(module, [(5, SIZE)])
    x = torch.randn(4, 5, SIZE, generator=torch.Generator().manual_seed(1))
    wanted = tensors(module(x))
    assert wanted.numel() >= 4
    assert torch.allclose(exported.network(x).flatten(1), wanted.reshape(4, -1), atol=1e-5)
    assert "forward" not in vars(module)  # as it was


@pytest.mark.parametrize("name", ["root mean square", "centred"])
def test_a_normalisation_written_out_is_one(name):
    operations = [v.operation for v in export(Written(READ[name]), [(5, SIZE)]).graph.vertices]
    assert sum(isinstance(op, nn.RMSNorm) for op in operations) == 1
    assert not any(isinstance(op, Function) for op in operations)


def test_outputs_have_the_names_of_their_fields():
    module = Written(lambda s, x: Answer(logits=s.a(x), hidden=x)).eval()
    exported = export(module, [(5, SIZE)], output="hidden")
    x = torch.randn(2, 5, SIZE)
    assert torch.equal(exported.network(x), x)


REFUSED = {
    "top": (lambda s, x: x.argmax(-1), r"argmax.default jumps or picks .* relu, clamp"),
    "rounding": (lambda s, x: x.round(), r"round.default jumps"),
    "a count": (lambda s, x: (x > 0).float().mean(-1), r"gt.Scalar jumps"),
    "a band": (lambda s, x: (x > 0) * (x < 1), r"where, as the input says: it may jump"),
    "where": (
        lambda s, x: torch.where(x > 0, x, s.a(x)),
        r"where\(x > t, a \* x \+ b, c \* x \+ d\) with numbers that agree at t is read",
    ),
    "jump": (
        lambda s, x: torch.where(x > 1, x, 0 * x),
        r"where jumps at 1, from 0 to 1 \(by 1\): it is not Lipschitz, no constant exists",
    ),
    "complex": (lambda s, x: torch.fft.fft(x).abs(), r"complex numbers.* as two real matrices"),
    "special": (lambda s, x: torch.special.bessel_j0(x), r"bessel_j0.default is not known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_says_where_and_what_is(name):
    how, message = REFUSED[name]
    with pytest.raises(Unreadable, match=r"\(test_users_networks.py, line \d+\): .*" + message):
        export(Written(how).eval(), [(5, SIZE)])


def test_nothing_is_printed_of_what_cannot_be_traced(capfd):
    module = Written(lambda s, x: x if x.sum() > 0 else -x).eval()
    with pytest.raises(Unreadable, match=r"test_users_networks.py, line \d+\) cannot be exported"):
        export(module, [(5, SIZE)])
    assert capfd.readouterr() == ("", "")

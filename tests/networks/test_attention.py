"""Attention as it is written, with biases and masks: one vertex, the same function, its bounds."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipdescent.bounds.graph.conversion import double
from lipdescent.bounds.upper_graph import graph_bounds
from lipdescent.domains.domain import Ball, Everywhere
from lipdescent.networks.export.network import export
from lipdescent.networks.graph import Attention
from lipdescent.networks.reading import Unreadable

TOKENS, HEADS, WIDTH = 4, 2, 3
SHAPE = (TOKENS, HEADS * WIDTH)
ORDERS = {"l2": 2, "linf": math.inf, "l1": 1}
IN_ALL_NORMS = ("bias of x", "filled mask", "one key head", "cosine", "talking heads")


class Heads(nn.Module):
    """Attention behind a normalisation; ``how`` of queries, keys, values (n, heads, tokens, d)."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, size = how, SHAPE[1]
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(size),
            nn.Linear(size, 3 * size),
            nn.Linear(size, 2),
        )
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))
        self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS))
        self.heat = nn.Parameter(torch.rand(HEADS, 1, 1) + 0.5)
        self.mix = nn.Parameter(torch.randn(HEADS, HEADS))
        self.latent = nn.Parameter(torch.randn(1, HEADS, TOKENS, WIDTH))
        place = torch.arange(TOKENS)
        self.register_buffer("index", place[:, None] - place + TOKENS - 1)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25]).view(HEADS, 1, 1))
        self.register_buffer("seen", torch.ones(TOKENS, TOKENS).tril().bool())
        self.register_buffer(
            "causal", torch.zeros(TOKENS, TOKENS).masked_fill(~self.seen, -math.inf)
        )
        self.of_q, self.of_k = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH, eps=1e-5)

    def forward(self, x):
        n, t, _ = x.shape
        y = self.norm(x)
        parts = self.qkv(y).reshape(n, t, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        mixed = self.how(self, *parts).transpose(1, 2).reshape(n, t, SHAPE[1])
        return self.out(mixed)


def unit(x):
    return F.normalize(x, dim=-1)


def in_windows(s, q, k, v):
    scores = (q @ k.mT).view(-1, 1, HEADS, TOKENS, TOKENS) + s.bias + s.causal
    return scores.view(-1, HEADS, TOKENS, TOKENS).softmax(-1) @ v


def relative(s):
    """Swin's biases, of a table and the distances of positions."""
    own = s.table[s.index.flatten()].view(TOKENS, TOKENS, HEADS)
    return own.permute(2, 0, 1).unsqueeze(0)


ONE = {  # read as one attention, of so many inputs
    "bias": (lambda s, q, k, v: (q @ k.mT + s.bias).softmax(-1) @ v, 4),
    "a table's": (lambda s, q, k, v: (q @ k.mT / 3**0.5 + relative(s)).softmax(-1) @ v, 4),
    "of distances": (
        lambda s, q, k, v: (q @ k.mT + s.slopes * (s.index - TOKENS)).softmax(-1) @ v,
        4,
    ),
    "added mask": (lambda s, q, k, v: (q @ k.mT + s.causal).softmax(-1) @ v, 4),
    "filled mask": (
        lambda s, q, k, v: (q @ k.mT).masked_fill(~s.seen, -math.inf).softmax(-1) @ v,
        4,
    ),
    "chosen mask": (lambda s, q, k, v: torch.where(s.seen, q @ k.mT, -math.inf).softmax(-1) @ v, 4),
    "least float": (
        lambda s, q, k, v: (q @ k.mT + (~s.seen) * torch.finfo(torch.float32).min).softmax(-1) @ v,
        4,
    ),
    "causal": (lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), 4),
    "bool": (lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=s.seen), 4),
    "fused": (lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, s.bias + s.causal), 4),
    "scaled later": (
        lambda s, q, k, v: ((q @ k.mT + s.bias) * s.heat / 2 + s.causal).softmax(-1) @ v,
        4,
    ),
    "windows": (in_windows, 4),
    "bias of x": (lambda s, q, k, v: (q @ k.mT + torch.tanh(v @ q.mT)).softmax(-1) @ v, 4),
    "cosine": (lambda s, q, k, v: (unit(q) @ unit(k).mT * s.heat + s.bias).softmax(-1) @ v, 4),
    "normalised": (lambda s, q, k, v: F.scaled_dot_product_attention(s.of_q(q), s.of_k(k), v), 3),
    "one key head": (lambda s, q, k, v: (q @ k[:, :1].mT).softmax(-1) @ v[:, :1], 3),
    "grouped": (
        lambda s, q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
        3,
    ),
    "learnt queries": (
        lambda s, q, k, v: F.scaled_dot_product_attention(
            s.latent.expand(len(q), -1, -1, -1), k, v
        ),
        3,
    ),
}
OTHER = {
    "talking heads": lambda s, q, k, v: (
        torch.einsum("hg,ngij->nhij", s.mix, (q @ k.mT + s.causal).softmax(-1)) @ v
    ),
    "heads talk first": lambda s, q, k, v: (
        torch.einsum("hg,ngij->nhij", s.mix, q @ k.mT).masked_fill(~s.seen, -math.inf).softmax(-1)
        @ v
    ),
    "a finite mask": lambda s, q, k, v: (q @ k.mT).masked_fill(~s.seen, -1e9).softmax(-1) @ v,
    "capped": lambda s, q, k, v: (9 * torch.tanh(q @ k.mT / 9) + s.causal).softmax(-1) @ v,
    "gates": lambda s, q, k, v: torch.sigmoid(q @ k.mT + s.bias) @ v,
    "no softmax": lambda s, q, k, v: (F.elu(q) + 1) @ ((F.elu(k) + 1).mT @ v),
}


@pytest.mark.parametrize("name", [*ONE, *OTHER])
def test_it_is_the_same_function_and_no_slope_is_above_its_bounds(name):
    how, count = ONE.get(name, (OTHER.get(name), None))
    module = Heads(how).eval()
    exported = export(module, [SHAPE])
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(exported.network(x), module(x), rtol=1e-4, atol=1e-5)
    found = [len(v.inputs) for v in exported.graph.vertices if isinstance(v.operation, Attention)]
    assert found == ([] if count is None else [count])
    graph = double(exported.graph)
    points = torch.cat([x[:2], x[:1] * 1e-2]).double()
    jacobians = [torch.autograd.functional.jacobian(lambda p: graph(p[None]), p) for p in points]
    jacobians = [j.reshape(-1, points[0].numel()) for j in jacobians]
    for norm, order in ORDERS.items() if name in IN_ALL_NORMS else [("l2", 2)]:
        norms = torch.stack([torch.linalg.matrix_norm(j, order) for j in jacobians])
        for domain in (Everywhere(), Ball(1e-3, "l2", points)):
            bounds = graph_bounds(graph, domain.regions(SHAPE), norm=norm)
            assert bool(bounds.isfinite().all())
            assert bool((norms <= bounds * (1 + 1e-9)).all())
    at = graph_bounds(graph, Ball(0.0, "l2", points).regions(SHAPE), norm=norm)
    assert torch.allclose(at, norms, rtol=1e-5)  # at single points it is the norm


def test_a_mask_that_leaves_nothing_is_refused():
    module = Heads(lambda s, q, k, v: (q @ k.mT).masked_fill(s.seen, -math.inf).softmax(-1) @ v)
    with pytest.raises(Unreadable, match=r"leaves a query without keys"):
        export(module.eval(), [SHAPE])


def test_a_bias_counts_in_no_constant_but_through_the_weights():
    """|P|_1 <= n and the covariances' bounds do not know the bias, on the whole space."""
    bare = Heads(lambda s, q, k, v: (q @ k.mT).softmax(-1) @ v).eval()
    bounds = []
    for module in (bare, Heads(ONE["bias"][0]).eval()):
        graph = double(export(module, [SHAPE]).graph)
        bounds.append(float(graph_bounds(graph, Everywhere().regions(SHAPE))[0]))
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-2)

"""Rows of heads behind a normalisation are as long as the largest singular value lets them be."""

import math

import pytest
import torch
from torch import nn

from lipdescent.bounds.graph.conversion import double
from lipdescent.bounds.graph.rows import rows
from lipdescent.bounds.upper_graph import graph_bounds
from lipdescent.domains.domain import Ball, Everywhere
from lipdescent.networks.export.network import export
from lipdescent.networks.graph import Attention

TOKENS, WIDTH, HEADS = 4, 6, 2


class Heads(nn.Module):
    """Attention of two heads behind a normalisation with weights of all sizes."""

    def __init__(self, normal, seed=0, *, eps=1e-2):
        super().__init__()
        torch.manual_seed(seed)
        self.norm = normal(WIDTH, eps=eps)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn_like(parameter))

    def split(self, x):
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        return parts.permute(2, 0, 3, 1, 4)

    def forward(self, x):
        q, k, v = self.split(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.4, -1)
        return (weights @ v).transpose(1, 2).flatten(2)


def of_attention(module):
    graph = double(export(module.eval(), [(TOKENS, WIDTH)]).graph)
    (attention,) = (v for v in graph.vertices if isinstance(v.operation, Attention))
    return graph, [rows(graph)[i] for i in attention.inputs[:3]]


@pytest.mark.parametrize("normal", [nn.LayerNorm, nn.RMSNorm])
def test_the_radius_is_reached_and_no_row_is_longer(normal):
    module = Heads(normal, eps=1e-12).double().requires_grad_(False)
    _, found = of_attention(module)
    mean = torch.full((WIDTH, WIDTH), 1 / WIDTH, dtype=torch.float64)
    free = torch.eye(WIDTH, dtype=torch.float64) - (mean if normal is nn.LayerNorm else 0)
    weight = module.qkv.weight.detach().reshape(3, HEADS, -1, WIDTH)
    maps = weight @ torch.diag(module.norm.weight.detach()) @ free
    shift = module.norm.bias if normal is nn.LayerNorm else torch.zeros(WIDTH)
    centers = module.qkv(shift.double()).reshape(3, HEADS, -1)
    largest = math.sqrt(WIDTH) * torch.linalg.matrix_norm(maps, 2)  # (3, heads)
    lengths = (largest + centers.norm(dim=-1)).amax(1)
    assert [own.radius for own in found] == pytest.approx(largest.amax(1).tolist())
    assert [own.length for own in found] == pytest.approx(lengths.tolist())
    # A token along the largest singular vector has such a row; others are shorter.
    _, _, right = torch.linalg.svd(maps[2, 0])
    x = torch.cat([right[:1], torch.randn(999, WIDTH, dtype=torch.float64)])
    value = (module.split(x[:, None])[2, :, 0, 0] - centers[2, 0]).norm(dim=-1)
    assert float(value[0]) == pytest.approx(float(largest[2, 0]))
    assert float(value.max()) <= found[2].radius


@pytest.mark.parametrize("normal", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_where_it_is_attacked(normal, seed):
    module = Heads(normal, seed).double().requires_grad_(False)
    graph, _ = of_attention(module)
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    whole = float(graph_bounds(graph, Everywhere().regions((TOKENS, WIDTH))))
    ball = Ball(0.3).regions((TOKENS, WIDTH), center[None])
    local = float(graph_bounds(graph, ball)[0])
    sizes = torch.logspace(-2, 1, 40, dtype=torch.float64)
    far = torch.randn(40, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    near = far / far.flatten(1).norm(dim=1)[:, None, None]
    for points, bound in ((far * sizes[:, None, None], whole), (center + 0.3 * near, local)):
        norms = torch.linalg.matrix_norm(
            torch.stack([torch.func.jacrev(module)(x[None]).reshape(24, 24) for x in points]), 2
        )
        assert float(norms.max()) <= bound
    assert math.isfinite(whole)

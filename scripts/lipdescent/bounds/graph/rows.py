"""Rows of queries, keys and values that are linear in normalised tokens: how long they are.

A normalisation of d numbers gives z = gamma u + beta with |u| <= sqrt(d), where the mean is taken
off with sum u = 0: u = P u. The outputs F of a linear layer, which are one row of a head, are
W_F z + b_F = W_F diag(gamma) P u + c_F, c_F = W_F beta + b_F. So every such row lies within
r_F = |W_F diag(gamma) P|_2 sqrt(d) of c_F, whatever its token, and is at most |c_F| + r_F long.
The box of its entries, each of which has its own largest value, is up to sqrt(size of a row) times
as wide.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, length_up
from lipdescent.arithmetic.ulps import gamma
from lipdescent.bounds.graph.known import Known
from lipdescent.networks.graph import Attention, Graph, unviewed
from lipdescent.networks.operations import Divide, Gather, Scale

_SETS = 256  # of outputs that are a row: heads, or blocks of them
_UP = 1 + 2.0**-40  # more than a few roundings


@dataclass(frozen=True)
class Rows:
    """Of one vertex: largest length, and largest distance from a centre that a head has.

    ``radius`` is infinite where rows of one head have several centres.
    """

    length: float
    radius: float


def rows(graph: Graph) -> dict[int, Rows]:
    """Queries, keys and values of attentions for which this is known."""
    taken = {i for v in graph.vertices if isinstance(v.operation, Attention) for i in v.inputs[:3]}
    found = {i: _rows(graph, i) for i in taken}
    return {i: own for i, own in found.items() if own is not None}


def within_rows(x: Known, own: Rows | None) -> Known:
    """With the lengths of its rows."""
    if own is None:
        return x
    length = torch.full_like(x.span.low[..., 0], own.length)
    length = length if x.length is None else torch.minimum(length, x.length)
    return replace(x, length=length, radius=torch.full_like(x.constant, own.radius))


def _rows(graph: Graph, i: int) -> Rows | None:
    """Back through what only moves and scales numbers to a linear layer at normalised ones."""
    shape, one = graph.vertices[i].shape, True
    places = torch.arange(math.prod(shape))
    factors = torch.ones(shape, dtype=torch.float64)  # sizes of what entries are multiplied by
    while isinstance(
        (own := graph.vertices[i]).operation, (nn.Flatten, nn.Unflatten, Gather, Scale, Divide)
    ):
        operation: Any = own.operation
        if isinstance(operation, Gather):
            index = operation.index.flatten()
            if bool((index < 0).any()):
                return None
            places = index[places]
        elif isinstance(operation, (Scale, Divide)):
            number = torch.tensor(operation.number, dtype=torch.float64)
            by = number if operation.weight is None else operation.weight.detach()
            by = by.double().expand(own.shape).flatten()[places].reshape(shape)
            size = by.abs() if isinstance(operation, Scale) else 1 / by.abs()
            one = one and bool((by == by[..., :1, :]).all())
            factors = factors * size * _UP
        i = own.inputs[0]
    layer: Any = graph.vertices[i].operation
    if type(layer) is not nn.Linear:
        return None
    normal: Any = graph.vertices[unviewed(graph.vertices, graph.vertices[i].inputs[0])].operation
    if type(normal) not in (nn.LayerNorm, nn.RMSNorm):
        return None
    if tuple(normal.normalized_shape) != (layer.in_features,):
        return None
    tokens, outputs = (t.reshape(-1, shape[-1]) for t in _divided(places, layer.out_features))
    sets, which = outputs.unique(dim=0, return_inverse=True)
    if len(sets) > _SETS or bool((tokens != tokens[:, :1]).any() | ~factors.isfinite().all()):
        return None
    radii, sizes = _of_sets(layer, normal, sets)
    heads = which.reshape(shape[:-1])
    one = one and bool((heads == heads[..., :1]).all())
    factors = factors.amax(-1) * _UP
    length, radius = ((factors * own[heads]).max() for own in (radii + sizes, radii))
    return Rows(float(length), float(radius) if one else math.inf)


def _divided(places: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    return places // outputs, places % outputs


def _of_sets(layer: nn.Linear, normal: Any, sets: Tensor) -> tuple[Tensor, Tensor]:
    """r_F and |c_F|, rounded up, of each set F of outputs."""
    weight, d = layer.weight.detach().double(), layer.in_features
    one, zero = weight.new_ones(d), weight.new_zeros(())
    scale = one if normal.weight is None else normal.weight.detach().double()
    shift = getattr(normal, "bias", None)
    shift = 0 * one if shift is None else shift.detach().double()
    bias = zero if layer.bias is None else layer.bias.detach().double()
    matrix = weight * scale
    size = matrix.abs()
    if isinstance(normal, nn.LayerNorm):
        size = size + size.mean(1, keepdim=True)
        matrix = matrix - matrix.mean(1, keepdim=True)
    error = length_up((gamma(d + 4) * size)[sets].flatten(1))
    radii = certified_spectral_norm(matrix[sets], error=error) * math.sqrt(d) * _UP
    center = weight @ shift + bias
    doubt = gamma(d + 4) * (weight.abs() @ shift.abs() + bias.abs())
    return radii, length_up((center.abs() + 2 * doubt)[sets])

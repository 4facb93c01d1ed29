"""On which inputs a vertex may depend: what depends on different ones adds up to less.

Of f(x) = g(y) + h(z), with x = (y, z), the change is at most L_g |dy| + L_h |dz|: in l2 at most
the root of L_g^2 + L_h^2 times |dx|, in l1 the larger of the two. An unrolled recurrent network
adds one piece of its input in every step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.bounds.graph.linear_maps import Linear
from lipdescent.bounds.graph.patterns import acts_entry_by_entry
from lipdescent.networks.graph import Combination, Concatenation, Extremum, Graph, Product, Quotient

_LARGEST = 2**20  # of inputs times entries of a vertex


def dependencies(graph: Graph, maps: list[Linear | None]) -> list[Tensor | None]:
    """For every vertex bool (n,), whether it may depend on each input; None in large graphs."""
    n, vertices = math.prod(graph.input_shape), graph.vertices
    if (
        all(len(v.inputs) < 2 for v in vertices)
        or n * max(math.prod(v.shape) for v in vertices) > _LARGEST
    ):
        return [None] * len(vertices)
    eye = torch.eye(n, dtype=torch.bool).reshape(n, *graph.input_shape)
    last = {j: i for i, vertex in enumerate(vertices) for j in vertex.inputs}
    entries = {0: eye}  # (n, *shape) of each vertex that is still taken
    found: list[Tensor | None] = [eye.flatten(1).any(1)]
    for i, vertex in enumerate(vertices[1:], 1):
        own = [entries[j] for j in vertex.inputs]
        entries[i] = _moved(vertex.operation, maps[i], own, vertex.shape)
        found.append(entries[i].flatten(1).any(1))
        for j in [j for j in entries if last.get(j, i) <= i]:
            del entries[j]
    return found


def _moved(
    operation: Any, linear: Linear | None, own: list[Tensor], shape: tuple[int, ...]
) -> Tensor:
    if linear is not None:
        return linear.absolute(own[0].double()) != 0
    if isinstance(operation, Concatenation):
        return torch.cat(own, operation.axis + 1)
    if isinstance(operation, (Combination, Product, Quotient, Extremum)):
        found = torch.zeros(len(own[0]), *shape, dtype=torch.bool)
        for one in own:
            missing = [1] * (found.ndim - one.ndim)
            found = found | one.reshape(len(one), *missing, *one.shape[1:])
        return found
    if isinstance(operation, nn.Module) and acts_entry_by_entry(operation, shape):
        return own[0]
    anything = torch.stack([one.flatten(1).any(1) for one in own]).any(0)
    return anything.reshape(-1, *[1] * len(shape)).expand(-1, *shape)

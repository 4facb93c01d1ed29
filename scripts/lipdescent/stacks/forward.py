"""Forward pass of a stack of networks, each with its own weights, batch and statistics.

A view of the network's expression, layer by layer (``layer_passes.py``). Autograd differentiates
it: models share nothing, so the gradient of the sum of their losses with respect to a stacked
parameter is every model's own gradient.
"""

import functools
import operator
from collections.abc import Collection

import torch
from torch import Tensor, nn

from lipdescent.networks.expressions import Chain, Concat, Layer, Node
from lipdescent.networks.reading import read
from lipdescent.stacks.dropout import Dropout
from lipdescent.stacks.layer_passes import Pass, of_layer
from lipdescent.stacks.pooling import tiling


def stacked_forward(
    network: nn.Module | Node,
    state: dict[str, Tensor],
    inputs: Tensor,
    *,
    train: bool,
    retracted: Collection[str] = (),
    dropout: Dropout | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs of every model on its own batch.

    Parameters
    ----------
    network : the structure, or its expression; neither its weights nor its mode matter. Modules
        that declare theirs are called all the same, not trusted.
    state : parameter or buffer name -> (models, *shape).
    inputs : (models, batch, *input_shape); ``expand`` shared inputs.
    train : normalise with the statistics of each model's batch, else with the running ones.
    retracted : names of raw weights that their constraint would only multiply by its constant.
    dropout : what ``nn.Dropout`` does in training; nothing in eval mode.

    Returns
    -------
    outputs (models, batch, num_classes), differentiable in ``state`` and ``inputs``, and the
    buffers that training changes (BatchNorm's statistics), by name; empty if ``train`` is False.

    Raises
    ------
    TypeError
        For a layer that draws random numbers in training: dropout without ``dropout``, any other.
    """
    run = Pass(state, train, retracted, dropout)
    node = read(network, declared=False) if isinstance(network, nn.Module) else network
    return _along(run, node, inputs), run.buffers


def _along(run: Pass, node: Node, x: Tensor) -> Tensor:
    """What an expression makes of the batches."""
    if isinstance(node, Layer):
        return of_layer(run, node, x)
    if isinstance(node, Chain):
        for part in _pools_first(node.parts):
            x = _along(run, part, x)
        return x
    outputs = [_along(run, part, x) for part in node.parts]
    if isinstance(node, Concat):
        return torch.cat(outputs, node.dim + 1 if node.dim >= 0 else node.dim)
    return functools.reduce(operator.add, outputs)


def _pools_first(parts: tuple[Node, ...]) -> list[Node]:
    """ReLU and a max pool behind it exchange: the pool leaves less to do."""
    ordered = list(parts)
    for i in range(len(ordered) - 1):
        first, second = (getattr(part, "module", None) for part in ordered[i : i + 2])
        if type(first) is nn.ReLU and tiling(second):
            ordered[i : i + 2] = ordered[i + 1], ordered[i]
    return ordered

"""Certified Lipschitz constants of layers, and of networks made of them.

``constant`` : of one layer (:mod:`lipdescent.layers.table` says how to add a layer type).
``trace`` : the structure of a network (:mod:`lipdescent.layers.expressions` says how a module with
its own ``forward`` declares it).
``bound`` : of a traced structure.
"""

from lipdescent.architectures._blocks import Residual
from lipdescent.layers.composition import bound
from lipdescent.layers.expressions import (
    Chain,
    Concat,
    Layer,
    Node,
    Sum,
    add,
    chain,
    concat,
    residual,
)
from lipdescent.layers.table import constant
from lipdescent.layers.walker import trace

__all__ = [
    "Chain",
    "Concat",
    "Layer",
    "Node",
    "Residual",
    "Sum",
    "add",
    "bound",
    "chain",
    "concat",
    "constant",
    "residual",
    "trace",
]

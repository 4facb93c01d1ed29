"""Fully connected network with a Lipschitz constant that cannot be exceeded.

Orthonormal weights and GroupSort as in Anil et al. (2019, arXiv 1811.05381) and Béthune et al.
(2022, arXiv 2104.05097); every layer's norm is at most 1, the last one's ``constant``. With the
constraint "none" the same network of ordinary weights, to compare with.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn
from torch.nn.utils import parametrizations

from lipdescent.architectures import _blocks
from lipdescent.constrained.constraints import Bjorck, L1Rows, Scaled, Spectral, constrain
from lipdescent.constrained.layers import GroupSort

ITERATIONS = 12
Constraint = Literal["bjorck", "cayley", "spectral", "spectral_hard", "l1_rows", "none"]
Activation = Literal["groupsort", "relu"]

WIDTH_UNIT = "units"


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    depth: int = 1,
    bias: bool = True,
    constraint: Constraint = "bjorck",
    order: int = 1,
    iterations: int = ITERATIONS,
    constant: float = 1.0,
    group_size: int | None = 2,
    activation: Activation = "groupsort",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Network R^input_shape -> R^num_classes with ``depth`` hidden layers of ``width`` units.

    Parameters
    ----------
    constraint : "bjorck" (with ``order``, ``iterations``), "cayley" (torch's ``orthogonal``),
        "spectral" (soft) and "spectral_hard" bound the l2 norm; "l1_rows" the l_inf norm.
        For the spectral ones every layer's bound is ``constant``, for the others only the last
        layer's, which makes it the network's. "none": weights and biases as PyTorch draws them.
    group_size : of the sorted groups; null sorts all.
    activation : "groupsort" or "relu".
    dropout : probability in [0, 1) of a hidden unit to be dropped in training.

    Raises
    ------
    ValueError
        If the group size does not divide the width, an option is unknown or out of range, or a
        constant is given that nothing would hold.
    """
    return network(
        [math.prod(input_shape), *[width] * depth, num_classes],
        flatten=len(input_shape) > 1,
        bias=bias,
        constraint=constraint,
        order=order,
        iterations=iterations,
        constant=constant,
        group_size=group_size,
        activation=activation,
        dropout=dropout,
    )


def network(
    sizes: Sequence[int],
    *,
    flatten: bool = False,
    bias: bool = True,
    constraint: Constraint = "bjorck",
    order: int = 1,
    iterations: int = ITERATIONS,
    constant: float = 1.0,
    group_size: int | None = 2,
    activation: Activation = "groupsort",
    dropout: float = 0.0,
) -> nn.Sequential:
    """:func:`build` with layers of any ``sizes``: inputs, hidden units, ..., outputs."""
    for width in sizes[1:-1]:
        if group_size is not None and activation == "groupsort" and width % group_size:
            raise ValueError(f"group_size = {group_size} does not divide width = {width}")
    if activation not in get_args(Activation):
        allowed = ", ".join(get_args(Activation))
        raise ValueError(f"activation = {activation!r}: allowed are {allowed}")
    if constraint == "none" and constant != 1:
        raise ValueError(f"constant = {constant}: without a constraint nothing holds it")
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    for i in range(len(sizes) - 1):
        linear = nn.Linear(sizes[i], sizes[i + 1], bias=bias)
        if constraint != "none":
            _initialise(linear)
        is_last = i == len(sizes) - 2
        own = constant if is_last or constraint.startswith("spectral") else 1.0
        layers.append(_constrained(linear, constraint, own, order, iterations))
        if not is_last:
            layers.append(GroupSort(group_size) if activation == "groupsort" else nn.ReLU())
            layers += _blocks.dropout(dropout)
    return nn.Sequential(*layers)


def _constrained(
    linear: nn.Linear, constraint: str, constant: float, order: int, iterations: int
) -> nn.Module:
    if constraint == "none":
        return linear
    if constraint == "bjorck":
        return constrain(linear, Bjorck(order=order, iterations=iterations, constant=constant))
    if constraint == "cayley":
        orthogonal = parametrizations.orthogonal(
            linear, orthogonal_map="cayley", use_trivialization=False
        )
        return constrain(orthogonal, Scaled(constant=constant))
    if constraint == "l1_rows":
        return constrain(linear, L1Rows(constant=constant))
    if constraint in ("spectral", "spectral_hard"):
        return constrain(linear, Spectral(constant=constant, soft=constraint == "spectral"))
    raise ValueError(f"constraint = {constraint!r}: allowed are {', '.join(get_args(Constraint))}")


def _initialise(linear: nn.Linear) -> None:
    """Orthonormal weights, and biases that leave the sorting something to do."""
    nn.init.orthogonal_(linear.weight)
    if linear.bias is not None:  # as small as an orthonormal layer's outputs
        reach = max(linear.in_features, linear.out_features) ** -0.5
        nn.init.uniform_(linear.bias, -reach, reach)

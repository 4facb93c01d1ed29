"""Fully connected ReLU network, the FCN of Khromov & Singh (2024, arXiv 2302.10886, sec. 2).

``depth`` hidden layers of equal width. By default nothing is behind the last layer: the ReLU that
Khromov & Singh have there kills logits of wide networks at ordinary learning rates.
"""

import math

from torch import nn

from lipdescent.architectures import _blocks

WIDTH_UNIT = "units"


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    depth: int = 1,
    bias: bool = False,
    output_slope: float | None = None,
    leaky_output: float | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Network R^input_shape -> R^num_classes with ``depth`` hidden ReLU layers of ``width`` units.

    With one hidden layer and no biases it has ``width * (prod(input_shape) + num_classes)``
    parameters.

    Parameters
    ----------
    output_slope : of an activation on the logits at negative values: 0 for a ReLU (Khromov &
        Singh's networks for cross-entropy), 0.01 for their LeakyReLU (for squared error); None for
        no activation.
    leaky_output : the same by its older name.
    dropout : probability in [0, 1) of a hidden unit to be dropped in training.

    Raises
    ------
    ValueError
        If both names are given, the slope is negative, or dropout is not in [0, 1).
    """
    if leaky_output is not None:
        if output_slope is not None:
            raise ValueError(
                f"output_slope = {output_slope} and leaky_output = {leaky_output}: they are one "
                "option, allowed is output_slope alone"
            )
        output_slope = leaky_output
    if output_slope is not None and not output_slope >= 0:
        raise ValueError(f"output_slope = {output_slope}: allowed are numbers >= 0, or null")
    sizes = [math.prod(input_shape), *[width] * depth, num_classes]
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    for i in range(depth + 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1], bias=bias))
        if i < depth:
            layers += [nn.ReLU(), *_blocks.dropout(dropout)]
    if output_slope is not None:
        layers.append(nn.LeakyReLU(output_slope) if output_slope else nn.ReLU())
    return nn.Sequential(*layers)

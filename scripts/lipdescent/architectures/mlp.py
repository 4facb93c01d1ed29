"""Fully connected ReLU network, the FCN of Khromov & Singh (2024, arXiv 2302.10886, sec. 2).

``depth`` hidden layers of equal width, no ReLU after the last layer: it would kill logits.
"""

from __future__ import annotations

import math

from torch import nn


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    depth: int = 1,
    bias: bool = False,
    leaky_output: float | None = None,
) -> nn.Sequential:
    """Network R^input_shape -> R^num_classes with ``depth`` hidden ReLU layers of ``width`` units.

    With one hidden layer and no biases it has ``width * (prod(input_shape) + num_classes)``
    parameters. ``leaky_output`` is the slope of a LeakyReLU on the logits (Khromov & Singh's
    networks for squared error), or None for none.
    """
    sizes = [math.prod(input_shape), *[width] * depth, num_classes]
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    for i in range(depth + 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1], bias=bias))
        if i < depth:
            layers.append(nn.ReLU())
    if leaky_output is not None:
        layers.append(nn.LeakyReLU(leaky_output))
    return nn.Sequential(*layers)

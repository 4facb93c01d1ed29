"""Fully connected network with layer normalisation (Ba et al. 2016, arXiv 1607.06450) and GELU."""

import math

from torch import nn

WIDTH_UNIT = "units"


def build(
    width: int, *, input_shape: tuple[int, ...], num_classes: int, depth: int = 2
) -> nn.Sequential:
    """Network R^input_shape -> R^num_classes; ``depth`` times linear, normalisation, GELU."""
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    features = math.prod(input_shape)
    for _ in range(depth):
        layers += [nn.Linear(features, width), nn.LayerNorm(width), nn.GELU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, num_classes))

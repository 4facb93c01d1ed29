"""Linear maps by their certified norms, and layers that only move numbers around."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic import certified_norms
from lipdescent.networks.known_classes import NO_OPERATION
from lipdescent.shapes import Float64


def linear(
    module: nn.Module, state: dict[str, Tensor], *, norm: str, **_: Any
) -> Float64[Tensor, " models"]:
    """Operator norm of the weights (models, out, in): float64 (models,).

    On an input with further axes, (..., in), the layer acts on each row: the same norm.
    """
    return certified_norms.NORMS[norm](state["weight"].to(torch.float64))


def isometry(module: nn.Module, state: dict[str, Tensor], **_: Any) -> float:
    """1 in every norm: the layer only rearranges its inputs, or does nothing in eval mode."""
    return 1.0


REARRANGING = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
TABLE: dict[type[nn.Module], Callable[..., Tensor | float]] = {
    nn.Linear: linear,
    **dict.fromkeys((*REARRANGING, *NO_OPERATION), isometry),
}

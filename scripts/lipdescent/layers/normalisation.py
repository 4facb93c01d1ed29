"""Normalisation: batch statistics are constants in eval mode, those of the input are not."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lipdescent.arithmetic import ulps
from lipdescent.measurement import NotApplicable
from lipdescent.networks.known_classes import BATCH_NORMS
from lipdescent.shapes import Float64

State = dict[str, Tensor]
InputNorm = nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | _NormBase


def batch_scale(module: _NormBase, state: State) -> Float64[Tensor, "models channels"]:
    """Slope gamma / sqrt(running variance + eps) of each channel: float64 (models, channels).

    It carries at most four roundings.

    Raises
    ------
    ValueError
        In train mode, without running statistics, or for a negative variance.
    """
    if module.training:
        raise ValueError(f"{type(module).__name__} is in train mode; call eval() first")
    if state.get("running_var") is None:
        raise ValueError(f"{type(module).__name__} has no running statistics: it mixes a batch")
    variance = state["running_var"].to(torch.float64) + module.eps
    if not bool((variance > 0).all()):
        raise ValueError(f"{type(module).__name__}: running_var + eps must be > 0")
    weight = state["weight"].to(torch.float64) if "weight" in state else torch.ones_like(variance)
    return weight / variance.sqrt()


def batch_norm(module: _NormBase, state: State, **_: Any) -> Float64[Tensor, " models"]:
    """max |gamma| / sqrt(running variance + eps), in every norm: float64 (models,)."""
    return ulps.round_up(batch_scale(module, state).abs().amax(1), 6)


def input_norm(
    module: InputNorm, state: State, *, norm: str, **_: Any
) -> Float64[Tensor, " models"] | float:
    """Layer, group, RMS and instance norm, l2: max |gamma| / sqrt(eps).

    With sigma^2 = var + eps and z = (x - mean) / sigma, J = diag(gamma) (I - 1 1^T / n
    - z z^T / n) / sigma. The middle factor lies between 0 and I, and sigma = sqrt(eps) where the
    input is constant: the constant is attained, and useless for any other input.
    """
    if isinstance(module, _NormBase) and module.track_running_stats:
        return batch_norm(module, state)
    name = type(module).__name__
    if norm != "l2":
        raise NotApplicable(f"{name}: only its l2 constant is known")
    if not module.eps:
        raise NotApplicable(f"{name} without an explicit eps > 0 has no global constant")
    slope = math.nextafter(1 / math.sqrt(module.eps), math.inf) * (1 + 2**-50)
    if "weight" not in state:
        return slope
    return ulps.round_up(state["weight"].to(torch.float64).abs().flatten(1).amax(1) * slope, 2)


INPUT_NORMS = (
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
TABLE: dict[type[nn.Module], Callable[..., Tensor | float]] = {
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(INPUT_NORMS, input_norm),
}

"""Convolutions and BatchNorms of at most one constant each, or free ones."""

from collections.abc import Sequence

from torch import nn

from lipdescent.constrained.constraints import SpectralConvolution, constrain
from lipdescent.constrained.layers import LimitedBatchNorm1d, LimitedBatchNorm2d

_LIMITED_NORM = {1: LimitedBatchNorm1d, 2: LimitedBatchNorm2d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


class Limit:
    """Largest constant of every layer: "soft" divides what exceeds it, "hard" brings all to it.

    Parameters
    ----------
    coefficient : the constant, or None for free layers.

    Raises
    ------
    ValueError
        For another normalisation.
    """

    def __init__(self, coefficient: float | None, normalisation: str) -> None:
        if normalisation not in ("soft", "hard"):
            raise ValueError(f"normalisation = {normalisation!r}: allowed are soft, hard")
        self.coefficient, self.soft = coefficient, normalisation == "soft"

    def convolution(self, layer: nn.Conv1d | nn.Conv2d, sizes: Sequence[int]) -> nn.Module:
        """The layer, limited on inputs of these sizes."""
        if self.coefficient is None:
            return layer
        rule = SpectralConvolution(layer, sizes, constant=self.coefficient, soft=self.soft)
        return constrain(layer, rule)

    def batch_norm(self, channels: int, dims: int) -> nn.Module:
        """BatchNorm of signals (``dims`` 1) or images (2)."""
        if self.coefficient is None:
            return _NORM[dims](channels)
        return _LIMITED_NORM[dims](channels, constant=self.coefficient, soft=self.soft)

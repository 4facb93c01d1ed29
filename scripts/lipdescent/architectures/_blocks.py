"""Pieces the image architectures share.

Only containers whose structure can be walked: ``nn.Sequential`` and :class:`Residual`.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lipdescent.architectures import _sizes


def dropout(p: float) -> list[nn.Module]:
    """A dropout layer, or none for p = 0: networks without it are as they were.

    Raises
    ------
    ValueError
        If p is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout = {p}: allowed are numbers from 0, less than 1")
    return [nn.Dropout(p)] if p else []


class Residual(nn.Module):
    """``branch(x) + skip(x)``; the skip connection is the identity unless given."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.skip(x)


def four_convolutions(
    width: int,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    pools: Sequence[int] | None,
    bias: bool,
    batchnorm: bool,
    pool_type: type[nn.MaxPool2d | nn.AvgPool2d] = nn.MaxPool2d,
    drop: float = 0.0,
) -> nn.Sequential:
    """Four 3 x 3 convolutions with w, 2w, 4w, 8w channels, pools, one linear layer.

    Behind each of them but the last layer dropout with probability ``drop``.
    """
    sizes = [input_shape[0], width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = []
    for i, pool in enumerate(_sizes.pools_to_one(width, input_shape=input_shape, pools=pools)):
        layers.append(nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, bias=bias))
        if batchnorm:
            layers.append(nn.BatchNorm2d(sizes[i + 1]))
        layers.append(nn.ReLU())
        if pool > 1:
            layers.append(pool_type(pool))
        layers += dropout(drop)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1], num_classes, bias=bias))

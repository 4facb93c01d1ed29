"""DenseNet (Huang et al. 2017, arXiv 1608.06993) for small images.

Each layer takes what all earlier ones of its block gave, side by side. Written as an ``nn.Module``
with its own ``forward``: its bounds are of the network that PyTorch exports.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipdescent.architectures import _sizes

WIDTH_UNIT = "channels"
SIZES = _sizes.multiple_of_4


class DenseNet(nn.Module):
    """Images (n, channels, side, side) -> logits (n, classes)."""

    def __init__(self, channels: int, growth: int, classes: int, blocks: int, layers: int) -> None:
        super().__init__()
        count = 2 * growth
        self.into = nn.Conv2d(channels, count, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for block in range(blocks):
            own = nn.ModuleList()
            for _ in range(layers):
                convolution = nn.Conv2d(count, growth, 3, padding=1, bias=False)
                own.append(nn.Sequential(nn.BatchNorm2d(count), nn.ReLU(), convolution))
                count += growth
            self.blocks.append(own)
            if block < blocks - 1:
                self.transitions.append(nn.Conv2d(count, count // 2, 1, bias=False))
                count //= 2
        self.last = nn.BatchNorm2d(count)
        self.head = nn.Linear(count, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for i, layers in enumerate(self.blocks):
            for layer in layers.children():
                x = torch.cat([x, layer(x)], dim=1)
            if i < len(self.transitions):
                x = F.avg_pool2d(self.transitions[i](x), 2)
        return self.head(F.relu(self.last(x)).mean(dim=(2, 3)))


def build(
    width: int, *, input_shape: tuple[int, ...], num_classes: int, blocks: int = 2, layers: int = 2
) -> nn.Module:
    """DenseNet without bottlenecks; ``width`` is its growth rate, the first layer has twice that.

    Parameters
    ----------
    blocks : dense blocks, at most 3, with a 1 x 1 convolution to half of the channels and a 2 x 2
        average pool between them.
    layers : of a block: BatchNorm, ReLU, 3 x 3 convolution.

    Raises
    ------
    ValueError
        If the inputs are not square images whose side 4 divides, or there are other numbers of
        blocks or layers.
    """
    SIZES(width, input_shape=input_shape)
    if not 1 <= blocks <= 3 or layers < 1:
        raise ValueError(f"blocks = {blocks}, layers = {layers}: allowed are 1 to 3 and 1 or more")
    return DenseNet(input_shape[0], width, num_classes, blocks, layers)

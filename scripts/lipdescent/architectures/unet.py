"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with a linear layer on the mean of its pixels.

Two levels: what is sampled up again is concatenated with what it was sampled down from. Written as
an ``nn.Module`` with its own ``forward``: its bounds are of the network that PyTorch exports.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipdescent.architectures import _sizes

WIDTH_UNIT = "channels"
SIZES = _sizes.multiple_of_4


class UNet(nn.Module):
    """Images (n, channels, side, side) -> logits (n, classes)."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.up1 = nn.Conv2d(6 * width, 2 * width, 3, padding=1)
        self.up2 = nn.Conv2d(3 * width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.into(x))
        middle = F.relu(self.down1(F.max_pool2d(fine, 2)))
        coarse = F.relu(self.down2(F.max_pool2d(middle, 2)))
        up = torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], dim=1)
        up = F.relu(self.up1(up))
        up = torch.cat([F.interpolate(up, scale_factor=2.0), fine], dim=1)
        return self.head(F.relu(self.up2(up)).mean(dim=(2, 3)))


def build(width: int, *, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """U-Net of ``width``, twice and four times as many channels at each level, 3 x 3 convolutions.

    Raises
    ------
    ValueError
        If the inputs are not square images whose side 4 divides.
    """
    SIZES(width, input_shape=input_shape)
    return UNet(input_shape[0], width, num_classes)

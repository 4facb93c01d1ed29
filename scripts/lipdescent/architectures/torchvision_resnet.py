"""torchvision's ResNet18 and ResNet50 (He et al. 2015, arXiv 1512.03385) at any width.

At width 64 its state fits the weights published for ``torchvision.models.resnet18`` and ``50``.
"""

from typing import Literal

import torch
from torch import nn

from lipdescent.architectures import _sizes

SIZES = _sizes.image
WIDTH_UNIT = "channels"
BLOCKS = {18: ("BasicBlock", (2, 2, 2, 2)), 50: ("Bottleneck", (3, 4, 6, 3))}


def build(
    width: int, *, input_shape: tuple[int, ...], num_classes: int, depth: Literal[18, 50] = 18
) -> nn.Module:
    """torchvision's ``ResNet`` with stages of w, 2w, 4w, 8w planes.

    Images of any size fit: the last pool is adaptive.

    Raises
    ------
    ValueError
        If ``depth`` is neither 18 nor 50, or the inputs are not images (channels, height, width).
    """
    from torchvision.models import resnet

    if depth not in BLOCKS:
        raise ValueError(f"depth = {depth}: allowed are {', '.join(map(str, BLOCKS))}")
    SIZES(width, input_shape=input_shape)
    block, counts = getattr(resnet, BLOCKS[depth][0]), BLOCKS[depth][1]
    # torchvision's constructor fixes 64 planes: take its structure, make the layers at our width.
    with torch.device("meta"):
        net = resnet.ResNet(block, list(counts), num_classes=num_classes)
    net.inplanes = width
    net.conv1 = nn.Conv2d(input_shape[0], width, 7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    for stage, count in enumerate(counts):
        stride = 1 if stage == 0 else 2
        layer = net._make_layer(block, width * 2**stage, count, stride=stride)
        setattr(net, f"layer{stage + 1}", layer)
    net.fc = nn.Linear(width * 8 * block.expansion, num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net

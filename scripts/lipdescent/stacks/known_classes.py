"""Classes of PyTorch and torchvision that all readers of networks take for the same.

The forward pass of a stack, the table of layers and the views of a network's structure read them
here, so that none skips a layer that another refuses.
"""

from __future__ import annotations

from torch import nn

# Nothing in eval mode; random numbers in training.
DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
RESNET = "torchvision.models.resnet"  # only imported on demand, so its classes go by their names
# Block of torchvision's ResNets -> the layers of its branch, in their order. ``downsample``, if it
# has one, is on the skip connection; a ReLU follows their sum.
RESNET_BRANCHES = {
    f"{RESNET}.BasicBlock": ("conv1", "bn1", "relu", "conv2", "bn2"),
    f"{RESNET}.Bottleneck": ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3"),
}
# Of the whole network, up to its flattening, which ``fc`` follows.
RESNET_TRUNK = (
    "conv1",
    "bn1",
    "relu",
    "maxpool",
    "layer1",
    "layer2",
    "layer3",
    "layer4",
    "avgpool",
)

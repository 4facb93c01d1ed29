"""Classes of PyTorch, torchvision and this library that every view of a network takes for the same.

So none skips a layer that another refuses. What is only imported on demand goes by its name.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from lipdescent.networks.expressions import Node, chain, residual

# Nothing in eval mode; random numbers in training.
DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
NO_OPERATION = (nn.Identity, *DROPOUT)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_RESNET = "torchvision.models.resnet"


def _torchvision_block(names: Sequence[str]) -> Callable[[Any], Node]:
    def read(m: Any) -> Node:
        branch = chain(*(getattr(m, name) for name in names))
        return chain(residual(branch, m.downsample), m.relu)

    return read


def _torchvision_resnet(m: Any) -> Node:
    blocks = m.layer1, m.layer2, m.layer3, m.layer4
    return chain(m.conv1, m.bn1, m.relu, m.maxpool, *blocks, m.avgpool, nn.Flatten(), m.fc)


def _features_classifier(m: Any) -> Node:
    return chain(m.features, m.avgpool, nn.Flatten(), m.classifier)


# Class -> how it puts its modules together.
CONTAINERS: dict[str, Callable[[Any], Node]] = {
    "lipdescent.architectures._blocks.Residual": lambda m: residual(m.branch, m.skip),
    f"{_RESNET}.BasicBlock": _torchvision_block(("conv1", "bn1", "relu", "conv2", "bn2")),
    f"{_RESNET}.Bottleneck": _torchvision_block(
        ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3")
    ),
    f"{_RESNET}.ResNet": _torchvision_resnet,
    "torchvision.models.vgg.VGG": _features_classifier,
    "torchvision.models.alexnet.AlexNet": _features_classifier,
}


def flattens(module: nn.Module) -> bool:
    """Whether ``module`` makes vectors of whatever it is given."""
    return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)


def is_attention(module: nn.Module) -> bool:
    """Whether ``module`` itself is self-attention, PyTorch's or this library's."""
    own = "lipdescent.architectures.vit.SelfAttention"
    return isinstance(module, nn.MultiheadAttention) or qualified_name(module) == own


def is_sequential(module: nn.Module) -> bool:
    """``nn.Sequential``, or a subclass that only fills it."""
    kind: Any = type(module)
    return isinstance(module, nn.Sequential) and (
        kind.forward is nn.Sequential.forward
        and kind.__iter__ is nn.Sequential.__iter__
        and kind.__call__ is nn.Module.__call__
    )


def qualified_name(module: nn.Module) -> str:
    """Name of the module's class and where it is written."""
    return f"{type(module).__module__}.{type(module).__qualname__}"

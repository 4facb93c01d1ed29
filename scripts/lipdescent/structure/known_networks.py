"""Classes whose ``forward`` is known: how they put their layers together.

Keyed by qualified name, so that torchvision is not imported to look at another network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lipdescent.layers import activation
from lipdescent.layers.table import TABLE, declares_constant
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.known_classes import DROPOUT, RESNET, RESNET_BRANCHES, RESNET_TRUNK
from lipdescent.structure.expressions import Node, chain, residual

NO_OPERATION = (nn.Identity, *DROPOUT)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _residual(m: nn.Module) -> Node:
    return residual(m.branch, m.skip)


def _torchvision_block(names: Sequence[str]) -> Callable[[nn.Module], Node]:
    def read(m: nn.Module) -> Node:
        branch = chain(*(getattr(m, name) for name in names))
        return chain(residual(branch, m.downsample), m.relu)

    return read


def _torchvision_resnet(m: nn.Module) -> Node:
    return chain(*(getattr(m, name) for name in RESNET_TRUNK), nn.Flatten(), m.fc)


def _features_classifier(m: nn.Module) -> Node:
    return chain(m.features, m.avgpool, nn.Flatten(), m.classifier)


STRUCTURES = {
    "lipdescent.architectures._blocks.Residual": _residual,
    **{block: _torchvision_block(names) for block, names in RESNET_BRANCHES.items()},
    f"{RESNET}.ResNet": _torchvision_resnet,
    "torchvision.models.vgg.VGG": _features_classifier,
    "torchvision.models.alexnet.AlexNet": _features_classifier,
}
ATTENTION = {"lipdescent.architectures.vit.SelfAttention"}


def structure(module: nn.Module, path: str) -> Node | None:
    """The expression of a container, None for a layer of the table.

    Raises
    ------
    TypeError
        For an unknown class that does not say what it computes, naming it and its ``path``.
    """
    if type(module) in TABLE or declares_constant(module):
        return None
    if hasattr(module, "lipschitz_structure"):
        return module.lipschitz_structure()
    name = _qualified_name(module)
    if name in STRUCTURES:
        return STRUCTURES[name](module)
    if is_sequential(module):
        return chain(*module)
    raise TypeError(
        f"{path or 'the network'}: unknown module {name}; allowed are the layers in "
        "lipdescent.layers.table; a class with a forward of its own says what that computes in a "
        "method lipschitz_structure(self), with `from lipdescent import chain, residual`, "
        "such as: return chain(residual(self.conv), nn.ReLU())"
    )


def is_sequential(module: nn.Module) -> bool:
    """``nn.Sequential``, or a subclass that only fills it."""
    kind = type(module)
    return isinstance(module, nn.Sequential) and (
        kind.forward is nn.Sequential.forward
        and kind.__iter__ is nn.Sequential.__iter__
        and kind.__call__ is nn.Module.__call__
    )


def refuse_attention(module: nn.Module) -> None:
    """Raise NotApplicable if any submodule is an attention layer."""
    for path, m in module.named_modules():
        known = TABLE.get(type(m)) is activation.attention
        if known or isinstance(m, nn.MultiheadAttention) or _qualified_name(m) in ATTENTION:
            try:
                activation.attention(m, {})
            except NotApplicable as error:
                raise NotApplicable(f"{path or 'the network'}: {error}") from None


def _qualified_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"

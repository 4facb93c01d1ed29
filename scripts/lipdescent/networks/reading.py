"""From an ``nn.Module`` to the expression of what it computes."""

from dataclasses import replace
from typing import Any

from torch import nn

from lipdescent.networks.declared import declaration_of
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum, chain, steps
from lipdescent.networks.known_classes import CONTAINERS, is_sequential, qualified_name


class Unreadable(TypeError):
    """A network, or a part of it, of which nothing says what it computes."""


def read(module: nn.Module, *, declared: bool = True) -> Node:
    """Expression of a network: every container taken apart, chains flat, no shapes yet.

    What is no container is a layer, whatever its class: each view of the expression refuses those
    that it does not know. Nothing is evaluated or checked but what ``lipschitz_structure`` says.

    Parameters
    ----------
    declared : take modules with a ``lipschitz_structure`` apart as it says. False where what counts
        is what calling them does, such as training: they are layers then.

    Raises
    ------
    TypeError, ValueError
        For a ``lipschitz_structure`` with other things than modules and expressions of them, or
        with weights that are not the network's.
    NotApplicable
        Where a ``lipschitz_structure`` says so.
    """
    names = {id(m): name for name, m in module.named_modules()}
    return _read(module, names, "", declared)


def declares(module: nn.Module) -> bool:
    """Whether a part of the network says itself what it computes."""
    return any(hasattr(part, "lipschitz_structure") for part in module.modules())


def unknown(layer: Layer) -> Unreadable:
    """What a view raises at a layer that it does not know and cannot do without."""
    return Unreadable(
        f"{layer.path or 'the network'}: unknown module {qualified_name(layer.module)}; allowed "
        "are the layers in lipdescent.layers.table; a class with a forward of its own says what "
        "that computes in a method lipschitz_structure(self), with `from lipdescent import chain, "
        "residual`, such as: return chain(residual(self.conv), nn.ReLU())"
    )


def _read(part: nn.Module | Node, names: dict[int, str], owner: str, declared: bool) -> Node:
    if isinstance(part, Chain):
        read = [_read(p, names, owner, declared) for p in part.parts]
        flat = tuple(step for node in read for step in steps(node))
        return flat[0] if len(flat) == 1 else Chain(flat)
    if isinstance(part, (Sum, Concat)):
        return replace(part, parts=tuple(_read(p, names, owner, declared) for p in part.parts))
    if isinstance(part, Layer):
        return part
    if not isinstance(part, nn.Module):
        raise TypeError(f"{owner}: {part!r} in lipschitz_structure(); allowed: modules, chain, ...")
    if id(part) in names:
        path = names[id(part)]
    elif next(part.parameters(), None) is None and next(part.buffers(), None) is None:
        path = f"{owner}.<{type(part).__name__}>"
        part.eval()  # made by lipschitz_structure(), nobody else has set its mode
    else:
        raise ValueError(
            f"{owner}: a {type(part).__name__} in lipschitz_structure() is no submodule"
        )
    inner = _inside(part, declared)
    return Layer(part, path) if inner is None else _read(inner, names, path, declared)


def _inside(module: Any, declared: bool) -> Node | None:
    """The expression of a container, None for a layer."""
    if declaration_of(module) is not None:
        return None
    if hasattr(module, "lipschitz_structure"):
        return module.lipschitz_structure() if declared else None
    if known := CONTAINERS.get(qualified_name(module)):
        return known(module)
    return chain(*module) if is_sequential(module) else None

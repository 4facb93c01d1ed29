"""What a network computes, as an expression of its layers.

``nn.Sequential``, residual blocks and the networks of :mod:`lipdescent.networks.known_classes`
are read off their class. A module with its own ``forward`` says what it computes in a method::

    class Block(nn.Module):
        def forward(self, x):
            return F.relu(self.shortcut(x) + self.norm(self.conv(x)))

        def lipschitz_structure(self):
            return chain(residual(chain(self.conv, self.norm), self.shortcut), nn.ReLU())

The parts are modules, and expressions of :func:`chain`, :func:`residual`, :func:`add` and
:func:`concat`; a module that is not a submodule stands for a function and has no weights.
:func:`lipdescent.structure.trace.trace` evaluates the expression and calls the network at random
inputs and raises if they differ. ``lipschitz_structure`` may raise ``NotApplicable`` where there
is no global constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from lipdescent.networks.declared import declaration_of


@dataclass(frozen=True)
class Layer:
    """A module that is no container, its path in the network, its shapes without the batch axis.

    ``scale`` is a batch normalisation that follows and is multiplied into the weights.
    """

    module: nn.Module
    path: str
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    scale: Layer | None = None

    @property
    def place(self) -> str:
        """What errors call it."""
        return place(self.module, self.path)

    def named(self, tensor: str) -> str:
        """Name in the network of one of the layer's parameters or buffers."""
        return f"{self.path}.{tensor}" if self.path else tensor

    def state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The layer's tensors under their names in it, from those of the network."""
        own = [*self.module._parameters, *self.module._buffers]
        if declaration_of(self.module) is not None:  # of its inner modules, too
            parts = [*self.module.named_parameters(), *self.module.named_buffers()]
            own = [name for name, _ in parts]
        return {name: state[self.named(name)] for name in own if self.named(name) in state}


@dataclass(frozen=True)
class Chain:
    """The parts one after another."""

    parts: tuple


@dataclass(frozen=True)
class Sum:
    """The sum of the parts, each at the same input."""

    parts: tuple


@dataclass(frozen=True)
class Concat:
    """The outputs of the parts, each at the same input, side by side along ``dim``."""

    parts: tuple
    dim: int = 1


Node = Layer | Chain | Sum | Concat


def place(module: nn.Module, path: str) -> str:
    """Path and class of a module, as every error names them."""
    return f"{path or 'the network'} ({type(module).__name__})"


def steps(node: Node) -> tuple[Node, ...]:
    """What comes one after another: a chain's parts, or the node itself."""
    return node.parts if isinstance(node, Chain) else (node,)


def layers(node: Node) -> Iterator[Layer]:
    """All layers, in the order of evaluation."""
    if isinstance(node, Layer):
        yield node
    else:
        for part in node.parts:
            yield from layers(part)


def chain(*parts: nn.Module | Node) -> Chain:
    """``parts`` one after another, the first one applied first."""
    return Chain(parts)


def residual(branch: nn.Module | Node, skip: nn.Module | Node | None = None) -> Sum:
    """``branch(x) + skip(x)``; the skip connection is the identity unless given."""
    return Sum((branch, nn.Identity() if skip is None else skip))


def add(*parts: nn.Module | Node) -> Sum:
    """Sum of ``parts``, each at the same input."""
    return Sum(parts)


def concat(*parts: nn.Module | Node, dim: int = 1) -> Concat:
    """Outputs of ``parts``, each at the same input, concatenated along ``dim`` (0 is the batch)."""
    return Concat(parts, dim)

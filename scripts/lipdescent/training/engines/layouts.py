"""How engines hold the tensors of their models, and what their backward passes begin with."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from lipdescent.networks.expressions import Layer, layers, steps
from lipdescent.networks.known_classes import DROPOUT
from lipdescent.networks.reading import read
from lipdescent.training.engines.engine import Engine, Loss


def chain_layers(module: nn.Module) -> list[Layer]:
    """The layers of a network without branches, those that do nothing left out; else none."""
    parts = steps(read(module, declared=False))
    layers = [part for part in parts if isinstance(part, Layer)]
    if len(layers) < len(parts):
        return []
    return [layer for layer in layers if type(layer.module) is not nn.Identity]


def undrawn(module: nn.Module) -> str | None:
    """The first layer whose random numbers no engine draws, if there is one.

    That is every dropout with p > 0 but ``nn.Dropout``, and ``nn.Dropout`` inside of a layer that
    is called as a whole.
    """
    for layer in layers(read(module, declared=False)):
        for name, part in layer.module.named_modules():
            alone = part is layer.module and type(part) is nn.Dropout
            if isinstance(part, DROPOUT) and part.p > 0 and not alone:
                return f"{layer.named(name) if name else layer.path} ({part})"
    return None


class NamedState(Engine):
    """Tensors that lie as the module names and shapes them, for engines by autograd."""

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Loss) -> None:
        self._loss = loss
        self._state = {name: tensor.clone() for name, tensor in state.items()}
        self._trained = [name for name, _ in module.named_parameters()]

    @property
    def parameters(self) -> list[Tensor]:
        return [self._state[name] for name in self._trained]

    @property
    def extra_state(self) -> list[Tensor]:
        return [t for name, t in self._state.items() if name not in self._trained]

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def live_weight(self, name: str) -> Tensor:
        return self._state[name]


class FusedChain(Engine):
    """Weights and biases of a chain of layers, which lie as a hand-written pass reads them."""

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Loss) -> None:
        self._layers = [layer for layer in chain_layers(module) if layer.state(state)]
        self._loss = loss
        own = [layer.state(state) for layer in self._layers]
        self._weights = [_copy(self._laid_out(i, t["weight"])) for i, t in enumerate(own)]
        self._biases = [t["bias"].clone() if "bias" in t else None for t in own]

    @abstractmethod
    def _laid_out(self, place: int, weight: Tensor) -> Tensor:
        """The weight of a layer, by its place in the chain, from the module's shape."""

    @abstractmethod
    def _named(self, place: int, weight: Tensor) -> Tensor:
        """The inverse of :meth:`_laid_out`."""

    @property
    def parameters(self) -> list[Tensor]:
        return self._weights + [b for b in self._biases if b is not None]

    @property
    def extra_state(self) -> list[Tensor]:
        return []

    def live_weight(self, name: str) -> Tensor:
        place = [layer.named("weight") for layer in self._layers].index(name)
        return self._named(place, self._weights[place])

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for place, layer in enumerate(self._layers):
            state[layer.named("weight")] = _copy(self._named(place, self._weights[place]))
            if (bias := self._biases[place]) is not None:
                state[layer.named("bias")] = bias.clone()
        return state


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def logit_gradient(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of every sample's loss at its logits, (models, batch, classes) as both are.

    By the loss's closed form ``loss.logit_gradient`` where it has one, else by autograd.
    """
    closed_form = getattr(loss, "logit_gradient", None)
    if closed_form is not None:
        return closed_form(logits, targets)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf, targets).sum(), leaf)[0]


def behind_activation(loss: Loss, activation: nn.Module) -> Loss:
    """``loss`` of what a ReLU or LeakyReLU makes of the logits, with its gradient at the logits."""
    slope = float(getattr(activation, "negative_slope", 0.0))

    def activated(logits: Tensor) -> Tensor:
        return nn.functional.leaky_relu(logits, slope) if slope else logits.clamp_min(0)

    def behind(logits: Tensor, targets: Tensor) -> Tensor:
        return loss(activated(logits), targets)

    def gradient(logits: Tensor, targets: Tensor) -> Tensor:
        delta = logit_gradient(loss, activated(logits), targets)
        return torch.ops.aten.leaky_relu_backward(delta, logits, slope, False)

    vars(behind)["logit_gradient"] = gradient
    return behind

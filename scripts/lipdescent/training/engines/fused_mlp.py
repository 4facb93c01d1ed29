"""Gradients of a stack of fully connected ReLU networks by batched matrix products.

Autograd over a stack reaches 27-44 % of the processor's matrix-product rate at these sizes; this
hand-written pass reaches more (benchmarks/stacking.py) because the gradient products accumulate
into the momentum buffers in place, nothing is allocated in a step, and weights lie in memory as
the products read them: hidden weights as (in, out), the last one as (out, in).
"""

import torch
from torch import Tensor, nn

from lipdescent.networks.known_classes import flattens
from lipdescent.stacks import products
from lipdescent.training.engines.engine import Loss, Setting
from lipdescent.training.engines.layouts import (
    FusedChain,
    behind_activation,
    chain_layers,
    logit_gradient,
)

# Activations and weights of a block should stay in a core's share of the cache.
CPU_BLOCK_BYTES = 4 << 20
OUTPUTS = (nn.ReLU, nn.LeakyReLU)  # that may be behind the last layer


def output_slope(last: nn.Module) -> float:
    """At negative values, of the activation behind the logits; 1 where there is none."""
    if type(last) not in OUTPUTS:
        return 1.0
    return float(getattr(last, "negative_slope", 0.0))


def supports(module: nn.Module) -> bool:
    """True for [Flatten,] Linear, ReLU, ..., Linear [, ReLU or LeakyReLU], biases or not."""
    layers = [layer.module for layer in chain_layers(module)]
    if layers and flattens(layers[0]):
        layers = layers[1:]
    if len(layers) > 1 and type(layers[-1]) in OUTPUTS:
        layers = layers[:-1]
    kinds = [type(layer) for layer in layers]
    return bool(layers) and kinds == ([nn.Linear, nn.ReLU] * len(kinds))[: len(kinds) // 2 * 2 + 1]


class StackedMLP(FusedChain):
    """See :class:`lipdescent.training.engines.engine.Engine`."""

    supports = staticmethod(supports)

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Loss) -> None:
        if not supports(module):
            raise TypeError(f"not a chain of Linear and ReLU layers: {module}")
        output = chain_layers(module)[-1].module
        loss = behind_activation(loss, output) if type(output) in OUTPUTS else loss
        self.output_slope = output_slope(output)
        super().__init__(module, state, loss)
        self._workspaces: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {}

    @classmethod
    def pays(cls, module: nn.Module, setting: Setting) -> bool:
        """On every device, without autocast."""
        return setting.precision != "bfloat16"

    @classmethod
    def at_once(cls, module: nn.Module, setting: Setting) -> int | None:
        """On a CPU, models whose activations and weights stay in the cache from step to step."""
        if setting.device.type != "cpu":
            return super().at_once(module, setting)
        weights = [p for name, p in module.named_parameters() if name.endswith("weight")]
        return CPU_BLOCK_BYTES // sum(
            2 * 4 * (w.numel() + setting.batch_size * w.shape[0]) for w in weights
        )

    def _laid_out(self, place: int, weight: Tensor) -> Tensor:
        return weight if place == len(self._layers) - 1 else weight.mT

    _named = _laid_out

    def accumulate(
        self,
        buffers: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        decay: float,
        keys: Tensor | None = None,
    ) -> None:
        del keys  # a chain that it supports has no dropout
        inputs = inputs.flatten(2)
        hidden, deltas = self._workspace(inputs.shape[:2])
        delta = logit_gradient(self._loss, self._forward(inputs, hidden), targets)
        self._backward(buffers, inputs, hidden, [*deltas, delta], decay)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs = inputs.flatten(2)
        hidden, _ = self._workspace(inputs.shape[:2])
        return self._loss(self._forward(inputs, hidden), targets)

    def _workspace(self, shape: torch.Size) -> tuple[list[Tensor], list[Tensor]]:
        """Memory for the activations and their gradients, kept from step to step."""
        key = tuple(shape)
        if key not in self._workspaces:
            widths = [w.shape[2] for w in self._weights[:-1]]
            hidden, deltas = (
                [self._weights[0].new_empty(*key, width) for width in widths] for _ in range(2)
            )
            self._workspaces[key] = hidden, deltas
        return self._workspaces[key]

    def _forward(self, inputs: Tensor, hidden: list[Tensor]) -> Tensor:
        """Fill ``hidden`` with the activations; logits (num_models, batch, num_classes)."""
        x = inputs
        for weight, bias, out in zip(self._weights, self._biases, hidden, strict=False):
            if bias is None:
                products.bmm(x, weight, out=out)
            else:
                products.baddbmm(bias.unsqueeze(1), x, weight, out=out)
            x = out.clamp_min_(0)
        # (out, in) @ (in, batch): with few logits, thrice the speed of (batch, in) @ (in, out).
        weight, bias = self._weights[-1], self._biases[-1]
        if bias is None:
            return products.bmm(weight, x.mT).mT
        return products.baddbmm(bias.unsqueeze(2), weight, x.mT).mT

    def _backward(
        self,
        buffers: list[Tensor],
        inputs: Tensor,
        hidden: list[Tensor],
        deltas: list[Tensor],
        decay: float,
    ) -> None:
        """``deltas`` : gradients with respect to each layer's output; only the last is filled."""
        mean = 1.0 / inputs.shape[1]
        bias_buffers = iter(buffers[len(self._weights) :])
        bias_of = [None if b is None else next(bias_buffers) for b in self._biases]
        last = len(self._weights) - 1
        for i in range(last, -1, -1):
            below, delta = hidden[i - 1] if i else inputs, deltas[i]
            left, right = (delta.mT, below) if i == last else (below.mT, delta)
            products.baddbmm(buffers[i], left, right, beta=decay, alpha=mean, out=buffers[i])
            if (bias := bias_of[i]) is not None:
                bias.mul_(decay).add_(delta.sum(1), alpha=mean)
            if i:
                weight = self._weights[i] if i == last else self._weights[i].mT
                out = products.bmm(delta, weight, out=deltas[i - 1])
                torch.ops.aten.threshold_backward.grad_input(out, below, 0, grad_input=out)

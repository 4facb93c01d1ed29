"""Gradients of a stack of plain convolutional networks by matrix products, on a CPU.

What :mod:`lipdescent.stacks.convolution` does under autograd, here with every view made once and
no memory allocated in a step: at few channels that is most of the time. At many channels the
products are, and there are fewer of them (:mod:`lipdescent.training.engines.winograd`), so that it
is faster than stepping the models one after the other at every width
(benchmarks/image_stacking.py). A few models and a part of the batch are worked on at a time, as the
cache holds.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.networks.known_classes import flattens
from lipdescent.stacks.pooling import tiling
from lipdescent.training.engines.cnn_workspace import Stage, StageWorkspace
from lipdescent.training.engines.engine import Loss, Setting
from lipdescent.training.engines.layouts import FusedChain, chain_layers, logit_gradient

# What a group of models touches for a part of the batch should stay in a core's cache.
CACHE_BYTES = 8 << 20
# Fewer samples than this at a time, and the calls cost more than the work.
SMALLEST_PART = 64
# Whether it is taken on CUDA, too. On an H100 it takes 1.1 of the time of products by rows under
# autograd at width 12, .9 at 20 and .65 at 64 (docs/gpu.md), but its gradients were compared with
# the processor's on a pretended device only.
ON_CUDA = False


def _stages(module: nn.Module) -> list[Stage] | None:
    """The stages of [Conv2d, ReLU, (MaxPool2d)], ..., Flatten, Linear; None for anything else."""
    layers = chain_layers(module)
    body, end = layers[:-2], [layer.module for layer in layers[-2:]]
    if not (body and flattens(end[0]) and type(end[1]) is nn.Linear):
        return None
    stages: list[Stage] = []
    while body:
        if [type(layer.module) for layer in body[:2]] != [nn.Conv2d, nn.ReLU]:
            return None
        conv: Any = body[0].module
        pool: Any = (1, 1)
        body = body[2:]
        if body and type(body[0].module) is nn.MaxPool2d:
            pool, body = tiling(body[0].module), body[1:]
        if pool is None or not _keeps_size(conv):
            return None
        stages.append(Stage((conv.in_channels, conv.out_channels), conv.kernel_size, pool))
    return stages


def _keeps_size(conv: nn.Conv2d) -> bool:
    odd = all(k % 2 for k in conv.kernel_size)
    same = conv.padding == tuple(k // 2 for k in conv.kernel_size)
    plain = conv.padding_mode == "zeros" and conv.groups == 1
    return odd and same and plain and conv.stride == conv.dilation == (1, 1)


def supports(module: nn.Module) -> bool:
    """True for chains of size-keeping Conv2d, ReLU and tiling MaxPool2d, then Flatten, Linear."""
    return _stages(module) is not None


def _each(function: Callable, *stacks: Tensor) -> Tensor:
    """A matrix product per model: a batched one rounds otherwise for one model than for several."""
    return torch.stack([function(*matrices) for matrices in zip(*stacks, strict=True)])


class StackedCNN(FusedChain):
    """See :class:`lipdescent.training.engines.engine.Engine`.

    Convolution kernels lie as (models, out, kernel height * kernel width * in).
    """

    supports = staticmethod(supports)

    def __init__(self, module: nn.Module, state: dict[str, Tensor], loss: Loss) -> None:
        stages = _stages(module)
        if stages is None:
            raise TypeError(f"not a chain of convolutions, ReLUs and tiling pools: {module}")
        self._stages_of = stages
        super().__init__(module, state, loss)
        self._workspaces: dict[tuple[int, ...], list[StageWorkspace]] = {}

    @classmethod
    def pays(cls, module: nn.Module, setting: Setting) -> bool:
        """On a CPU, without autocast."""
        return (ON_CUDA or setting.device.type == "cpu") and setting.precision != "bfloat16"

    @classmethod
    def at_once(cls, module: nn.Module, setting: Setting) -> int | None:
        """It takes a few of its models at a time by itself."""
        return None

    def _laid_out(self, place: int, weight: Tensor) -> Tensor:
        is_kernel = place < len(self._stages_of)
        return weight.permute(0, 1, 3, 4, 2).flatten(2) if is_kernel else weight

    def _named(self, place: int, weight: Tensor) -> Tensor:
        if place == len(self._stages_of):
            return weight
        stage = self._stages_of[place]
        (inputs, out), kernel = stage.channels, stage.kernel
        return weight.view(-1, out, *kernel, inputs).permute(0, 1, 4, 2, 3)

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
        models, batch = inputs.shape[:2]
        group, part = self._sizes(inputs)
        for buffer in buffers:
            buffer.mul_(decay)
        for first in range(0, models, group):
            chosen = slice(first, first + group)
            own = [buffer[chosen] for buffer in buffers]
            for begin in range(0, batch, part):
                rows = slice(begin, begin + part)
                self._add(own, inputs[chosen, rows], targets[chosen, rows], chosen, 1 / batch)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        models, batch = inputs.shape[:2]
        group, part = self._sizes(inputs)
        out = inputs.new_empty(models, batch)
        for first in range(0, models, group):
            chosen = slice(first, first + group)
            weights = [w[chosen] for w in self._weights]
            biases = [None if b is None else b[chosen] for b in self._biases]
            for begin in range(0, batch, part):
                rows = slice(begin, begin + part)
                own = inputs[chosen, rows]
                _, logits = self._forward(self._workspace(own), own, weights, biases)
                out[chosen, rows] = self._loss(logits, targets[chosen, rows])
        return out

    def _sizes(self, inputs: Tensor) -> tuple[int, int]:
        """Models and samples that are worked on at a time, by what the cache holds."""
        models, batch, _, height, width = inputs.shape
        if inputs.device.type != "cpu":
            return models, batch
        floats, pixels = 0, height * width
        for stage in self._stages_of:
            floats += pixels * (stage.kernel[1] + 2) * sum(stage.channels)
            pixels //= stage.pool[0] * stage.pool[1]
        per_sample = floats * inputs.element_size()
        part = min(batch, max(SMALLEST_PART, CACHE_BYTES // per_sample))
        part = -(-batch // -(-batch // part))  # parts of about equal size
        return max(1, min(models, CACHE_BYTES // (per_sample * part))), part

    def _workspace(self, inputs: Tensor) -> list[StageWorkspace]:
        key = tuple(inputs.shape)
        if key not in self._workspaces:
            models, batch, _, height, width = key
            space = height, width
            stages = []
            for stage in self._stages_of:
                stages.append(StageWorkspace(stage, inputs, models, space, batch))
                space = stages[-1].space
            self._workspaces[key] = stages
        return self._workspaces[key]

    def _add(
        self, buffers: list[Tensor], inputs: Tensor, targets: Tensor, chosen: slice, factor: float
    ) -> None:
        """Add ``factor`` times the gradient of the summed loss to ``buffers``."""
        stages, weights = self._workspace(inputs), [w[chosen] for w in self._weights]
        biases = [None if b is None else b[chosen] for b in self._biases]
        features, logits = self._forward(stages, inputs, weights, biases)
        delta = logit_gradient(self._loss, logits, targets).mT  # (models, classes, batch)
        gradients = [_each(torch.mm, delta, features.mT)]
        bias_gradients: list[Tensor | None] = [delta.sum(2)]
        top = stages[-1]
        models, rows, channels, *rest = top.pooled_slope.shape
        below = _each(torch.mm, weights[-1].mT, delta).view(models, channels, rows, *rest)
        top.pooled_slope.copy_(below.transpose(1, 2))
        for i in range(len(stages) - 1, -1, -1):
            slope = stages[i].pooled_slope
            torch.ops.aten.threshold_backward.grad_input(
                slope, stages[i].pooled, 0, grad_input=slope
            )
            gradient, bias_gradient = stages[i].backward(
                weights[i], stages[i - 1] if i else None, biased=biases[i] is not None
            )
            gradients.insert(0, gradient)
            bias_gradients.insert(0, bias_gradient)
        pairs = zip(bias_gradients, biases, strict=True)
        kept = [g for g, b in pairs if g is not None and b is not None]
        for buffer, gradient in zip(buffers, gradients + kept, strict=True):
            buffer.add_(gradient, alpha=factor)

    def _forward(
        self,
        stages: list[StageWorkspace],
        inputs: Tensor,
        weights: list[Tensor],
        biases: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Features (models, features, batch) of the last layer, logits (models, batch, classes)."""
        stages[0].image.copy_(inputs.permute(0, 3, 2, 4, 1))
        for i, stage in enumerate(stages):
            stage.forward(weights[i], biases[i])
            if i + 1 < len(stages):
                torch.clamp_min(stage.pooled, 0, out=stages[i + 1].image)
        features = stages[-1].pooled.clamp_min(0).transpose(1, 2).flatten(1, 3)
        logits = _each(torch.mm, weights[-1], features)
        if biases[-1] is not None:
            logits += biases[-1].unsqueeze(2)
        return features, logits.mT

"""Optimisers over a stack: every tensor has a leading model axis, so has the learning rate.

Update rules and their order of operations follow torch.optim (SGD, Adam, AdamW), to which the
tests compare them. A model with learning rate 0 stays where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SGD:
    """v <- momentum v + g + weight_decay p;  p <- p - rate v.

    ``decay`` tells the engine how to accumulate: the gradient is added to momentum * v in the
    products that form it, so that no gradient is ever stored. Clipping needs the gradient itself
    and then costs one more buffer.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    buffers: list[Tensor] = field(default_factory=list)  # what the engine accumulates into
    velocities: list[Tensor] = field(default_factory=list)

    def prepare(self, parameters: Sequence[Tensor]) -> None:
        self.buffers = [torch.zeros_like(p) for p in parameters]
        if self.gradient_clip is not None:
            self.velocities = [torch.zeros_like(p) for p in parameters]

    @property
    def decay(self) -> float:
        return 0.0 if self.gradient_clip is not None else self.momentum

    @property
    def memory(self) -> list[Tensor]:
        """What has to be saved to go on later."""
        return self.velocities if self.gradient_clip is not None else self.buffers

    def step(self, parameters: Sequence[Tensor], rate: Tensor, update: Tensor | int) -> None:
        """``rate`` : (num_models,) learning rates, 0 for a frozen model."""
        steps = self.buffers
        if self.gradient_clip is not None:
            clip_(self.buffers, self.gradient_clip)
            steps = self.velocities
            for velocity, gradient in zip(steps, self.buffers, strict=True):
                velocity.mul_(self.momentum).add_(gradient)
        for parameter, step in zip(parameters, steps, strict=True):
            if self.weight_decay:
                step.add_(parameter, alpha=self.weight_decay)
            parameter.addcmul_(step, per_model(rate, parameter), value=-1)


@dataclass
class Adam:
    """Adam (Kingma & Ba 2015) with L2 weight decay, as torch.optim.Adam.

    ``decoupled``: p <- (1 - rate weight_decay) p before the step instead, as torch.optim.AdamW
    (Loshchilov & Hutter 2019, arXiv 1711.05101).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    epsilon: float = 1e-8
    decoupled: bool = False
    buffers: list[Tensor] = field(default_factory=list)
    moments: list[Tensor] = field(default_factory=list)  # first moments, then second moments

    decay = 0.0

    def prepare(self, parameters: Sequence[Tensor]) -> None:
        self.buffers = [torch.zeros_like(p) for p in parameters]
        self.moments = [torch.zeros_like(p) for _ in range(2) for p in parameters]

    @property
    def memory(self) -> list[Tensor]:
        return self.moments

    def step(self, parameters: Sequence[Tensor], rate: Tensor, update: Tensor | int) -> None:
        """``update`` : number of updates made before this one; a tensor inside a CUDA graph."""
        if self.gradient_clip is not None:
            clip_(self.buffers, self.gradient_clip)
        count = len(self.buffers)
        correction1 = 1 - self.betas[0] ** (update + 1)
        correction2 = (1 - self.betas[1] ** (update + 1)) ** 0.5
        for i, (parameter, gradient) in enumerate(zip(parameters, self.buffers, strict=True)):
            if self.weight_decay and self.decoupled:
                parameter.mul_(1 - per_model(rate, parameter) * self.weight_decay)
            elif self.weight_decay:
                gradient.add_(parameter, alpha=self.weight_decay)
            first, second = self.moments[i], self.moments[count + i]
            first.lerp_(gradient, 1 - self.betas[0])
            second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            denominator = second.sqrt().div_(correction2).add_(self.epsilon)
            step = (first / denominator).div_(correction1)
            parameter.addcmul_(step, per_model(rate, parameter), value=-1)


def per_model(values: Tensor, like: Tensor) -> Tensor:
    """View (num_models,) so that it broadcasts against (num_models, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """l2 norm of each model's whole gradient, (num_models,)."""
    squares = [g.flatten(1).square().sum(1) for g in gradients]
    return torch.stack(squares).sum(0).sqrt()


def clip_(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale each model's gradient to at most ``largest``, as torch's clip_grad_norm_ does."""
    factor = (largest / (gradient_norms(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(per_model(factor, gradient))

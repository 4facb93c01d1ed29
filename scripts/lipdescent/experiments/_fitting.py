"""Full-batch or sampled minimisation of a stack, for the experiments without a data set."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from lipdescent import optimizers
from lipdescent.constrained.plain import materialise
from lipdescent.stacked_forward import stacked_forward
from lipdescent.stacking import ModelStack

Loss = Callable[[Callable[[Tensor], Tensor], int], Tensor]


def minimise(
    stack: ModelStack,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    cosine: bool = True,
) -> ModelStack:
    """Adam on every model's own loss.

    Parameters
    ----------
    loss : (forward, step) -> (num_models,), where forward maps inputs (num_models, batch,
        *input_shape) to outputs (num_models, batch, num_outputs).
    cosine : anneal the learning rate to 0 along half a cosine.
    """
    trained = [name for name, _ in stack.module.named_parameters()]
    state = {name: tensor.clone() for name, tensor in stack.state.items()}
    parameters = [state[name] for name in trained]
    adam = optimizers.Adam()
    adam.prepare(parameters)
    for step in range(steps):
        leaves = state | {n: state[n].detach().requires_grad_() for n in trained}

        def forward(inputs: Tensor, leaves=leaves) -> Tensor:
            return stacked_forward(stack.module, leaves, inputs, train=False)[0]

        with torch.enable_grad():
            total = loss(forward, step).sum()
            gradients = torch.autograd.grad(total, [leaves[name] for name in trained])
        for buffer, gradient in zip(adam.buffers, gradients, strict=True):
            buffer.copy_(gradient)
        factor = (1 + math.cos(math.pi * step / steps)) / 2 if cosine else 1.0
        rate = torch.as_tensor(learning_rate, device=stack.device).expand(stack.num_models) * factor
        adam.step(parameters, rate.to(parameters[0].dtype), step)
    return ModelStack(stack.module, state, stack.input_shape)


def certified(stack: ModelStack) -> ModelStack:
    """Constrained layers as ordinary ones with certified norms, float64."""
    module, state = materialise(stack.module, stack.state)
    return ModelStack(module, state, stack.input_shape).to(dtype=torch.float64)


@torch.no_grad()
def outputs(stack: ModelStack, inputs: Tensor) -> Tensor:
    """Outputs at each model's own inputs (num_models, n, *input_shape)."""
    return vmap(lambda s, x: functional_call(stack.module, s, (x,)))(stack.state, inputs)

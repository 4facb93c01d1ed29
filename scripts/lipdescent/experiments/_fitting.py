"""Full-batch or sampled minimisation of a stack, for the experiments without a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.constrained import retractions
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator
from lipdescent.structure.materialise import materialise
from lipdescent.training import optimizers

# Inputs (num_models, batch, *input_shape) -> outputs (num_models, batch, num_outputs).
Forward = Callable[[Tensor], Tensor]
Loss = Callable[[Forward, int], Tensor]


@dataclass(frozen=True)
class Fit:
    """How networks are fitted to samples: ``steps`` of Adam on batches, its rate along a cosine.

    Attributes
    ----------
    disturb : (forward, inputs, labels, step) -> inputs (num_models, batch, ...), e.g. an attack.
    """

    steps: int
    batch_size: int
    learning_rate: float = 5e-3
    disturb: Callable[[Forward, Tensor, Tensor, int], Tensor] | None = None


def minimise(
    stack: ModelStack,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    cosine: bool = True,
) -> ModelStack:
    """Adam on every model's own loss; Björck layers by :mod:`lipdescent.constrained.retraction`.

    BatchNorm takes the statistics of each batch and keeps the running ones.

    Parameters
    ----------
    loss : (forward, step) -> (num_models,), where forward maps inputs (num_models, batch,
        *input_shape) to outputs (num_models, batch, num_outputs).
    cosine : anneal the learning rate to 0 along half a cosine.
    """
    trained = [name for name, _ in stack.module.named_parameters()]
    retracted = retractions(stack.module)
    state = {name: tensor.clone() for name, tensor in stack.state.items()}
    parameters = [state[name] for name in trained]
    adam = optimizers.Adam()
    adam.prepare(parameters)
    for step in range(steps):
        for name, constraint in retracted.items():
            constraint.retract_(state[name])
        leaves = state | {n: state[n].detach().requires_grad_() for n in trained}

        def forward(inputs: Tensor, leaves: dict[str, Tensor] = leaves) -> Tensor:
            outputs, statistics = stacked_forward(
                stack.module, leaves, inputs, train=True, retracted=retracted
            )
            state.update({name: tensor.detach() for name, tensor in statistics.items()})
            return outputs

        with torch.enable_grad():
            total = loss(forward, step).sum()
            gradients = torch.autograd.grad(total, [leaves[name] for name in trained])
        for name, buffer, gradient in zip(trained, adam.buffers, gradients, strict=True):
            buffer.copy_(gradient)
            if name in retracted:
                retracted[name].tangent_(state[name], buffer)
        factor = (1 + math.cos(math.pi * step / steps)) / 2 if cosine else 1.0
        rate = torch.as_tensor(learning_rate, device=stack.device).expand(stack.num_models) * factor
        adam.step(parameters, rate.to(parameters[0].dtype), step)
    for name, constraint in retracted.items():
        constraint.retract_(state[name])
    return ModelStack(stack.module, state, stack.input_shape)


def classify(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor,
    each_loss: Sequence[Callable[[Tensor, Tensor], Tensor]],
    *,
    seeds: Sequence[int],
    num_classes: int,
    how: Fit,
) -> ModelStack:
    """Train every model on random batches with its own loss.

    Parameters
    ----------
    each_loss : per model (logits, one-hot) -> loss of every sample.
    seeds : of each model's batches.
    """
    targets = torch.nn.functional.one_hot(labels, num_classes).to(inputs.dtype)
    random = [generator("batches", seed) for seed in seeds]

    def loss(forward: Forward, step: int) -> Tensor:
        draws = [torch.randint(len(inputs), (how.batch_size,), generator=g) for g in random]
        index = torch.stack(draws)
        x = inputs[index]
        if how.disturb is not None:
            x = how.disturb(forward, x, labels[index], step)
        logits = forward(x)
        values = [f(logits[i], targets[index[i]]) for i, f in enumerate(each_loss)]
        return torch.stack(values).mean(1)

    return minimise(stack, loss, steps=how.steps, learning_rate=how.learning_rate)


def certified(stack: ModelStack) -> ModelStack:
    """Constrained layers as ordinary ones with certified norms, float64."""
    module, state = materialise(stack.module, stack.state)
    return ModelStack(module, state, stack.input_shape).to(dtype=torch.float64)

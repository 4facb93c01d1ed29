"""Full-batch or sampled minimisation of a stack, for the experiments without a data set."""

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


class Descent:
    """Adam on a stack's models, step by step; Björck layers by :mod:`constrained.retraction`."""

    def __init__(self, stack: ModelStack, *, learning_rate: float) -> None:
        self._stack, self._rate, self._steps = stack, learning_rate, 0
        self._trained = [name for name, _ in stack.module.named_parameters()]
        self._retracted = retractions(stack.module)
        self._state = {name: tensor.clone() for name, tensor in stack.state.items()}
        self._parameters = [self._state[name] for name in self._trained]
        self._adam = optimizers.Adam()
        self._adam.prepare(self._parameters)

    def step(self, loss: Loss, *, factor: float = 1.0) -> None:
        """One update with ``factor`` times the learning rate, down every model's own loss."""
        self._retract()
        leaves = self._state | {n: self._state[n].detach().requires_grad_() for n in self._trained}

        def forward(inputs: Tensor) -> Tensor:
            outputs, statistics = self._outputs(leaves, inputs, train=True)
            self._state.update({name: t.detach() for name, t in statistics.items()})
            return outputs

        with torch.enable_grad():
            total = loss(forward, self._steps).sum()
            gradients = torch.autograd.grad(total, [leaves[name] for name in self._trained])
        named = zip(self._trained, self._adam.buffers, gradients, strict=True)
        for name, buffer, gradient in named:
            buffer.copy_(gradient)
            if name in self._retracted:
                self._retracted[name].tangent_(self._state[name], buffer)
        rate = torch.as_tensor(self._rate, device=self._stack.device)
        rate = rate.expand(self._stack.num_models) * factor
        self._adam.step(self._parameters, rate.to(self._parameters[0].dtype), self._steps)
        self._steps += 1

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (num_models, batch, ...) of the models as they are now, each its own inputs."""
        self._retract()
        return self._outputs(self._state, inputs, train=False)[0]

    def stack(self) -> ModelStack:
        """The models as they are now."""
        self._retract()
        state = {name: tensor.clone() for name, tensor in self._state.items()}
        return ModelStack(self._stack.module, state, self._stack.input_shape)

    def _outputs(
        self, state: dict[str, Tensor], inputs: Tensor, *, train: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        module = self._stack.module
        return stacked_forward(module, state, inputs, train=train, retracted=self._retracted)

    def _retract(self) -> None:
        for name, constraint in self._retracted.items():
            constraint.retract_(self._state[name])


def minimise(
    stack: ModelStack, loss: Loss, *, steps: int, learning_rate: float, cosine: bool = True
) -> ModelStack:
    """Every model after so many steps of :class:`Descent`.

    BatchNorm takes the statistics of each batch and keeps the running ones.

    Parameters
    ----------
    loss : (forward, step) -> (num_models,), where forward maps inputs (num_models, batch,
        *input_shape) to outputs (num_models, batch, num_outputs).
    cosine : anneal the learning rate to 0 along half a cosine.
    """
    descent = Descent(stack, learning_rate=learning_rate)
    for step in range(steps):
        descent.step(loss, factor=annealed(step, steps) if cosine else 1.0)
    return descent.stack()


def watched(
    stack: ModelStack, loss: Loss, *, looks: Sequence[int], learning_rate: float
) -> dict[int, ModelStack]:
    """Step -> certified models, by Adam along a cosine to the last of the steps ``looks``."""
    descent, found = Descent(stack, learning_rate=learning_rate), {}
    for step in range(looks[-1] + 1):
        if step in looks:
            found[step] = certified(descent.stack())
        descent.step(loss, factor=annealed(step, looks[-1] + 1))
    return found


def check_looks(looks: Sequence[int]) -> None:
    """Raise ValueError unless the steps to look at increase from 0 or more."""
    if not looks or list(looks) != sorted(set(looks)) or looks[0] < 0:
        raise ValueError(f"looks = {list(looks)}: allowed is an increasing list from 0")


def annealed(step: int, steps: int) -> float:
    """From 1 to 0 along half a cosine."""
    return (1 + math.cos(math.pi * step / steps)) / 2


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

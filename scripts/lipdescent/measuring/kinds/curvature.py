"""Gradient norm and largest Hessian eigenvalue of the training loss in the parameters.

Of the mean loss over the training points with the labels that each model was trained on, in eval
mode; of constrained layers in the weights that they use. The eigenvalue (Gamba, Azizpour &
Bjorkman 2023, arXiv 2301.12309, bound the Lipschitz constant by it) is the largest Ritz value of
Lanczos's method with products of the Hessian and vectors: an estimate from below. Where a network
has kinks the Hessian is that of its piece.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipdescent.measurement import Measurement
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import seed_of
from lipdescent.stacks.workload import activation_bytes
from lipdescent.training.options import loss_of

CHUNK_BYTES = 512 << 20
COPIES = 8  # of the activations that a product with the Hessian holds at once

Loss = Callable[[Tensor, Tensor], Tensor]  # of every sample, from logits and one-hot labels
Vectors = list[Tensor]  # (models, *shape) of every parameter


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Both quantities of every checkpoint."""
    yield from measure(
        subject.sound,
        inputs=subject.inputs["train"],
        labels=labels_of(subject)["train"],
        loss=loss_of(subject.saved.origin.training),
        num_classes=subject.dataset.num_classes,
        seed=seed_of("curvature", *subject.saved.origin.run.values()),
        **options,
    )


def measure(
    stack: ModelStack,
    *,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss,
    num_classes: int,
    seed: int = 0,
    iterations: int = 20,
    num_points: int | None = None,
) -> Iterator[Measurement]:
    """Yield ``parameter_gradient_norm`` and ``hessian_largest_eigenvalue``.

    Parameters
    ----------
    inputs : (n, *input_shape).
    labels : int64 (num_models, n).
    iterations : Lanczos steps; 0: no eigenvalue.
    num_points : only this many points, the first.
    """
    inputs, labels = inputs[:num_points], labels[:, :num_points]
    names = [name for name, _ in stack.module.named_parameters()]
    size = sum(stack.state[name][0].numel() for name in names)
    itemsize = inputs.element_size()
    point = COPIES * activation_bytes(
        stack.module, stack.input_shape, batch_size=1, itemsize=itemsize
    )
    points = max(1, CHUNK_BYTES // point)
    one = (iterations + 8) * size * itemsize + min(points, len(inputs)) * point
    options = {"num_classes": num_classes, "points": points}
    norms, eigenvalues = [], []
    for rows in torch.arange(stack.num_models).split(max(1, CHUNK_BYTES // one)):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        surface = _Surface(stack[part], names, inputs, labels[part], loss, **options)
        norms.append(_dot(*[surface.gradient()] * 2).sqrt())
        if iterations:
            start = surface.random(seed)
            eigenvalues.append(lanczos(surface.hessian_times, start, iterations=iterations))
    yield Measurement("parameter_gradient_norm", "metric", "l2", torch.cat(norms), "train")
    if iterations:
        values = torch.cat(eigenvalues)
        yield Measurement("hessian_largest_eigenvalue", "metric", "l2", values, "train")


class _Surface:
    """The mean loss of some models as a function of their parameters."""

    def __init__(
        self,
        stack: ModelStack,
        names: Sequence[str],
        inputs: Tensor,
        labels: Tensor,
        loss: Loss,
        *,
        num_classes: int,
        points: int,
    ) -> None:
        self.stack, self.names, self.loss = stack, names, loss
        self.classes, self.total = num_classes, len(inputs)
        self.parts = list(zip(inputs.split(points), labels.split(points, 1), strict=True))

    def _gradients(self) -> Iterator[tuple[Vectors, Vectors]]:
        """Parameters and their gradient of every part of the points, with its graph."""
        for inputs, labels in self.parts:
            leaves = {n: self.stack.state[n].detach().requires_grad_() for n in self.names}
            # By PyTorch's own layers: our convolutions are differentiable once only.
            moved = replace(self.stack, state=self.stack.state | leaves)
            outputs = moved(inputs.to(self.stack.device))
            targets = torch.nn.functional.one_hot(labels, self.classes).to(outputs.dtype)
            total = self.loss(outputs, targets).sum() / self.total
            parameters = list(leaves.values())
            yield parameters, list(torch.autograd.grad(total, parameters, create_graph=True))

    def gradient(self) -> Vectors:
        """Every model's own: they share nothing."""
        with torch.enable_grad():
            parts = [[g.detach() for g in gradient] for _, gradient in self._gradients()]
        return [torch.stack(same).sum(0) for same in zip(*parts, strict=True)]

    def hessian_times(self, vectors: Vectors) -> Vectors:
        """Product of every model's Hessian with its vector."""
        total = [torch.zeros_like(v) for v in vectors]
        with torch.enable_grad():
            for parameters, gradient in self._gradients():
                along = vectors[0].new_zeros(())
                for g, v in zip(gradient, vectors, strict=True):
                    along = along + (g * v).sum()
                if not along.requires_grad:  # linear in all parameters
                    continue
                found = torch.autograd.grad(
                    along, parameters, allow_unused=True, materialize_grads=True
                )
                total = [t + f for t, f in zip(total, found, strict=True)]
        return total

    def random(self, seed: int) -> Vectors:
        """Normal vectors, the same for every model whatever else is in its stack."""
        draws = torch.Generator().manual_seed(seed)
        shapes = [self.stack.state[name][0] for name in self.names]
        vectors = [torch.randn(s.shape, generator=draws, dtype=torch.float64) for s in shapes]
        return [
            v.to(s).expand(self.stack.num_models, *s.shape)
            for v, s in zip(vectors, shapes, strict=True)
        ]


def lanczos(times: Callable[[Vectors], Vectors], start: Vectors, *, iterations: int) -> Tensor:
    """Largest Ritz value of symmetric operators, one per model, all at once.

    With full reorthogonalisation, twice. Each value is a Rayleigh quotient but for rounding, so at
    most the largest eigenvalue; exact once ``iterations`` reaches the dimension.

    Parameters
    ----------
    times : product of every model's operator with its vector.
    start : (models, *shape) of every parameter.

    Returns
    -------
    float64 (models,).
    """
    count = len(start[0])
    matrix = torch.zeros(count, iterations, iterations, dtype=torch.float64)
    vectors = _scaled(start, 1 / _dot(start, start).sqrt())
    basis, alive = [vectors], torch.ones(count, dtype=torch.bool)
    scale = torch.zeros(count, dtype=torch.float64)
    for step in range(iterations):
        product = times(basis[-1])
        quotient = _dot(product, basis[-1]).cpu()
        # A model whose space is used up repeats a value that it has: no new one is invented.
        matrix[:, step, step] = torch.where(alive, quotient, matrix[:, 0, 0])
        scale = torch.maximum(scale, _dot(product, product).sqrt().cpu())
        if step == iterations - 1:
            break
        for _ in range(2):
            for vector in basis:
                along = _scaled(vector, _dot(product, vector))
                product = [p - a for p, a in zip(product, along, strict=True)]
        length = _dot(product, product).sqrt()
        epsilon = torch.finfo(start[0].dtype).eps
        alive = alive & (length.cpu() > 10 * epsilon * scale)
        kept = alive.to(length.device)
        basis.append(_scaled(product, torch.where(kept, 1 / length, 0.0)))
        off = torch.where(alive, length.cpu(), 0.0)
        matrix[:, step, step + 1] = matrix[:, step + 1, step] = off
    return torch.linalg.eigvalsh(matrix)[:, -1]


def _dot(a: Vectors, b: Vectors) -> Tensor:
    """Inner product of every model: float64 (models,)."""
    total = a[0].new_zeros(len(a[0]), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        total = total + (x.double() * y.double()).flatten(1).sum(1)
    return total


def _scaled(vectors: Vectors, factors: Tensor) -> Vectors:
    return [v * factors.to(v).reshape(-1, *[1] * (v.dim() - 1)) for v in vectors]

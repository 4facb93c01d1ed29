"""The network linearised in its parameters at initialisation, beside itself.

With the initial parameters p0 and those of a checkpoint p,

    f_lin(x) = f(x; p0) + sum_i df(x; p0)/dp_i (p - p0)_i,

what a network of the neural tangent kernel (Jacot et al. 2018, arXiv 1806.07572; Lee et al. 2019,
arXiv 1902.06720) with these parameters gives: it moves in the features of the initialisation alone.
Its Jacobian in x says how much of the growth of the Jacobian norm these give. All in float64 and
eval mode, with autograd's convention at kinks: no bounds. Buffers, such as BatchNorm's statistics,
are those of the start; of constrained layers the weights that they use are moved.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.measurement import Measurement
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.model_stack import ModelStack, in_dtype

PART = 128  # points whose Jacobians are taken together


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Of every checkpoint, on the training and the test points."""
    finite = subject.finite.to(subject.stack.device)
    initial = {name: tensor[finite] for name, tensor in subject.initial.items()}
    yield from measure(subject.sound, inputs=subject.inputs, initial=initial, **options)


def measure(
    stack: ModelStack,
    *,
    inputs: dict[str, Tensor],
    initial: dict[str, Tensor],
    num_points: int | None = None,
) -> Iterator[Measurement]:
    """Yield the linearised network's Jacobian norms and how far its outputs are off, by split.

    ``linearised_jacobian_norm_max`` and ``_mean`` over the points;
    ``linearised_relative_error`` is the root mean square over them of f - f_lin, over that of f.

    Parameters
    ----------
    inputs : split -> (n, *input_shape).
    initial : name -> (num_models, *shape), each model's state before its first step.
    num_points : of each split only this many points, the first; None: all.
    """
    module = copy.deepcopy(stack.module).double().eval()
    for split, points in inputs.items():
        points = points[:num_points].to(stack.device, torch.float64)
        rows = []
        for model in range(stack.num_models):
            start = in_dtype({name: t[model] for name, t in initial.items()}, torch.float64)
            rows.append(_of_one(module, start, stack.state_of(model), points))
        names = ("jacobian_norm_max", "jacobian_norm_mean", "relative_error")
        columns = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names)).T
        for name, values in zip(names, columns, strict=True):
            yield Measurement(f"linearised_{name}", "metric", "l2", values.contiguous(), split)


def _of_one(
    module: nn.Module, start: dict[str, Tensor], here: dict[str, Tensor], points: Tensor
) -> list[float]:
    """Largest and mean Jacobian norm of the linearised network, and its relative error."""
    names = {name for name, _ in module.named_parameters()}
    centre = {name: start[name] for name in names}
    step = {name: here[name] - start[name] for name in names}
    buffers = {name: tensor for name, tensor in start.items() if name not in names}

    def linear(point: Tensor) -> tuple[Tensor, Tensor]:
        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(module, parameters | buffers, (point[None],))[0]

        # By reverse mode alone (PyTorch's forward mode warns): <J^T u, step> is linear in u.
        pulled: Any = torch.func.vjp(outputs, centre)
        value, transposed = pulled

        def along(weights: Tensor) -> Tensor:
            (gradient,) = transposed(weights)
            return torch.stack([(gradient[n] * step[n]).sum() for n in step]).sum()

        moved = value + torch.func.grad(along)(torch.zeros_like(value))
        return moved, moved

    of_points = torch.func.vmap(torch.func.jacrev(linear, has_aux=True), chunk_size=PART)
    jacobians, approximate = of_points(points)
    with torch.no_grad():
        exact = torch.func.functional_call(module, here, (points,))
    norms = torch.linalg.matrix_norm(jacobians.flatten(2), 2)
    size = exact.square().sum().sqrt()
    error = (exact - approximate).square().sum().sqrt() / size
    return [norms.max().item(), norms.mean().item(), error.item()]

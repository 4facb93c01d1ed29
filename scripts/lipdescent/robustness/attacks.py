"""Projected gradient descent against a whole stack at once.

Every model gets its own perturbations. Madry et al. (2018, arXiv 1706.06083): steps along the
gradient of the margin in the attack's norm, projected onto the ball.
"""

from itertools import pairwise

import torch
from torch import Tensor

from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.workload import activation_bytes

NORMS = ("l2", "linf")
# Perturbations stay this much (relative) inside the ball, so that rounding does not leave it.
INSIDE = 1 - 1e-6
_CHUNK_BYTES = 4 << 20  # activations of the models that are attacked together


def robust(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor,
    *,
    radii: list[float],
    norm: str,
    seed: int,
    steps: int = 10,
) -> Tensor:
    """Points that no attack of up to each radius has fooled: bool (num_models, n, radii).

    ``radii`` increase. Each attack starts from the one before and takes a third of the steps that
    the first takes; a point once fooled stays so and is attacked no more. Attacks are made in
    float32; whether they succeed, within which distance, is decided in float64. At radius 0 a point
    stands if it is classified as its label.
    """
    if any(a >= b for a, b in pairwise(radii)):
        raise ValueError(f"radii = {radii}: allowed is an increasing list")
    attacked = [radius for radius in radii if radius]
    for radius in attacked:
        _check(inputs, labels, radius, norm, steps)
    per_model = activation_bytes(stack.module, stack.input_shape, batch_size=len(inputs))
    size = max(1, _CHUNK_BYTES // max(1, per_model))
    start = noise(inputs.double(), norm, seed) * (attacked[0] / 2 if attacked else 0)
    parts = []
    for begin in range(0, stack.num_models, size):
        exact = stack[begin : begin + size].to(dtype=torch.float64)
        fast = exact.to(dtype=torch.float32)
        own = inputs.double().expand(exact.num_models, *inputs.shape)
        delta = start.expand_as(own).clone()
        standing = _right(exact, own, labels.expand(own.shape[:2]))
        columns = []
        for radius in radii:
            if radius == 0:
                columns.append(standing.clone())
                continue
            index = _first(standing)
            rows = torch.arange(len(index), device=index.device)[:, None], index
            x, y = own[rows], labels[index]
            count = steps if radius == attacked[0] else -(-steps // 3)
            found = descend(fast, x.float(), y, delta[rows].float(), radius, norm, count)
            delta[rows] = _project(found.double(), radius, norm)
            standing[rows] &= _right(exact, x + delta[rows], y)
            columns.append(standing.clone())
        parts.append(torch.stack(columns, -1))
    return torch.cat(parts)


def perturbed(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    start: Tensor,
    radius: float,
    norm: str,
    steps: int = 10,
) -> Tensor:
    """Where an attack of every model, in float64, ends: (num_models, n, *input_shape).

    Parameters
    ----------
    inputs, labels : (n, *input_shape); int64 (n,), each model's own (num_models, n), or None for
        its predictions.
    start : perturbations (n, *input_shape) of size 1 such as :func:`noise` draws, the same for all
        models; the attack begins with half the radius times it.
    radius : of the ball of ``norm`` around each input in which the points lie.
    """
    first = inputs if labels is None else labels.reshape(-1, labels.shape[-1])[0]
    _check(inputs, first, radius, norm, steps)
    per_model = activation_bytes(stack.module, stack.input_shape, batch_size=len(inputs))
    size = max(1, _CHUNK_BYTES // max(1, per_model))
    exact, start = inputs.double(), start.double() * (radius / 2)
    parts = []
    for begin in range(0, stack.num_models, size):
        some = stack[begin : begin + size].to(dtype=torch.float64)
        own = exact.expand(some.num_models, *inputs.shape)
        if labels is None:
            with torch.no_grad():
                wanted = _each(some, own).argmax(-1)
        else:
            wanted = labels.expand(stack.num_models, -1)[begin : begin + size]
        delta = start.expand_as(own)
        found = descend(some, own, wanted, delta, radius, norm, steps)
        parts.append(own + _project(found, radius, norm))
    return torch.cat(parts)


def _first(standing: Tensor) -> Tensor:
    """Places (num_models, count) of every model's standing points, filled up with others."""
    count = max(1, int(standing.sum(1).amax()))
    return standing.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def noise(inputs: Tensor, norm: str, seed: int) -> Tensor:
    """Random perturbations (n, *input_shape) of norm 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64).to(inputs)
    return drawn.sign() if norm == "linf" else _unit(drawn[None])[0]


def descend(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor,
    delta: Tensor,
    radius: float,
    norm: str,
    steps: int,
) -> Tensor:
    """Perturbations of each model's own inputs (num_models, n, *input_shape) after ``steps``.

    From ``delta``, in the ball of ``norm`` and ``radius``, against the margins of ``labels``
    (num_models, n); in the precision of ``stack``.
    """
    delta = _project(delta, radius, norm)
    stride = 2.5 * radius / steps
    for _ in range(steps):
        gradient = _margin_gradient(stack, inputs + delta, labels)
        direction = gradient.sign() if norm == "linf" else _unit(gradient)
        delta = _project(delta - stride * direction, radius, norm)
    return delta


def _each(stack: ModelStack, inputs: Tensor) -> Tensor:
    """Logits of every model at its own inputs (num_models, n, *input_shape)."""
    return stacked_forward(stack.module, stack.state, inputs, train=False)[0]


def _right(stack: ModelStack, inputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the prediction is the label, (num_models, n)."""
    with torch.no_grad():
        return _each(stack, inputs).argmax(-1) == labels


def _margin_gradient(stack: ModelStack, inputs: Tensor, labels: Tensor) -> Tensor:
    """Gradient of f_label - (largest other logit) with respect to the inputs; 0 if not finite."""
    leaf = inputs.detach().requires_grad_()
    with torch.enable_grad():
        logits = _each(stack, leaf)
    classes = torch.arange(logits.shape[-1], device=logits.device)
    own = (labels.unsqueeze(-1) == classes).to(logits.dtype)  # one_hot looks at its labels
    with torch.no_grad():
        others = logits - torch.finfo(logits.dtype).max * own
        largest = others == others.amax(-1, keepdim=True)
    gradient = torch.autograd.grad(logits, leaf, own - largest.to(logits.dtype))[0]
    return gradient.nan_to_num_(0.0, 0.0, 0.0)


def _project(delta: Tensor, radius: float, norm: str) -> Tensor:
    if norm == "linf":
        return delta.clamp(-radius * INSIDE, radius * INSIDE)
    flat = delta.flatten(2)
    length = torch.linalg.vector_norm(flat, dim=-1, keepdim=True)
    factor = (radius * INSIDE / length.clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1.0)
    return (flat * factor).view_as(delta)


def _unit(vectors: Tensor) -> Tensor:
    """Every sample (num_models, n, ...) scaled to l2 length 1; 0 stays."""
    flat = vectors.flatten(2)
    length = torch.linalg.vector_norm(flat, dim=-1, keepdim=True)
    return (flat / length.clamp_min(torch.finfo(flat.dtype).tiny)).view_as(vectors)


def _check(inputs: Tensor, labels: Tensor, radius: float, norm: str, steps: int) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: allowed are {', '.join(NORMS)}")
    if not radius > 0:
        raise ValueError(f"radius = {radius}: allowed are positive numbers")
    if steps < 1:
        raise ValueError(f"steps = {steps}: allowed are integers >= 1")
    if len(inputs) == 0 or len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} inputs and {len(labels)} labels: allowed are equally many")

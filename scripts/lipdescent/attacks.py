"""Projected gradient descent against a whole stack at once.

Every model gets its own perturbations. Madry et al. (2018, arXiv 1706.06083): steps along the
gradient of the margin in the attack's norm, projected onto the ball.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from lipdescent.stacking import ModelStack

NORMS = ("l2", "linf")
# Perturbations stay this much (relative) inside the ball, so that rounding does not leave it.
INSIDE = 1 - 1e-6
_CHUNK_BYTES = 256 << 20


def pgd(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor,
    *,
    radius: float,
    norm: str,
    seed: int,
    steps: int = 10,
    start: Tensor | None = None,
) -> Tensor:
    """Perturbed inputs (num_models, n, *input_shape) that make the margin small.

    Parameters
    ----------
    inputs : (n, *input_shape), shared by the models.
    labels : int64 (n,).
    radius : of the ball around each input, in the units of the inputs.
    norm : "l2" or "linf".
    start : (num_models, n, *input_shape) perturbations to start from, e.g. of a smaller radius;
        by default random ones.

    Raises
    ------
    ValueError
        For an unknown norm, a radius <= 0, no steps or empty inputs.
    """
    options = {"radius": radius, "norm": norm, "seed": seed, "steps": steps, "start": start}
    return inputs + _perturbations(stack, inputs, labels, **options)


def _perturbations(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor,
    *,
    radius: float,
    norm: str,
    seed: int,
    steps: int,
    start: Tensor | None,
) -> Tensor:
    """What :func:`pgd` adds to the inputs."""
    _check(inputs, labels, radius, norm, steps)
    shape = (stack.num_models, *inputs.shape)
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        noise = noise.expand(shape)
        start = (noise.sign() if norm == "linf" else _unit(noise)) * (radius / 2)
    delta = _project(start.expand(shape), radius, norm)
    stride = 2.5 * radius / steps
    for _ in range(steps):
        gradient = _margin_gradient(stack, inputs + delta, labels)
        direction = gradient.sign() if norm == "linf" else _unit(gradient)
        delta = _project(delta - stride * direction, radius, norm)
    return delta


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

    ``radii`` increase; each attack starts from the one before, and a point once fooled stays so.
    At radius 0 a point stands if it is classified as its label. Whether an attack succeeded is
    decided in float64, at inputs that are inside the ball there: what float32 rounds is no success.
    """
    if any(a >= b for a, b in pairwise(radii)):
        raise ValueError(f"radii = {radii}: allowed is an increasing list")
    parts = []
    per_model = 16 * inputs.numel() * inputs.element_size() + 1
    size = max(1, _CHUNK_BYTES // per_model)
    for begin in range(0, stack.num_models, size):
        chunk = stack[begin : begin + size]
        exact = chunk.to(dtype=torch.float64)
        standing = exact(inputs.double()).argmax(-1) == labels
        delta, columns = None, []
        for radius in radii:
            if radius == 0:
                columns.append(standing)
                continue
            options = {"radius": radius, "norm": norm, "seed": seed, "steps": steps}
            delta = _perturbations(chunk, inputs, labels, start=delta, **options)
            found = inputs.double() + _project(delta.double(), radius, norm)
            standing = standing & (_each(exact, found).argmax(-1) == labels)
            columns.append(standing)
        parts.append(torch.stack(columns, -1))
    return torch.cat(parts)


def _each(stack: ModelStack, inputs: Tensor) -> Tensor:
    """Logits of every model at its own inputs (num_models, n, *input_shape)."""
    return vmap(lambda s, x: functional_call(stack.module, s, (x,)))(stack.state, inputs)


def _margin_gradient(stack: ModelStack, inputs: Tensor, labels: Tensor) -> Tensor:
    """Gradient of f_label - (largest other logit) with respect to the inputs."""
    leaf = inputs.detach().requires_grad_()
    with torch.enable_grad():
        logits = _each(stack, leaf)
        own = torch.nn.functional.one_hot(labels, logits.shape[-1]).bool()
        margin = (logits * own).sum(-1) - logits.masked_fill(own, -torch.inf).amax(-1)
        return torch.autograd.grad(margin.sum(), leaf)[0]


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

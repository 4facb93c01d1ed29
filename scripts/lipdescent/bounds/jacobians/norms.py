"""Norms of Jacobians of every model of a stack at every point, in float64.

Chains of Linear and ReLU-like layers go through ``chains.py``; any other module through
``torch.func`` in reverse mode, with many outputs by Lanczos with J v and J^T u.

At a kink of an activation these norms follow autograd (the slope on the negative side, 0 for
ReLU). Such a Jacobian may exceed the Lipschitz constant, so that no norm from this file is a
bound by itself: ``proofs/prover.py`` turns candidates into lower bounds.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp, vmap

from lipdescent.arithmetic.eigenvalues import largest_eigenvalue
from lipdescent.arithmetic.ulps import times_power
from lipdescent.bounds.jacobians.chains import chain_norms, gram, most_matrices
from lipdescent.measurement import refuse_other_norms
from lipdescent.shapes import Float
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain

# (n, *input_shape) -> (n, n_out).
Function = Callable[[Tensor], Tensor]
NORMS = ("l2", "linf", "l1")
_CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**32}  # activations and their gradients held at once
_MATRICES = 2**14  # spectral norms taken together
_MANY_OUTPUTS = 128  # above, the l2 norm is taken by Lanczos and no Jacobian is formed
_ROWS = 32  # of a Jacobian held at once, where that is enough
_LANCZOS_STEPS, _REFINING_STEPS, _QUICK_STEPS = 40, 3, 4
_KEPT_POINTS, _KEPT = 64, 2**22  # whose directions are kept, and so many numbers of them


def check(stack: ModelStack, points: Tensor, norms: Sequence[str], *, what: str) -> None:
    """Raise if a norm is unknown or the weights or points are not finite or do not fit."""
    refuse_other_norms(norms, NORMS)
    if not stack.num_models:
        raise ValueError("stack: it holds no model")
    if not stack.finite().all():
        bad = (~stack.finite()).nonzero().flatten().tolist()
        raise ValueError(f"stack: NaN or infinite weights in models {bad}; allowed are finite ones")
    if not points.is_floating_point():
        raise TypeError(f"{what}: dtype {points.dtype}, allowed are floating-point types")
    if points.ndim < 1 or points.shape[1:] != tuple(stack.input_shape) or not len(points):
        shape = ", ".join(map(str, stack.input_shape))
        raise ValueError(f"{what}: shape {tuple(points.shape)}, expected (n, {shape}), n >= 1")
    if not points.isfinite().all():
        raise ValueError(f"{what}: contains NaN or infinity; allowed are finite numbers")


def check_inputs(stack: ModelStack, inputs: Mapping[str, Tensor], norms: Sequence[str]) -> None:
    """Raise without a split, and for each as :func:`check`."""
    if not inputs:
        raise ValueError("inputs: no split; a lower bound on data needs at least one")
    for split, points in inputs.items():
        check(stack, points, norms, what=split)


@torch.no_grad()
def jacobian_norms(
    stack: ModelStack, points: Tensor, *, norms: Sequence[str] = ("l2",)
) -> dict[str, Tensor]:
    """Operator norm of the Jacobian of every model at every point.

    Parameters
    ----------
    points : (n, *input_shape), the same for all models.
    norms : among "l2", "linf", "l1", on inputs and outputs alike.

    Returns
    -------
    norm -> float64 (num_models, n), to about 1e-13 relative; autograd's convention at kinks. The
    l2 norm of more than 128 outputs is Lanczos's after 40 steps, to 1e-6 where large singular
    values lie close together. Not scaled: norms beyond 1e-150 and 1e150 may come out as 0 or NaN
    unless the network is a chain.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        For what is not finite, does not fit, or an unknown norm.
    """
    check(stack, points, norms, what="points")
    points = points.to(stack.device, torch.float64)
    links = chain(stack)
    values: dict[str, list[Tensor]] = {norm: [] for norm in norms}
    models = torch.arange(stack.num_models)
    # The spectral norms of a few models are taken together: more matrices per operation.
    each = len(points) if links is None else most_matrices(links, len(points))
    for group in models.split(max(1, _MATRICES // each)):
        if links is None:
            found = [_module_norms(stack, i, points, norms) for i in group.tolist()]
        else:
            found = chain_norms(links, group.tolist(), points.flatten(1), norms)
        for norm in norms:
            values[norm] += [one[norm] for one in found]
    result = {norm: torch.stack(value) for norm, value in values.items()}
    if links is not None:
        exponents = links.exponents[:, None].clamp(-2100, 2100)
        result = {norm: times_power(value, exponents) for norm, value in result.items()}
    return result


def _module_norms(
    stack: ModelStack, model: int, points: Tensor, norms: Sequence[str]
) -> dict[str, Tensor]:
    """One model of any kind: norm -> (n,)."""
    function = one_model(stack[model : model + 1])
    outputs, values = _size(stack.module, function, points[:1])
    held = 8 * values * (2 + (outputs if outputs <= _MANY_OUTPUTS else 8))
    size = max(1, _CHUNK_BYTES.get(points.device.type, 2**28) // held)
    parts = []
    for chunk in points.split(size):
        part, few = {}, outputs <= _MANY_OUTPUTS
        if "l2" in norms:
            if few:
                part["l2"] = largest_eigenvalue(gram(rows(function, chunk, outputs))).sqrt()
            else:
                part["l2"] = _leading(stack, model, chunk)[0]
        if set(norms) - {"l2"}:
            part |= _sum_norms(function, chunk, outputs)
        parts.append(part)
    return {norm: torch.cat([part[norm] for part in parts]) for norm in norms}


def _size(module: torch.nn.Module, function: Function, point: Tensor) -> tuple[int, int]:
    """Number of outputs, and of values in the point and in what all layers make of it."""
    counts = [point.numel()]

    def count(_module: torch.nn.Module, _inputs: Any, out: Any) -> None:
        counts.append(out.numel() if isinstance(out, Tensor) else 0)

    leaves = [part for part in module.modules() if not any(part.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        outputs = function(point).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, sum(counts)


def one_model(stack: ModelStack, dtype: torch.dtype = torch.float64) -> Function:
    """The first model of a stack as a function (n, *input_shape) -> (n, n_out), in ``dtype``."""
    state = stack.state_of(0, dtype)
    buffers = [name for name, _ in stack.module.named_buffers()]

    def function(x: Tensor) -> Tensor:
        # Of copies: a module may change its points and buffers in place.
        own = state | {name: state[name].clone() for name in buffers}
        return functional_call(stack.module, own, (x.clone(),)).flatten(1)

    return function


def rows(
    function: Function,
    points: Float[Tensor, "n ..."],
    outputs: int,
    start: int = 0,
    stop: int | None = None,
) -> Float[Tensor, "n rows inputs"]:
    """Rows ``start`` to ``stop`` of the Jacobians: (n, stop - start, n_in)."""
    with torch.enable_grad():
        pull = vjp(function, points)[1]
    basis = torch.eye(outputs, dtype=points.dtype, device=points.device)[start:stop]
    basis = basis[:, None, :].expand(-1, len(points), -1)
    with warnings.catch_warnings():  # a derivative that torch cannot batch, Mish's, only is slow
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return vmap(lambda u: pull(u)[0])(basis).flatten(2).transpose(0, 1)


def steepest(
    stack: ModelStack,
    points: Float[Tensor, "n ..."],
    norm: str,
    *,
    model: int = 0,
    quick: bool = False,
) -> Float[Tensor, "n inputs"]:
    """Directions (n, n_in) of norm about 1 with |J v| close to the norm of J at each point.

    Of one model; no more rows of a Jacobian than a chunk are held. ``quick``: of many outputs a few
    rows or steps of Lanczos, which costs a tenth or less; |J v| may be smaller then.
    """
    function = one_model(stack[model : model + 1])
    outputs = function(points[:1]).shape[1]
    if norm == "l2" and outputs <= _MANY_OUTPUTS:
        jacobians = rows(function, points, outputs).nan_to_num(0.0, 0.0, 0.0)
        return torch.linalg.svd(jacobians, full_matrices=False)[2][:, 0]
    if norm == "l2" and quick:
        with contextlib.suppress(RuntimeError):  # a module of other people that wants float64
            single = one_model(stack[model : model + 1], torch.float32)
            found = _lanczos(single, points.float(), _start(points).float(), _QUICK_STEPS)[1]
            return found.to(torch.float64).nan_to_num(0.0, 0.0, 0.0)
    if norm == "l2":
        return _leading(stack, model, points)[1]
    blocks = islice(_row_blocks(function, points, outputs), 1 if quick else None)
    if norm == "l1":
        columns = points.new_zeros(len(points), points[0].numel())
        for block in blocks:
            columns = columns + block.abs().sum(-2)
        return torch.nn.functional.one_hot(columns.argmax(-1), columns.shape[-1]).to(points.dtype)
    largest, row = points.new_full((len(points),), -1.0), points.new_zeros(len(points), 1)
    row = row.expand(-1, points[0].numel())
    for block in blocks:
        sums, index = block.abs().sum(-1).max(-1)
        chosen = block[torch.arange(len(block), device=block.device), index]
        row = torch.where((sums > largest)[:, None], chosen, row)
        largest = torch.maximum(sums, largest)
    return torch.where(row < 0, -torch.ones_like(row), torch.ones_like(row))


def _row_blocks(function: Function, points: Tensor, outputs: int) -> Iterator[Tensor]:
    """The Jacobians' rows (n, at most _ROWS, n_in), block by block."""
    for start in range(0, outputs, _ROWS):
        yield rows(function, points, outputs, start, start + _ROWS)


def _sum_norms(function: Function, points: Tensor, outputs: int) -> dict[str, Tensor]:
    """linf and l1 norms, a block of rows at a time."""
    largest = points.new_zeros(len(points))
    columns = points.new_zeros(len(points), points[0].numel())
    for block in map(torch.abs, _row_blocks(function, points, outputs)):
        largest = torch.maximum(largest, block.sum(-1).amax(-1))
        columns = columns + block.sum(-2)
    return {"linf": largest, "l1": columns.amax(-1)}


def _leading(stack: ModelStack, model: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """Largest singular values (n,) of a model's Jacobians and right singular vectors (n, n_in).

    Those of the last few points are kept beside the stack, as long as its tensors are unchanged:
    what proves a norm asks for the direction after the norm.
    """
    if len(points) > _KEPT_POINTS or points.numel() > _KEPT:
        return _found_leading(stack[model : model + 1], points)

    def take() -> tuple[Tensor, Tensor, Tensor]:
        return points.clone(), *_found_leading(stack[model : model + 1], points)

    key = ("leading", model)
    for _ in range(2):
        known, values, vectors = stack.kept(key, stack.state, take)
        same = (points[:, None] == known).flatten(2).all(2)
        if bool(same.any(1).all()):
            break
        stack.known.pop(key, None)
    at = same.to(torch.uint8).argmax(1)
    return values[at], vectors[at]


def _start(points: Tensor) -> Tensor:
    """Where the iteration starts, the same direction for all points: (n, n_in)."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(points[0].numel(), dtype=torch.float64, generator=generator)
    return start.to(points.device).expand(len(points), -1)


def _found_leading(stack: ModelStack, points: Tensor) -> tuple[Tensor, Tensor]:
    """Of the first model of the stack.

    float32 finds the vectors, which takes most of the steps, float64 refines them: their errors
    are squared. Where float32 is no use (its range, a kink it sees on the other side), float64
    does it all.
    """
    function, start = one_model(stack), _start(points)
    try:
        single = one_model(stack, torch.float32)
        rough, found = _lanczos(single, points.float(), start.float(), _LANCZOS_STEPS)
    except RuntimeError:  # a module of other people that wants float64
        return _lanczos(function, points, start, _LANCZOS_STEPS)
    found = found.to(torch.float64).nan_to_num(0.0, 0.0, 0.0)
    values, vectors = _lanczos(function, points, found, _REFINING_STEPS)
    poor = ~((values - rough).abs() <= 1e-3 * values)
    if bool(poor.any()):
        again = _lanczos(function, points[poor], start[poor], _LANCZOS_STEPS)
        values[poor], vectors[poor] = again
    return values, vectors


def _lanczos(
    function: Function, points: Tensor, start: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Largest singular values and right vectors by Golub-Kahan bidiagonalisation.

    Fully reorthogonalised; ``start`` (n, n_in) begins the Krylov space.
    """
    with torch.enable_grad():
        outputs, pull = vjp(function, points)[:2]
    push = _pushed(function, points, outputs, pull)
    steps = min(steps, outputs.shape[1], points[0].numel())
    noise = 1e-13 if points.dtype == torch.float64 else 1e-6
    right, _ = _unit(start, [], points.new_zeros(len(points)))
    rights = [right]
    lefts: list[Tensor] = []
    bidiagonal = points.new_zeros(len(points), steps, steps)
    scale = points.new_zeros(len(points))
    for k in range(steps):
        image = push(rights[k].view_as(points))
        left, bidiagonal[:, k, k] = _unit(image, lefts, noise * scale)
        scale = torch.maximum(scale, bidiagonal[:, k, k])
        lefts.append(left)
        if k + 1 < steps:
            image = pull(left)[0].flatten(1)
            right, bidiagonal[:, k, k + 1] = _unit(image, rights, noise * scale)
            rights.append(right)
    _, values, vectors = torch.linalg.svd(bidiagonal.nan_to_num(0.0, 0.0, 0.0))
    return values[:, 0], (vectors[:, :1] @ torch.stack(rights, 1))[:, 0]


def _pushed(
    function: Function, points: Tensor, outputs: Tensor, pull: Callable[[Tensor], tuple]
) -> Callable[[Tensor], Tensor]:
    """v (n, *shape) -> J v, as the pull-back of u -> J^T u.

    In forward mode, which needs a deprecated part of torch, only where torch has no derivative of a
    derivative: of hardsigmoid's, say.
    """
    with torch.enable_grad():
        twice = vjp(lambda u: pull(u)[0], torch.zeros_like(outputs))[1]

    def push(v: Tensor) -> Tensor:
        try:
            return twice(v)[0]
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit")
            return jvp(function, (points,), (v,))[1]

    return push


def _unit(vectors: Tensor, basis: list[Tensor], floor: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (n, d) made orthogonal to ``basis``, of length 1, and the lengths (n,) they had.

    What is shorter than ``floor`` (n,) is rounding noise: the Krylov space is complete. It
    becomes 0.
    """
    for _ in range(2 if basis else 0):
        known = torch.stack(basis, 1)
        vectors = vectors - (known.mT @ (known @ vectors[:, :, None])).squeeze(-1)
    length = torch.linalg.vector_norm(vectors, dim=-1)
    length = torch.where(length > floor, length, 0.0)
    found = (length > 0)[:, None]
    return torch.where(found, vectors / torch.where(found, length[:, None], 1.0), 0.0), length

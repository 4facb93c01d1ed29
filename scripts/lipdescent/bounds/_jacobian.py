"""Norms of Jacobians of every model of a stack at every point.

Three ways, all in float64 and one model at a time, so that a model's numbers are the same bit by
bit whatever else is in its stack:

- one hidden layer: J(x) = W2 D(x) W1 is linear in the mask D(x), so all points of a model take one
  product ``mask @ T`` with the table T[h, (o, i)] = W2[o, h] W1[h, i];
- deeper chains of Linear and piecewise-linear activations: masks forward, products backward;
- any other module: ``torch.func``, reverse mode; with many outputs, Lanczos with J v and J^T u.

At a kink of an activation these norms follow autograd (the slope on the negative side, 0 for
ReLU). Such a Jacobian may exceed the Lipschitz constant, so that no norm from this file is a
bound by itself: ``_certified.py`` turns candidates into lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from lipdescent.bounds import NotApplicable
from lipdescent.bounds._rounding import _times_power
from lipdescent.bounds._small_eigenvalues import largest_eigenvalue
from lipdescent.stacking import ModelStack

NORMS = ("l2", "linf", "l1")
_CHUNK = 2**22  # Jacobian entries held at once: 32 MiB
_MATRICES = 2**13  # spectral norms taken together
_FEW_UNITS = 24  # up to this width equal masks are common enough to look for
_MANY_OUTPUTS = 32  # above, the l2 norm is taken by Lanczos and no Jacobian is formed
_LANCZOS_STEPS = 40


@dataclass(frozen=True)
class Chain:
    """Linear layers with piecewise-linear activations between them.

    Attributes
    ----------
    weights : float64 (num_models, n_out, n_in) each, scaled to largest entries in [1/2, 1).
    biases : float64 (num_models, n_out) or None each, in the units of the scaled outputs.
    slopes : (negative side, positive side) of every activation, one less than weights.
    exponents : int64 (num_models,), J of the network = 2^exponents J of the scaled chain.
    """

    weights: list[Tensor]
    biases: list[Tensor | None]
    slopes: list[tuple[float, float]]
    exponents: Tensor

    def __getitem__(self, index: slice | Tensor) -> Chain:
        weights = [weight[index] for weight in self.weights]
        biases = [None if bias is None else bias[index] for bias in self.biases]
        return Chain(weights, biases, self.slopes, self.exponents[index])


def chain(stack: ModelStack) -> Chain | None:
    """The chain that ``stack`` is, or None if it is something else."""
    layers = [m for m in stack.module.modules() if not isinstance(m, nn.Sequential)]
    if not isinstance(stack.module, (nn.Sequential, nn.Linear)):
        return None
    names = {id(m): name for name, m in stack.module.named_modules()}
    linears: list[str] = []
    slopes: list[tuple[float, float]] = []
    for layer in layers:
        if type(layer) is nn.Linear:
            if len(linears) > len(slopes):
                slopes.append((1.0, 1.0))
            linears.append(names[id(layer)])
        elif type(layer) is nn.ReLU or type(layer) is nn.LeakyReLU:
            if len(linears) != len(slopes) + 1:
                return None
            slopes.append((float(getattr(layer, "negative_slope", 0.0)), 1.0))
        elif not ((type(layer) is nn.Flatten and not linears) or type(layer) is nn.Identity):
            return None
    if not linears or len(slopes) >= len(linears) or len(set(linears)) < len(linears):
        return None
    return _scaled_chain(stack, linears, slopes)


def _scaled_chain(
    stack: ModelStack, linears: Sequence[str], slopes: list[tuple[float, float]]
) -> Chain:
    """Scale by powers of two, which these activations commute with, against over- and underflow."""
    total = torch.zeros(stack.num_models, dtype=torch.int64, device=stack.device)
    weights, biases = [], []
    for name in linears:
        prefix = f"{name}." if name else ""
        weight = stack.state[f"{prefix}weight"].to(torch.float64)
        exponent = torch.frexp(weight.abs().amax((-1, -2)))[1].to(torch.int64)
        total = total + exponent
        weights.append(_times_power(weight, -exponent[:, None, None]))
        bias = stack.state.get(f"{prefix}bias")
        if bias is not None:
            bias = _times_power(bias.to(torch.float64), -total.clamp(-2000, 2000)[:, None])
        biases.append(bias)
    return Chain(weights, biases, slopes, total)


def check(stack: ModelStack, points: Tensor, norms: Sequence[str], *, what: str) -> None:
    """Raise if a norm is unknown or the weights or points are not finite or do not fit."""
    for norm in norms:
        if norm not in NORMS:
            raise NotApplicable(f"norm {norm!r}; known: {', '.join(NORMS)}")
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
    norm -> float64 (num_models, n), to about 1e-13 relative; autograd's convention at kinks.

    Raises
    ------
    TypeError, ValueError, NotApplicable
        For what is not finite, does not fit, or an unknown norm.
    """
    check(stack, points, norms, what="points")
    points = points.to(stack.device, torch.float64)
    links = chain(stack)
    values = {norm: [] for norm in norms}
    models = torch.arange(stack.num_models)
    # The spectral norms of a few models are taken together: more matrices per operation.
    for group in models.split(max(1, _MATRICES // len(points))):
        if links is None:
            found = [_module_norms(stack[i : i + 1], points, norms) for i in group.tolist()]
        else:
            found = _chain_norms(links, group.tolist(), points.flatten(1), norms)
        for norm in norms:
            values[norm] += [one[norm] for one in found]
    result = {norm: torch.stack(value) for norm, value in values.items()}
    if links is not None:
        result = {k: _times_power(v, links.exponents[:, None]) for k, v in result.items()}
    return result


def _chain_norms(
    links: Chain, models: Sequence[int], points: Tensor, norms: Sequence[str]
) -> list[dict[str, Tensor]]:
    """For each of ``models``: norm -> (n,), without 2^exponents."""
    outputs, features = links.weights[-1].shape[1], points.shape[1]
    widest = max(weight.shape[1] for weight in links.weights)
    chunks = points.split(max(1, _CHUNK // max(outputs * features, 4 * widest)))
    jacobians = _table_jacobians if len(links.weights) == 2 else _deep_jacobians
    grams, inverses, found = [], [], []
    for model in models:
        one = {norm: [] for norm in norms if norm != "l2"}
        for matrices, inverse in jacobians(links[model : model + 1], chunks):
            if "l2" in norms:
                grams.append(gram(matrices))
                inverses.append(inverse)
            for norm in one:
                one[norm].append(_restored(sum_norm(matrices, norm), inverse))
        found.append({norm: torch.cat(parts) for norm, parts in one.items()})
    if "l2" in norms:
        values = largest_eigenvalue(torch.cat(grams)).sqrt().split([len(g) for g in grams])
        values = [_restored(v, inverse) for v, inverse in zip(values, inverses, strict=True)]
        for one, value in zip(found, torch.cat(values).split(len(points)), strict=True):
            one["l2"] = value
    return found


def _restored(values: Tensor, inverse: Tensor | None) -> Tensor:
    return values if inverse is None else values[inverse]


def _table_jacobians(
    links: Chain, chunks: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One hidden layer, one model, for every chunk (n, n_in) of points.

    Yields the Jacobians (k, n_out, n_in) of the k different masks and the mask (n,) that each
    point has, or those of the n points and None.
    """
    first, last = links.weights[0][0], links.weights[1][0]
    negative, positive = links.slopes[0]
    table = (last.T[:, :, None] * first[:, None, :]).flatten(1)
    base = negative * (last @ first).flatten()
    powers = 2.0 ** torch.arange(len(first), dtype=torch.float64, device=first.device)
    for points in chunks:
        before = points @ first.T
        if links.biases[0] is not None:
            before += links.biases[0]
        masks, inverse = (before > 0).to(torch.float64), None
        if len(first) <= _FEW_UNITS:
            masks, inverse = _distinct(masks, powers)
        flat = masks @ table
        if positive - negative != 1:
            flat *= positive - negative
        if negative:
            flat += base
        yield flat.view(len(flat), len(last), -1), inverse


def _distinct(masks: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows among (n, width), and which of them each row is."""
    codes, inverse = torch.unique(masks @ powers, return_inverse=True)
    where = torch.empty_like(inverse[: len(codes)])
    where[inverse] = torch.arange(len(inverse), device=inverse.device)
    return masks[where], inverse


def _deep_jacobians(links: Chain, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, None]]:
    """Any depth, one model: (n, n_out, n_in) for every chunk (n, n_in) of points."""
    for points in chunks:
        slopes, hidden = [], points
        for weight, bias, (negative, positive) in zip(
            links.weights[:-1], links.biases[:-1], links.slopes, strict=True
        ):
            hidden = hidden @ weight[0].T
            if bias is not None:
                hidden = hidden + bias[0]
            slopes.append(torch.where(hidden > 0, positive, negative))
            hidden = hidden * slopes[-1]
        product = links.weights[-1].expand(len(points), -1, -1)
        for weight, slope in zip(links.weights[-2::-1], slopes[::-1], strict=True):
            product = (product * slope[:, None, :]) @ weight[0]
        yield product, None


def gram(matrices: Tensor) -> Tensor:
    """J J^T or J^T J of every matrix (n, n_out, n_in), whichever is smaller."""
    short = matrices if matrices.shape[-1] >= matrices.shape[-2] else matrices.mT
    return short @ short.mT


def sum_norm(matrices: Tensor, norm: str) -> Tensor:
    """The "linf" or "l1" operator norm (n,) of every matrix (n, n_out, n_in)."""
    return matrices.abs().sum(-1 if norm == "linf" else -2).amax(-1)


def _module_norms(stack: ModelStack, points: Tensor, norms: Sequence[str]) -> dict[str, Tensor]:
    """One model of any kind: norm -> (n,)."""
    function = one_model(stack)
    outputs = function(points[:1]).shape[1]
    size = max(1, _CHUNK // (points[0].numel() * 8 * min(outputs, _MANY_OUTPUTS)))
    parts = []
    for chunk in points.split(size):
        part, few = {}, outputs <= _MANY_OUTPUTS
        if "l2" in norms:
            if few:
                part["l2"] = largest_eigenvalue(gram(rows(function, chunk, outputs))).sqrt()
            else:
                part["l2"] = _lanczos_norm(function, chunk)
        if set(norms) - {"l2"}:
            part |= _sum_norms(function, chunk, outputs)
        parts.append(part)
    return {norm: torch.cat([part[norm] for part in parts]) for norm in norms}


def one_model(stack: ModelStack, dtype: torch.dtype = torch.float64):
    """The first model of a stack as a function (n, *input_shape) -> (n, n_out), in ``dtype``."""
    state = {k: (v[0].to(dtype) if v.is_floating_point() else v[0]) for k, v in stack.state.items()}
    return lambda x: functional_call(stack.module, state, (x,)).flatten(1)


def rows(function, points: Tensor, outputs: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Rows ``start`` to ``stop`` of the Jacobians: (n, stop - start, n_in)."""
    with torch.enable_grad():
        _, pull = vjp(function, points)
    basis = torch.eye(outputs, dtype=points.dtype, device=points.device)[start:stop]
    basis = basis[:, None, :].expand(-1, len(points), -1)
    return vmap(lambda u: pull(u)[0])(basis).flatten(2).transpose(0, 1)


def _sum_norms(function, points: Tensor, outputs: int) -> dict[str, Tensor]:
    """linf and l1 norms, a block of rows at a time."""
    largest, columns = points.new_zeros(len(points)), 0.0
    for start in range(0, outputs, _MANY_OUTPUTS):
        block = rows(function, points, outputs, start, start + _MANY_OUTPUTS).abs()
        largest = torch.maximum(largest, block.sum(-1).amax(-1))
        columns = columns + block.sum(-2)
    return {"linf": largest, "l1": columns.amax(-1)}


def _lanczos_norm(function, points: Tensor) -> Tensor:
    """Largest singular values (n,) by Golub-Kahan bidiagonalisation, fully reorthogonalised."""
    with torch.enable_grad():
        outputs, pull = vjp(function, points)
        # J v as the pull-back of u -> J^T u: forward mode would need a deprecated part of torch.
        _, push = vjp(lambda u: pull(u)[0], torch.zeros_like(outputs))
    steps = min(_LANCZOS_STEPS, outputs.shape[1], points[0].numel())
    start = torch.randn(points.shape[1:], dtype=torch.float64, generator=_generator())
    start = start.flatten().to(points.device).expand(len(points), -1)
    right, _ = _unit(start, [], points.new_zeros(len(points)))
    rights, lefts = [right], []
    bidiagonal = points.new_zeros(len(points), steps, steps)
    scale = points.new_zeros(len(points))
    for k in range(steps):
        image = push(rights[k].view_as(points))[0]
        left, bidiagonal[:, k, k] = _unit(image, lefts, 1e-13 * scale)
        scale = torch.maximum(scale, bidiagonal[:, k, k])
        lefts.append(left)
        if k + 1 < steps:
            image = pull(left)[0].flatten(1)
            right, bidiagonal[:, k, k + 1] = _unit(image, rights, 1e-13 * scale)
            rights.append(right)
    return torch.linalg.matrix_norm(bidiagonal, ord=2)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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

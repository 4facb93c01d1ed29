"""Lower (co-)Lipschitz quantities: how far a feature map can bring two inputs together.

f is (l, L)-bi-Lipschitz if l |x - x'| <= |f(x) - f(x')| <= L |x - x'| (Smith et al. 2021, arXiv
2106.02469). Everything measured on data is an upper bound on l; only :func:`low_band_bound`,
:func:`textbook_bound` and, for linear networks,
:mod:`lipdescent.experiments._circular_networks` are guarantees.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.func import jacfwd

from lipdescent.architectures._blocks import Residual
from lipdescent.bounds.jacobians.norms import one_model, rows
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack

TRANSFORMS = ("dft", "dct")


def jacobians(stack: ModelStack, points: Tensor) -> Tensor:
    """Jacobians of the first model at (n, *input_shape): float64 (n, outputs, inputs).

    Row by row, or column by column where there are fewer inputs than outputs.
    """
    points = points.double()
    function = one_model(stack)
    outputs = function(points[:1]).shape[1]
    if outputs <= points[0].numel():
        return rows(function, points, outputs)
    with warnings.catch_warnings():  # of torch about torch, the first time
        warnings.simplefilter("ignore", FutureWarning)
        columns = jacfwd(lambda point: function(point[None])[0])
        return torch.stack([columns(point).flatten(1) for point in points])


def band_basis(
    sizes: int | Sequence[int], frequencies: Sequence[int], *, transform: str = "dft"
) -> Tensor:
    """Orthonormal basis of a frequency band of real signals: float64 (inputs, dimension).

    "dft": cosine and sine of each integer frequency 0 .. length / 2; "dct": the DCT-II vectors
    0 .. length - 1. ``sizes`` is a signal's length, or the (height, width) of flattened images,
    whose basis is all products of the axes' vectors at the ``frequencies``.

    Raises
    ------
    ValueError
        For an unknown transform or frequency.
    """
    basis = torch.ones(1, 1, dtype=torch.float64)
    for length in (sizes,) if isinstance(sizes, int) else sizes:
        basis = torch.kron(basis, _axis_basis(length, frequencies, transform))
    return basis


def _axis_basis(length: int, frequencies: Sequence[int], transform: str) -> Tensor:
    """:func:`band_basis` of signals."""
    if transform not in TRANSFORMS:
        raise ValueError(f"transform {transform!r}: allowed are {', '.join(TRANSFORMS)}")
    most = length // 2 if transform == "dft" else length - 1
    if not frequencies or min(frequencies) < 0 or max(frequencies) > most:
        raise ValueError(
            f"frequencies = {list(frequencies)}: allowed are 0 to {most}, at least one"
        )
    place = torch.arange(length, dtype=torch.float64)
    vectors = []
    for k in frequencies:
        if transform == "dct":
            vectors.append(torch.cos(math.pi * k * (place + 0.5) / length))
            continue
        vectors.append(torch.cos(2 * math.pi * k * place / length))
        if 0 < 2 * k < length:
            vectors.append(torch.sin(2 * math.pi * k * place / length))
    return torch.nn.functional.normalize(torch.stack(vectors, 1), dim=0)


def band_singular_values(jacobian: Tensor, basis: Tensor | None = None) -> Tensor:
    """Singular values of Jacobians (n, outputs, inputs) on a subspace: (n, dimension), descending.

    A dimension that exceeds the outputs' number has singular values of 0, which count: they are
    the directions the map cannot see.
    """
    matrix = jacobian if basis is None else jacobian @ basis.to(jacobian)
    values = torch.linalg.svdvals(matrix)
    missing = matrix.shape[-1] - values.shape[-1]
    return torch.nn.functional.pad(values, (0, max(0, missing)))


def distance_ratios(stack: ModelStack, points: Tensor, *, basis: Tensor | None = None) -> Tensor:
    """|f(x) - f(x')| / |x - x'| over all pairs of points (n, d): float64 (num_models, pairs).

    With a ``basis`` the points are projected onto its span first.

    Raises
    ------
    ValueError
        If there are fewer than two distinct points.
    """
    points = points.double()
    if basis is not None:
        flat = points.flatten(1)
        points = (flat @ basis @ basis.T).view_as(points)
    inputs = torch.nn.functional.pdist(points.flatten(1))
    if not bool((inputs > 0).any()):
        raise ValueError(f"{len(points)} points: allowed are at least two distinct ones")
    outputs = stack.to(dtype=torch.float64)(points).flatten(2)
    found = torch.stack([torch.nn.functional.pdist(y) for y in outputs])
    return (found / inputs)[:, inputs > 0]


def branch_constants(features: ModelStack) -> list[tuple[Tensor, bool]]:
    """Of every residual block its branch's constant, and whether its skip is the identity.

    Constants are certified upper bounds in l2, float64 (num_models,).
    """
    found, shape = [], tuple(features.input_shape)
    for path, layer in features.module.named_children():
        part = _part(features, layer, f"{path}.", shape)
        if isinstance(layer, Residual):
            branch = _part(features, layer.branch, f"{path}.branch.", shape)
            found.append((layer_product(branch), isinstance(layer.skip, nn.Identity)))
        zeros = torch.zeros(features.num_models, 1, *shape, dtype=torch.float64)
        shape = tuple(stacked_forward(layer, part.state, zeros, train=False)[0].shape[2:])
    return found


def _part(
    features: ModelStack, layer: nn.Module, prefix: str, shape: tuple[int, ...]
) -> ModelStack:
    state = {n.removeprefix(prefix): t for n, t in features.state.items() if n.startswith(prefix)}
    return ModelStack(layer, state, shape)


def low_band_bound(branch_constants: Sequence[float], *, lift: float = 1.0) -> float:
    """l in |P(f(x) - f(x'))| >= l |x - x'| for x - x' in the low band, at least 0.

    For a residual network x + g_i(x) of one resolution with branch constants k_i it holds that
    f(x) - f(x') = (x - x') + r with |r| <= prod(1 + k_i) - 1 times |x - x'|, so the low-pass P,
    an orthogonal projection that leaves x - x' alone, gives l = 2 - prod(1 + k_i). Rounded down.

    ``lift`` : a pointwise linear layer before, at least that many times as long as its inputs.
    """
    constants = _exact(branch_constants)
    return _at_most(Fraction(lift) * (2 - math.prod(1 + k for k in constants)))


def textbook_bound(branch_constants: Sequence[float], *, lift: float = 1.0) -> float:
    """l in |f(x) - f(x')| >= l |x - x'| for all inputs: prod(1 - k_i), rounded down; at least 0.

    For residual networks whose skip connections are all the identity (Behrmann et al. 2019, arXiv
    1811.00995, lemma 2); it says nothing where a branch's constant is 1 or more.
    """
    constants = _exact(branch_constants)
    return _at_most(Fraction(lift) * math.prod(max(Fraction(0), 1 - k) for k in constants))


def _exact(constants: Sequence[float]) -> list[Fraction]:
    for k in constants:
        if not 0 <= k < math.inf:
            raise ValueError(f"branch constant {k}: allowed are numbers >= 0")
    return [Fraction(k) for k in constants]


def _at_most(value: Fraction) -> float:
    """The next double below, or 0."""
    return max(0.0, math.nextafter(float(value), -math.inf))


@dataclass(frozen=True)
class CounterExample:
    """Two inputs that a map brings together.

    Attributes
    ----------
    start : (d,), one of them; ``start + direction`` is the other.
    ratio : |f(start + direction) - f(start)| / |direction|.
    infinitesimal : |J v| for the unit singular vector v of J's smallest singular value.
    """

    start: Tensor
    direction: Tensor
    ratio: float
    infinitesimal: float


def counter_example(
    stack: ModelStack, start: Tensor, *, radius: float, steps: int = 200, step_size: float = 0.05
) -> CounterExample:
    """Search an input at distance ``radius`` from ``start`` that the first model cannot tell apart.

    The right singular vector of the Jacobian's smallest singular value (its null space where there
    are fewer outputs than inputs), then Riemannian gradient descent of the ratio on the sphere.

    Raises
    ------
    ValueError
        If ``radius`` is not positive.
    """
    if not radius > 0:
        raise ValueError(f"radius = {radius}: allowed are positive numbers")
    function, start = one_model(stack), start.double()
    jacobian = jacobians(stack, start[None])[0]
    unit = torch.linalg.svd(jacobian, full_matrices=True).Vh[-1]
    infinitesimal = (jacobian @ unit).norm().item()
    base = function(start[None]).detach()
    best, best_ratio = unit, math.inf
    for i in range(steps + 1):
        leaf = unit.detach().requires_grad_()
        with torch.enable_grad():
            moved = function((start + radius * leaf.view_as(start))[None])
            ratio = (moved - base).norm() / radius
            (gradient,) = torch.autograd.grad(ratio, leaf)
        if ratio.item() < best_ratio:
            best, best_ratio = unit, ratio.item()
        tangent = gradient - (gradient @ unit) * unit
        size = tangent.norm()
        if size == 0:
            break
        step = step_size * (1 + math.cos(math.pi * i / (steps + 1))) / 2
        unit = torch.nn.functional.normalize(unit - step * tangent / size, dim=0)
    direction = (radius * best).view_as(start)
    return CounterExample(start, direction, best_ratio, infinitesimal)


def energy_per_frequency(direction: Tensor, *, transform: str = "dft") -> Tensor:
    """Share of |d|^2 at each frequency: sums to 1.

    Of a signal (length,) one share per frequency, of an image (height, width) one per pair of
    frequencies; "dft": 0 .. length / 2 on each axis; "dct": 0 .. length - 1.
    """
    shares = direction.double()
    for axis, length in enumerate(direction.shape):
        count = length // 2 + 1 if transform == "dft" else length
        each = [_axis_basis(length, [k], transform) for k in range(count)]
        shares = torch.tensordot(torch.cat(each, 1), shares, dims=([0], [axis])).movedim(0, axis)
    shares = shares.square()
    for axis, length in enumerate(direction.shape):
        if transform == "dft":
            shares = _add_pairs(shares, axis, length)
    return shares / shares.sum()


def _add_pairs(shares: Tensor, axis: int, length: int) -> Tensor:
    """Cosine and sine of a frequency, neighbours along ``axis``, together."""
    index = (torch.arange(length) + 1) // 2
    shape = list(shares.shape)
    shape[axis] = length // 2 + 1
    return torch.zeros(shape, dtype=shares.dtype).index_add(axis, index, shares)

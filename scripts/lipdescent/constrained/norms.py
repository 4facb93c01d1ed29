"""Differentiable upper bounds on spectral norms, cheap enough for every training step.

They hold in exact arithmetic; :mod:`lipdescent.structure.materialise` covers rounding.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GRAM_ITERATIONS = 5


def spectral_bound(matrix: Tensor, *, iterations: int = GRAM_ITERATIONS) -> Tensor:
    """Upper bound on the spectral norm of matrices (..., m, n), real or complex: (...).

    Gram iteration (Delattre et al. 2023, arXiv 2305.16173, theorem 3.1): with A = W^H W,
    |W|_2 <= |A^p|_F^(1 / 2p), p = 2^iterations. It exceeds the norm by a factor of at most
    min(m, n)^(1 / 4p): 1.038 for 128 x 128 and 5 iterations. 0 for a zero matrix.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        matrix = matrix.mT
    return _SpectralBound.apply(matrix, iterations)[0]


def _gram_iteration(
    matrix: Tensor, iterations: int, *, with_below: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The bound, W, A^p and, if wanted, A^(p - 1), each matrix up to a positive factor."""
    # Scaled, squares of very large and very small weights stay within the range of float32.
    scale = _nonzero(matrix.abs().amax((-2, -1), keepdim=True))
    unit = matrix / scale
    power = unit.mH @ unit
    below = None
    logarithm, exponent = torch.zeros_like(scale[..., 0, 0]), 0.5
    for _ in range(iterations):
        size = _frobenius(power)
        logarithm = logarithm + exponent * size.log()
        power = power / size[..., None, None]
        if with_below:
            below = power if below is None else below @ power
        power = power @ power
        exponent /= 2
    size = _frobenius(power)
    bound = scale[..., 0, 0] * (logarithm + exponent * size.log()).exp()
    return bound, unit, power / size[..., None, None], below


def largest_spectral_bound(matrices: Tensor) -> Tensor:
    """The largest :func:`spectral_bound` of matrices (..., blocks, m, n): (...).

    Derivatives are those of one block where it is: half of the products.
    """
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.mT
    bounds = _gram_iteration(matrices.detach(), GRAM_ITERATIONS, with_below=False)[0]
    place = bounds.argmax(-1)[..., None, None, None]
    return spectral_bound(torch.take_along_dim(matrices, place, -3))[..., 0]


class _SpectralBound(torch.autograd.Function):
    """|W|_2 <= b = tr(A^2p)^(1 / 4p), whose gradient is b W A^(2p - 1) / tr(A^2p).

    Autograd would go back through every square, in twice the time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        bound, unit, power, below = _gram_iteration(matrix, iterations, with_below=True)
        # Up to a positive factor; homogeneity, <gradient, W> = b, sets it.
        gradient = unit @ (power if below is None else below @ power)
        length = (gradient.conj() * matrix).real if matrix.is_complex() else gradient * matrix
        length = _nonzero(length.sum((-2, -1)))
        return bound, gradient * (bound / length)[..., None, None]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Any) -> Any:
        (direction,) = ctx.saved_tensors
        return gradient[..., None, None] * direction, None


def simple_bound(matrix: Tensor, gram: Tensor) -> Tensor:
    """Upper bound (...) on the spectral norm of (..., m, n) with ``gram`` = W^T W at hand.

    The smallest of sqrt(|W|_1 |W|_inf), sqrt(|W^T W|_inf) and sqrt(|W^T W|_F). The second is exact
    for orthonormal columns, where the first exceeds the norm by up to sqrt(n).
    """
    absolute = matrix.abs()
    rows, columns = absolute.sum(-1).amax(-1), absolute.sum(-2).amax(-1)
    product = rows * columns
    product = torch.minimum(product, gram.abs().sum(-1).amax(-1))
    return _nonzero(torch.minimum(product, _frobenius(gram))).sqrt()


def convolution_bound(
    kernel: Tensor, *, sizes: Sequence[int], padding: Sequence[int], circular: bool, stride: int = 1
) -> Tensor:
    """Upper bound (...) on the norm of a convolution on its real input size.

    Circular padding: exact block diagonalisation by the DFT (Sedghi et al. 2019). Where it makes
    the output larger than the input, outputs repeat, each up to m times in all: sqrt(m) times as
    much is an upper bound. A stride s lands the s^dims frequencies that agree modulo n / s on one:
    their symbols side by side, over s^(dims / 2), are a block. Zero padding: the same on a torus on
    which the padded input never meets its own copy, a superset of the layer, hence an upper bound.

    Parameters
    ----------
    kernel : (..., out, in, *kernel sizes).
    sizes : spatial input size, one per axis; ``stride`` divides them where padding is circular.
    padding : zeros (or wrapped elements) on each side, one per axis.
    """
    dims = len(sizes)
    taps = kernel.shape[-dims:]
    torus = [
        n if circular else -(-(n + max(p, 2 * p - k + 1)) // stride) * stride
        for n, p, k in zip(sizes, padding, taps, strict=True)
    ]
    waves = _waves(tuple(torus), tuple(taps), stride, kernel.dtype, kernel.device)
    flat = kernel.flatten(-dims)  # (..., out, in, taps)
    symbol = torch.complex(flat @ waves[0], flat @ waves[1])
    # (..., out, in, aliases * frequencies) -> (..., frequencies, out, in * aliases)
    blocks = symbol.unflatten(-1, (stride**dims, -1)).movedim(-1, -4).flatten(-2)
    bound = largest_spectral_bound(blocks) / stride ** (dims / 2)
    outputs = [(n + 2 * p - k) // stride + 1 for n, p, k in zip(sizes, padding, taps, strict=True)]
    repeats = math.prod(-(-out * stride // n) for out, n in zip(outputs, sizes, strict=True))
    return bound * math.sqrt(repeats) if circular and repeats > 1 else bound


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _waves(
    torus: tuple[int, ...],
    taps: tuple[int, ...],
    stride: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """cos and sin (2, taps, aliases * frequencies), one of each pair of conjugate frequencies.

    Kept: to copy them to a device in every update would wait for it, and cannot be captured.
    """
    frequencies = [range(n // stride) for n in torus]
    frequencies[-1] = range(torus[-1] // stride // 2 + 1)
    shifts = itertools.product(*(range(0, n, n // stride) for n in torus))
    grid = torch.tensor(list(itertools.product(*frequencies)), dtype=torch.float64)
    grid = (torch.tensor(list(shifts), dtype=torch.float64)[:, None] + grid).flatten(0, 1)
    place = torch.tensor(list(itertools.product(*map(range, taps))), dtype=torch.float64)
    steps = 2 * math.pi / torch.tensor(torus, dtype=torch.float64)
    angle = (place * steps) @ grid.T
    return torch.stack([angle.cos(), angle.sin()]).to(device, dtype)


def _frobenius(matrix: Tensor) -> Tensor:
    """Norms (...) of real or complex (..., m, n).

    Of complex numbers as pairs of real ones, or PyTorch takes the modulus of each: in 60 times
    the time on a CPU, more than the products of a Gram iteration.
    """
    if matrix.is_complex():
        return _nonzero(torch.linalg.vector_norm(torch.view_as_real(matrix), dim=(-3, -2, -1)))
    return _nonzero(torch.linalg.vector_norm(matrix, dim=(-2, -1)))


def _nonzero(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)

"""The Björck iteration through eigenvalues: the same function of W, a tenth of the work on a CPU.

``iterations`` steps multiply W by a polynomial Z = g(A) in the Gram matrix A = W^T W. One
eigendecomposition A = V diag(s) V^T in float64 gives Z = V diag(g(s)) V^T however many steps, and
the derivative by Daleckii & Krein (Higham, Functions of Matrices, 2008, theorem 3.11):
dZ = V (G o V^T dA V) V^T with the divided differences G of g. Autograd through ``eigh`` would
divide by differences of eigenvalues, which are zero for orthonormal W.
"""

from typing import Any

import torch
from torch import Tensor

# (I - Q)^(-1/2) = sum_i COEFFICIENTS[i] Q^i
COEFFICIENTS = (1.0, 1 / 2, 3 / 8, 5 / 16, 35 / 128)
_CLOSE = 1e-5  # eigenvalues nearer than this use the derivative in place of the difference


def iterate(weight: Tensor, *, order: int, iterations: int) -> Tensor:
    """The iterate of W (..., m, n), m >= n, whose singular values are at most 1."""
    return _Iterate.apply(weight, order, iterations)[0]


def scalar(s: Tensor, *, order: int, iterations: int) -> tuple[Tensor, Tensor]:
    """g at squared singular values ``s``, and g' by a central difference (1e-9 relative)."""
    step = 1e-5 * (s + 1e-6)
    square = torch.stack([s, s - step, s + step])
    g = torch.ones_like(square)
    for _ in range(iterations):
        q = 1 - square
        series = 1 + COEFFICIENTS[order] / COEFFICIENTS[order - 1] * q
        for i in range(order - 1, 0, -1):
            series = 1 + COEFFICIENTS[i] / COEFFICIENTS[i - 1] * q * series
        g = g * series
        square = square * series.square()
    middle, below, above = g.unbind()
    return middle, (above - below) / (2 * step)


class _Iterate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, order: int, iterations: int) -> tuple[Tensor, ...]:
        lifted = weight.double()
        gram = lifted.mT @ lifted
        # LAPACK refuses the whole stack for one NaN; it stays in the product with the weight.
        finite = gram.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))
        g, dg = scalar(values.clamp_min(0), order=order, iterations=iterations)
        gap = values[..., :, None] - values[..., None, :]
        close = gap.abs() < _CLOSE
        quotient = (g[..., :, None] - g[..., None, :]) / gap.masked_fill(close, 1.0)
        slope = (dg[..., :, None] + dg[..., None, :]) / 2
        differences = torch.where(close, slope, quotient).to(weight.dtype)
        vectors, g = vectors.to(weight.dtype), g.to(weight.dtype)
        factor = (vectors * g[..., None, :]) @ vectors.mT
        return weight @ factor, factor, vectors, differences

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Any) -> Any:
        weight, factor, vectors, differences = ctx.saved_tensors
        inner = vectors.mT @ (weight.mT @ gradient) @ vectors
        inner = vectors @ (differences * (inner + inner.mT)) @ vectors.mT
        return gradient @ factor + weight @ inner, None, None

"""Training on the orthonormal matrices: the raw weight is put back onto them before every step.

Where the raw weight itself is orthonormal, Björck's iteration leaves it as it is, and its
derivative is the projection onto the tangent space, E - U sym(U^T E) for tall U: neither pass
needs an iteration. One optimiser step away from there, two or three iterations lead back (each
squares the error) in place of the 12 that arbitrary weights need, and of their derivatives. Raw
and orthonormalised weight are the same network: a checkpoint may hold either.
"""

import torch
from torch import Tensor

from lipdescent.constrained.norms import simple_bound

MAX_ITERATIONS = 24  # singular values of 1e-3 of the largest get there
CUDA_ITERATIONS = 6  # no host synchronisation: always as many; what is left, the next step does
# Order 1 takes singular values of (0, sqrt 3) into (0, 1], and up to here it lowers them little.
REACH = 1.2


@torch.no_grad()
def retract_(weight: Tensor) -> Tensor:
    """Orthonormalise every matrix of ``weight`` (models, m, n) in place.

    W <- 3/2 W - 1/2 W W^T W (Björck & Bowie 1971, order 1) from a norm of at most 1.2, which it
    brings below 1, until |I - W^T W|_F is at the level of rounding: n + 16 units. A matrix that is
    there already does not move, nor does one that is not finite. What becomes of a matrix does not
    depend on the others.
    """
    tall = weight if weight.shape[1] >= weight.shape[2] else weight.mT
    enough = torch.finfo(weight.dtype).eps * (tall.shape[2] + 16)
    always = weight.device.type == "cuda"
    gram = tall.mT @ tall
    residual = _residual(gram)
    going = ~(residual <= enough) & tall.flatten(1).isfinite().all(1)
    if not always and not bool(going.any()):
        return weight
    far = going & ~(residual <= REACH**2 - 1)  # the norm may exceed REACH
    found = tall
    if always or bool(far.any()):
        found = tall * torch.where(far, _shrinking(tall), 1.0)[:, None, None]
        gram = found.mT @ found
        residual = _residual(gram)
    for i in range(CUDA_ITERATIONS if always else MAX_ITERATIONS):
        if i:
            gram = found.mT @ found
            residual = _residual(gram)
            going = going & (residual > enough)
        step = torch.baddbmm(found, found, gram, beta=1.5, alpha=-0.5)
        everyone = not always and bool(going.all())
        found = step if everyone else torch.where(going[:, None, None], step, found)
        # With Q = I - W^T W the iteration leaves 3/4 Q^2 + 1/4 Q^3.
        going = going & (residual.square() * (3 + residual) / 4 > enough)
        if not always and not bool(going.any()):
            break
    tall.copy_(found)
    return weight


@torch.no_grad()
def tangent_(weight: Tensor, gradient: Tensor) -> Tensor:
    """Project ``gradient`` (models, m, n) in place onto the tangent space at orthonormal W.

    The gradient with respect to W of a function of Björck's iterate of W.
    """
    tall, own = weight, gradient
    if weight.shape[1] < weight.shape[2]:
        tall, own = weight.mT, gradient.mT
    inner = tall.mT @ own
    own.baddbmm_(tall, inner + inner.mT, alpha=-0.5)
    return gradient


def _residual(gram: Tensor) -> Tensor:
    """|I - A|_F of every A: (models,)."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.vector_norm(gram - identity, dim=(-2, -1))


def _shrinking(tall: Tensor) -> Tensor:
    """Factor (models,) to a norm of at most REACH, whatever the size of the entries."""
    largest = tall.abs().amax((-2, -1))
    largest = torch.where(largest < torch.finfo(tall.dtype).tiny, 1.0, largest)  # zero stays zero
    unit = tall / largest[:, None, None]
    return REACH / largest / simple_bound(unit, unit.mT @ unit).clamp_min(0.5)

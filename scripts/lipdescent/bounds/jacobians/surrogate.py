"""Ascent on ||J(x)|| for chains of any depth, along the gradient of a surrogate.

The gradient of ||J(x)|| is 0 almost everywhere. That of u^T J(x) v with sigmoids in place of the
masks is not, with u and v the singular vectors (or l_inf, l1 duals) of the true Jacobian; the best
of a few steps along it is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipdescent.bounds.jacobians.ascent import dual_vectors
from lipdescent.bounds.jacobians.chains import jacobians_at, soft_product
from lipdescent.deadline import over
from lipdescent.shapes import Float64
from lipdescent.structure.relu_chain import Chain

_STEP_SIZES = (0.01, 0.04, 0.15)  # relative to the size of a point
_SHARPNESS = 4.0  # of the sigmoids


def ascend_surrogate(
    links: Chain, points: Float64[Tensor, "models k inputs"], *, norm: str, steps: int
) -> Float64[Tensor, "models k inputs"]:
    """Points of norms at least those at ``points``, own ones of each model.

    How products of several models round may depend on how many they are.
    """
    if len(links.weights) == 1:  # a linear map: the same Jacobian everywhere
        return points
    sizes = points.new_tensor(_STEP_SIZES)[:, None, None]
    left, right, value = _duals(links, points, norm)
    best, kept = value, points
    for _ in range(steps):
        if over():
            break
        with torch.enable_grad():
            variable = points.clone().requires_grad_()
            objective = soft_product(links, variable, left, right, sharpness=_SHARPNESS).sum()
            (gradient,) = torch.autograd.grad(objective, variable)
        size = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
        unit = torch.nn.functional.normalize(gradient, dim=-1, eps=1e-300)
        trials = points[:, None] + sizes * (size * unit)[:, None]
        duals = _duals(links, trials.flatten(1, 2), norm)
        # The best of the trials even where it loses a little: what follows may gain.
        found, which = duals[2].view(trials.shape[:3]).max(1)
        back = (found < 0.9 * best)[..., None]
        points = torch.where(back, kept, _chosen(trials, which))
        left, right, value = _duals(links, points, norm)
        better = value > best
        kept, best = torch.where(better[..., None], points, kept), torch.maximum(value, best)
    return kept


def _chosen(trials: Tensor, which: Tensor) -> Tensor:
    """Of trials (models, sizes, k, n_in) that of each point: (models, k, n_in)."""
    index = which[:, None, :, None].expand(-1, 1, -1, trials.shape[-1])
    return trials.gather(1, index)[:, 0]


def _duals(links: Chain, points: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """Dual vectors and norms (models, k, ...) of the Jacobians at points (models, k, n_in)."""
    left, right, value = dual_vectors(jacobians_at(links, points).flatten(0, 1), norm)
    return tuple(found.unflatten(0, points.shape[:2]) for found in (left, right, value))

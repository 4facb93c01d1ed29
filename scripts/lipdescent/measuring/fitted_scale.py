"""The test loss without the scale of the logits: temperature scaling, fitted on other points.

Cross-entropy of beta times the logits, with the beta >= 0 that is best for one half of the points
and judged on the other half, both ways (Guo et al. 2017, arXiv 1706.04599, sec. 4.2: temperature
1 / beta). Multiplying all logits by a number changes a Lipschitz constant and the test loss, but
neither this loss nor the test error.
"""

import torch
from torch import Tensor

LARGEST = 1e3  # beta, in units of one over the root mean square of the centred logits
STEPS = 60
PRECISION = 1e-9


def calibrated(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss in nats at the fitted scale, and beta: (M, n, K) and (M or 1, n) -> (M,) twice.

    Points at even places are one half, those at odd places the other; beta is the mean of both.

    Raises
    ------
    ValueError
        With fewer than two points: there is nothing to judge by.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"{logits.shape[1]} points: two halves need two points")
    logits = logits.double()
    labels = labels.expand(logits.shape[:2])
    halves = [(logits[:, start::2], labels[:, start::2]) for start in (0, 1)]
    betas = [best_scale(*half) for half in halves]
    first, second = (
        _losses(beta, *half).sum(1) for beta, half in zip(betas, reversed(halves), strict=True)
    )
    return (first + second) / logits.shape[1], (betas[0] + betas[1]) / 2


def best_scale(logits: Tensor, labels: Tensor) -> Tensor:
    """The beta >= 0 of the least mean cross-entropy: (M, n, K) and (M, n) -> (M,).

    Newton's steps on its derivative, which grows with beta, by bisection where they leave the
    interval. At most LARGEST: where all points are classified rightly, no beta is the best.
    """
    centred = logits - logits.mean(-1, keepdim=True)
    unit = centred.square().mean((1, 2)).sqrt()
    unit = torch.where(unit > 0, unit, 1.0)
    z = centred / unit[:, None, None]
    own = z.gather(-1, labels[..., None])[..., 0]
    found, todo = torch.empty_like(unit), torch.arange(len(unit), device=unit.device)
    beta, low, high = torch.ones_like(unit), torch.zeros_like(unit), torch.full_like(unit, LARGEST)
    for _ in range(STEPS):
        chances = torch.softmax(beta[:, None, None] * z, -1)
        weighted = chances.mul_(z)
        mean = weighted.sum(-1)
        slope = (mean - own).mean(1)
        curvature = (weighted.mul_(z).sum(-1) - mean.square()).mean(1)
        low, high = torch.where(slope < 0, beta, low), torch.where(slope < 0, high, beta)
        step = beta - slope / curvature
        inside = (step > low) & (step < high)  # False for NaN
        after = torch.where(inside, step, (low + high) / 2)
        moving = (after - beta).abs() > PRECISION * after.clamp_min(PRECISION)
        found[todo] = after
        if not bool(moving.all()):
            # Only what still moves goes on, so that a model's scale does not depend on the others.
            z, own, todo = z[moving], own[moving], todo[moving]
            after, low, high = after[moving], low[moving], high[moving]
        beta = after
        if not len(todo):
            break
    return found / unit


def _losses(beta: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every point, (M, n)."""
    scaled = torch.log_softmax(beta[:, None, None] * logits, -1)
    return -scaled.gather(-1, labels[..., None])[..., 0]

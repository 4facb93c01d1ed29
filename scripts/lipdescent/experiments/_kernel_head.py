"""A Gaussian process on features: means for classes, a variance that says how far inputs are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOISE = 1e-2  # variance of the labels, of a prior variance of 1


@dataclass(frozen=True)
class KernelHead:
    """Regression on one-hot labels with the kernel exp(-|x - x'|^2 / (2 length^2)).

    Rasmussen & Williams (2006, eqs. 2.25, 2.26), with :data:`NOISE`.

    Attributes
    ----------
    points : training features, float64 (n, m).
    length : the median distance between two of them.
    factor : Cholesky factor of kernel and noise, (n, n).
    weights : (n, classes).
    """

    points: Tensor
    length: float
    factor: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, points: Tensor, labels: Tensor) -> KernelHead:
        """Of features (n, m) with labels (n,).

        Raises
        ------
        ValueError
            If there are fewer than two distinct points.
        """
        points = points.double()
        apart = torch.nn.functional.pdist(points)
        length = apart[apart > 0].median().item() if bool((apart > 0).any()) else 0.0
        if not length:
            raise ValueError(f"{len(points)} points: allowed are at least two distinct ones")
        noise = NOISE * torch.eye(len(points), dtype=points.dtype)
        factor = torch.linalg.cholesky(_kernel(points, points, length) + noise)
        targets = torch.nn.functional.one_hot(labels).to(points)
        return cls(points, length, factor, torch.cholesky_solve(targets, factor))

    def mean(self, x: Tensor) -> Tensor:
        """(n, m) -> (n, classes)."""
        return _kernel(x.double(), self.points, self.length) @ self.weights

    def variance(self, x: Tensor) -> Tensor:
        """(n, m) -> (n,), of the function's values: about 0 at training points, 1 far off."""
        across = _kernel(x.double(), self.points, self.length)
        explained = torch.linalg.solve_triangular(self.factor, across.mT, upper=False)
        return (1 - explained.square().sum(0)).clamp_min(0)


def _kernel(x: Tensor, y: Tensor, length: float) -> Tensor:
    exact = "donot_use_mm_for_euclid_dist"  # products cancel where points are near
    return (torch.cdist(x, y, compute_mode=exact).square() / (-2 * length**2)).exp()


def area_under_curve(positive: Tensor, negative: Tensor) -> float:
    """Share of pairs in which the positive score (n,) exceeds the negative one (m,), ties half.

    The area under the ROC curve (Hanley & McNeil 1982).
    """
    ordered, _ = negative.sort()
    below = torch.searchsorted(ordered, positive) + torch.searchsorted(
        ordered, positive, right=True
    )
    return below.double().mean().item() / 2 / len(negative)

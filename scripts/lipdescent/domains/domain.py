"""Where a Lipschitz constant is taken: everywhere, on a box, on balls around points.

The constant on a domain is the largest norm of the (generalised) Jacobian over it, in all
directions. On a convex domain with an interior that is the least L with |f(x) - f(y)| <= L |x - y|
for all x, y in it; on a single point, such as a ball of radius 0, the Jacobian's norm. Several
balls are several domains: their constants are given one by one, or the largest of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import length_up
from lipdescent.arithmetic.ulps import round_down, round_up
from lipdescent.domains import written


@dataclass(frozen=True)
class Regions:
    """B convex sets of inputs, each a box or an l2 ball in it.

    Attributes
    ----------
    low, high : float64 (B, *input_shape), a box around each; infinite for the whole space.
    center : float64 (B, *input_shape), a point of each.
    radius : float64 (B,) of l2 balls around ``center`` that hold them, or None where the box says
        all.
    """

    low: Tensor
    high: Tensor
    center: Tensor
    radius: Tensor | None = None

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: slice | Tensor) -> Regions:
        radius = None if self.radius is None else self.radius[index]
        return Regions(self.low[index], self.high[index], self.center[index], radius)

    def to(self, device: torch.device) -> Regions:
        radius = None if self.radius is None else self.radius.to(device)
        return Regions(self.low.to(device), self.high.to(device), self.center.to(device), radius)

    @property
    def bounded(self) -> bool:
        return bool(self.low.isfinite().all() and self.high.isfinite().all())

    def half(self) -> Tensor:
        """(B, *input_shape): how far a point may be from the centre, coordinate by coordinate."""
        half = torch.maximum(self.high - self.center, self.center - self.low)
        return torch.where(half == 0, half, round_up(half))  # exact where the ends are equal

    def reach(self, norm: str) -> Tensor:
        """(B,): largest distance to the centre in l2, l_inf or l1, rounded up."""
        half = self.half().flatten(1)
        if norm == "linf":
            return half.amax(1)
        if norm == "l2":
            lengths = length_up(half) if bool(half.isfinite().all()) else half.amax(1)
            return lengths if self.radius is None else torch.minimum(lengths, self.radius)
        total = round_up(half.sum(1), half.shape[1])
        if self.radius is None:
            return total
        return torch.minimum(total, round_up(self.radius * math.sqrt(half.shape[1]), 3))

    def project(self, points: Tensor, at: Tensor) -> Tensor:
        """``points`` (n, *input_shape), point i moved into region ``at[i]``; inside, unchanged."""
        low, high, center = self.low[at], self.high[at], self.center[at]
        inside = torch.minimum(torch.maximum(points, low), high)
        if self.radius is None:
            return inside
        step = (inside - center).flatten(1)
        radius, length = self.radius[at], length_up(step)
        # A little inwards, so that the point as it is rounded lies in the ball.
        factor = round_down(radius / torch.where(length > 0, length, 1.0), 16)
        magnitude = center.abs().flatten(1).amax(1) * 2.0**-50 * math.sqrt(step.shape[1])
        factor = (factor - magnitude / torch.where(length > 0, length, 1.0)).clamp_min(0.0)
        outside = round_up(length) > radius
        moved = center + (step * factor[:, None]).view_as(center)
        moved = torch.where((radius == 0).view(-1, *[1] * (center.ndim - 1)), center, moved)
        return torch.where(outside.view(-1, *[1] * (center.ndim - 1)), moved, inside)

    def nearest(self, points: Tensor) -> Tensor:
        """(n,): the region whose centre is nearest to each of ``points`` (n, *input_shape)."""
        if len(self) == 1:
            return torch.zeros(len(points), dtype=torch.int64, device=points.device)
        order = 2.0 if self.radius is not None else math.inf
        blocks = points.flatten(1).split(1024)
        centers = self.center.flatten(1)
        return torch.cat([torch.cdist(block, centers, p=order).argmin(1) for block in blocks])

    def contain(self, points: Tensor) -> Tensor:
        """bool (n,): whether some region holds each of ``points``."""
        points = points.to(self.low)
        moved = self.project(points, self.nearest(points))
        return (moved == points).flatten(1).all(1)


@dataclass(frozen=True)
class Everywhere:
    """The whole space."""

    def regions(self, shape: tuple[int, ...], points: Tensor | None = None) -> Regions:
        infinite = torch.full((1, *shape), math.inf, dtype=torch.float64)
        return Regions(-infinite, infinite, torch.zeros(1, *shape, dtype=torch.float64))


@dataclass(frozen=True)
class Box:
    """low <= x <= high, coordinate by coordinate; numbers, or tensors of one input's shape.

    Raises
    ------
    ValueError
        Unless both are finite and low <= high.
    """

    low: Tensor | float
    high: Tensor | float

    def __post_init__(self) -> None:
        low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (self.low, self.high))
        if not bool(low.isfinite().all() and high.isfinite().all()):
            raise ValueError(f"box: from {self.low} to {self.high}; allowed are finite numbers")
        if bool((low > high).any()):
            raise ValueError(f"box: from {self.low} to {self.high} is empty; allowed: low <= high")

    def regions(self, shape: tuple[int, ...], points: Tensor | None = None) -> Regions:
        low, high = (self._end(end, shape) for end in (self.low, self.high))
        return Regions(low, high, torch.minimum(torch.maximum(low / 2 + high / 2, low), high))

    def _end(self, end: Tensor | float, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.as_tensor(end, dtype=torch.float64)
        if tensor.ndim and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"box: an end of shape {tuple(tensor.shape)}, an input has {shape}")
        return tensor.expand(1, *shape).contiguous()


@dataclass(frozen=True)
class Ball:
    """|x - c| <= radius in l2 or l_inf, around each data point or each of ``centers`` (n, ...).

    Raises
    ------
    ValueError
        For a radius that is negative, NaN or infinite, an unknown norm, centers that are not
        finite.
    """

    radius: float
    norm: str = "l2"
    centers: Tensor | None = None

    def __post_init__(self) -> None:
        written.checked({"ball": {"radius": self.radius, "norm": self.norm}})
        if self.centers is not None and not bool(self.centers.isfinite().all()):
            raise ValueError("ball: a centre is NaN or infinite; allowed are finite numbers")

    def regions(self, shape: tuple[int, ...], points: Tensor | None = None) -> Regions:
        given = self.centers if self.centers is not None else points
        if given is None or not len(given):
            raise ValueError("ball: without data there is no centre; give data or centers")
        if tuple(given.shape[1:]) != tuple(shape):
            raise ValueError(f"ball: centers {tuple(given.shape)}, allowed is (n, *{tuple(shape)})")
        center = given.detach().to(torch.float64)
        low, high = center - self.radius, center + self.radius
        if self.radius:
            low, high = round_down(low), round_up(high)
        radius = torch.full_like(center.flatten(1)[:, 0], self.radius)
        return Regions(low, high, center, radius if self.norm == "l2" else None)


Domain = Everywhere | Box | Ball


def domain_of(given: Any) -> Domain:
    """The domain that is given as such, or as a configuration writes it; ValueError as there."""
    if isinstance(given, (Everywhere, Box, Ball)):
        return given
    value = written.checked(given)
    if not isinstance(value, Mapping):
        return Everywhere()
    return Box(*value["box"]) if "box" in value else Ball(**value["ball"])


def regions_of(
    given: Any, shape: tuple[int, ...], inputs: Mapping[str, Tensor] | None = None
) -> Regions | None:
    """Regions of a domain, balls around all of ``inputs`` (split -> points); None for everywhere.

    Raises
    ------
    ValueError
        As :func:`domain_of`, and for balls without centres or boxes of another shape.
    """
    domain = domain_of(given)
    if isinstance(domain, Everywhere):
        return None
    points = torch.cat([p.double() for p in inputs.values()]) if inputs else None
    return domain.regions(tuple(shape), points)

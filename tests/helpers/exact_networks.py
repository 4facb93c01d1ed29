"""Small piecewise linear networks in rational arithmetic: every piece, no rounding.

Networks of one input, with biases, or of two inputs without. Along the line, or around the circle,
the kinks of each layer are found exactly from those of the layers before; between them the
network is linear, and its Lipschitz constant is the largest norm of a piece's Jacobian.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

Vector = list[Fraction]
Matrix = list[Vector]
FAR = Fraction(2) ** 4000


def fractions(tensor: torch.Tensor) -> list:
    """Nested lists of what float64 holds, exactly."""
    if tensor.ndim == 0:
        return Fraction(float(tensor))
    return [fractions(part) for part in tensor]


@dataclass
class Exact:
    """Linear layers (weight, bias or None) with leaky ReLUs of the given slope after each but the
    last, or also after it."""

    weights: list[Matrix]
    biases: list[Vector]
    slopes: list[tuple[Fraction, Fraction]]

    @classmethod
    def of(cls, module: nn.Sequential) -> Exact:
        weights, biases, slopes = [], [], []
        for part in module:
            if isinstance(part, nn.Linear):
                weights.append(fractions(part.weight.detach().double()))
                zero = torch.zeros(part.out_features)
                biases.append(
                    fractions((zero if part.bias is None else part.bias.detach()).double())
                )
            else:
                slope = Fraction(float(getattr(part, "negative_slope", 0.0)))
                slopes.append((slope, Fraction(1)))
        return cls(weights, biases, slopes)

    @property
    def inputs(self) -> int:
        return len(self.weights[0][0])

    def jacobians(self) -> list[Matrix]:
        """Of every piece."""
        kinks: list = (
            [Fraction(-FAR), FAR] if self.inputs == 1 else [(1, 0), (0, 1), (-1, 0), (0, -1)]
        )
        for layer in range(len(self.slopes)):
            found = list(kinks)
            for a, b in self._intervals(kinks):
                point = self._middle(a, b)
                z, jacobian = self._before(point, layer)
                for value, row in zip(z, jacobian, strict=True):
                    found += self._zeros(a, b, point, value, row)
            kinks = self._sorted(found)
        points = [self._middle(a, b) for a, b in self._intervals(kinks)]
        return [self._after(point) for point in points]

    def _intervals(self, kinks: list) -> list[tuple]:
        ends = kinks[1:] if self.inputs == 1 else [*kinks[1:], kinks[0]]
        return list(zip(kinks, ends, strict=False))

    def _middle(self, a, b) -> Vector:
        return [(a + b) / 2] if self.inputs == 1 else [a[0] + b[0], a[1] + b[1]]

    def _zeros(self, a, b, point: Vector, value: Fraction, row: Vector) -> list:
        if self.inputs == 1:
            zero = point[0] - value / row[0] if row[0] else None
            return [zero] if zero is not None and a < zero < b else []
        rays = [(-row[1], row[0]), (row[1], -row[0])] if any(row) else []
        return [r for r in rays if _cross(a, r) > 0 and _cross(r, b) > 0]

    def _sorted(self, kinks: list) -> list:
        if self.inputs == 1:
            return sorted(set(kinks))
        kinks = sorted(kinks, key=functools.cmp_to_key(_by_angle))
        return [k for i, k in enumerate(kinks) if i == 0 or _by_angle(kinks[i - 1], k)]

    def _before(self, x: Vector, layer: int) -> tuple[Vector, Matrix]:
        """Pre-activations of a layer at a point, and their Jacobian."""
        jacobian = [[Fraction(int(i == j)) for j in range(len(x))] for i in range(len(x))]
        for i in range(layer + 1):
            x = [b + dot(w, x) for w, b in zip(self.weights[i], self.biases[i], strict=True)]
            columns = list(zip(*jacobian, strict=True))
            jacobian = [[dot(w, c) for c in columns] for w in self.weights[i]]
            if i < layer:
                slopes = [self.slopes[i][z > 0] for z in x]
                x = [s * z for s, z in zip(slopes, x, strict=True)]
                jacobian = [[s * d for d in row] for s, row in zip(slopes, jacobian, strict=True)]
        return x, jacobian

    def _after(self, x: Vector) -> Matrix:
        z, jacobian = self._before(x, len(self.weights) - 1)
        if len(self.slopes) == len(self.weights):
            jacobian = [[self.slopes[-1][v > 0] * d for d in row]
                        for v, row in zip(z, jacobian, strict=True)]  # fmt: skip
        return jacobian


def dot(a, b) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _cross(a, b) -> Fraction:
    return a[0] * b[1] - a[1] * b[0]


def _by_angle(a, b) -> int:
    """Order around the circle from (1, 0) on."""
    half_a, half_b = ((v[1], v[0]) < (0, 0) or (v[1] == 0 and v[0] < 0) for v in (a, b))
    if half_a != half_b:
        return 1 if half_a else -1
    cross = _cross(a, b)
    return (cross < 0) - (cross > 0)


def norm_at_most(jacobian: Matrix, bound: float, norm: str) -> bool:
    """Whether the operator norm of a matrix of one or two columns is at most ``bound``."""
    if bound == float("inf"):
        return True
    limit, columns = Fraction(bound), list(zip(*jacobian, strict=True))
    if norm == "linf":
        return all(sum(map(abs, row)) <= limit for row in jacobian)
    if norm == "l1":
        return all(sum(map(abs, column)) <= limit for column in columns)
    square = limit**2
    diagonal = [square - dot(c, c) for c in columns]
    if len(columns) == 1 or min(diagonal) < 0:
        return min(diagonal) >= 0
    return diagonal[0] * diagonal[1] >= dot(*columns) ** 2


def some_norm_at_least(pieces: list[Matrix], bound: float, norm: str) -> bool:
    """Whether the largest operator norm of the Jacobians is at least ``bound``."""
    if bound == float("inf"):
        return False
    limit = Fraction(bound)
    for jacobian in pieces:
        columns = list(zip(*jacobian, strict=True))
        if norm != "l2":
            lines = jacobian if norm == "linf" else columns
            if any(sum(map(abs, line)) >= limit for line in lines):
                return True
            continue
        diagonal = [limit**2 - dot(c, c) for c in columns]
        if min(diagonal) <= 0:
            return True
        if len(columns) == 2 and diagonal[0] * diagonal[1] <= dot(*columns) ** 2:
            return True
    return False

"""Koch snowflakes in the plane and the signed distance to them, in float64."""

import math
from collections.abc import Sequence

import numpy as np

from lipdescent.analysis.statistics import Array

_CHUNK = 1 << 21  # pairs of a point and an edge at a time


def snowflake(order: int, *, centre: Sequence[float], radius: float) -> Array:
    """Corners (3 * 4^order, 2) of a Koch snowflake, in order, its tips ``radius`` from the centre.

    Order 0 is the equilateral triangle; each further one puts a triangle of a third of the length
    on the middle of every edge.

    Raises
    ------
    ValueError
        If the order is negative or the radius is not a positive number.
    """
    if order < 0:
        raise ValueError(f"order = {order}: allowed are integers >= 0")
    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"radius = {radius}: allowed are positive numbers")
    turns = np.pi / 2 - 2 * np.pi * np.arange(3) / 3  # clockwise, so that outside is on the left
    corners = np.exp(1j * turns)
    for _ in range(order):
        edge = np.roll(corners, -1) - corners
        tip = edge * np.exp(1j * np.pi / 3) / 3
        first = corners + edge / 3
        corners = np.stack([corners, first, first + tip, corners + 2 * edge / 3], 1).ravel()
    corners = complex(*centre) + radius * corners
    return np.stack([corners.real, corners.imag], 1)


def signed_distance(points: Array, polygons: Sequence[Array]) -> Array:
    """Distance (n,) of points (n, 2) to the nearest edge of disjoint polygons, positive inside."""
    starts = np.concatenate(polygons)
    edges = np.concatenate([np.roll(polygon, -1, 0) for polygon in polygons]) - starts
    size = max(1, _CHUNK // len(starts))
    parts = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return np.concatenate([_signed(part, starts, edges) for part in parts])


def _signed(points: Array, starts: Array, edges: Array) -> Array:
    away = points[:, None] - starts
    along = ((away * edges).sum(-1) / (edges * edges).sum(-1)).clip(0, 1)
    distance = np.linalg.norm(away - along[..., None] * edges, axis=-1).min(1)
    # A ray to the right crosses the edges that straddle its height and lie to its right there.
    above = away[..., 1] < 0, away[..., 1] < edges[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        right = away[..., 0] < edges[:, 0] * away[..., 1] / edges[:, 1]
    inside = ((above[0] != above[1]) & right).sum(1) % 2 == 1
    return np.where(inside, distance, -distance)

"""Exponents of bounds and the mean Jacobian norm over epochs, width or a further axis of numbers.

And what the bracket proves of the constant's.

All curves of a panel are fitted over the same points, so that their exponents, and what the bracket
proves, are of one range. It starts where the user says, or at the first point from which every
curve is straight (:func:`lipdescent.analysis.power_law.is_straight`), and ends at the last point.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipdescent.analysis import labels, ladder, power_law
from lipdescent.analysis.groups import AXES, Group, Rung, Series
from lipdescent.analysis.power_law import Fit, Range
from lipdescent.analysis.statistics import Array
from lipdescent.storage.variants import Value

OVER = ("epoch", "width")  # axes of every group
JACOBIAN = "mean Jacobian norm"

# Exponents of the constant, and of a curve's fit: like is compared with like.
COMPARED = (("least_squares", "exponent"), ("average", "average"))


class Panel(NamedTuple):
    """One axis in one place of the others.

    Attributes
    ----------
    at : values of the other axes.
    x, curves : all points where the axis is positive, (P,) and name -> (P, S).
    seeds : places of those that have a value of every curve at every point that is fitted.
    start : place of the first point that is fitted; None where nothing is, ``reason`` says why.
    fits : name -> its exponent, of the same points and seeds.
    constant : what the bracket proves of the constant's exponents; None without a bracket.
    """

    axis: str
    at: dict[str, Value]
    x: Array
    curves: dict[str, Array]
    seeds: NDArray[np.intp]
    start: int | None
    reason: str
    fits: dict[str, Fit]
    constant: dict[str, Range] | None

    @property
    def excluded(self) -> list[str]:
        """Curves whose exponent the constant of these networks provably does not have."""
        if self.constant is None:
            return []
        return [
            name
            for name, fit in self.fits.items()
            if any(
                not self.constant[proved].low
                <= getattr(fit, own).value
                <= self.constant[proved].high
                for proved, own in COMPARED
            )
        ]


def panels(group: Group, axis: str, *, norm: str, options: Mapping[str, Any]) -> list[Panel]:
    """Fits over ``axis`` with the least and the most label noise, in one norm.

    Over epochs at the first width that interpolates with the least noise and at the largest, over
    width at the last epoch.

    Parameters
    ----------
    options : ``confidence``, ``interpolation_accuracy`` and perhaps ``fit_from``: axis -> the value
        that fits start from, where it is not to be chosen.
    """
    noises = group.noise_ends
    last = {name: len(getattr(group, name)) - 1 for name in AXES}
    places = [last | {"label_noise": noise} for noise in noises]
    if axis == "epoch":
        widths = ladder.telling_widths(group, options["interpolation_accuracy"])
        places = [place | {"width": width} for width in widths for place in places]
    return [_panel(group, axis, place, norm, options) for place in places]


def names(group: Group, norm: str) -> dict[str, Rung | None]:
    """Name of every curve -> the bound that it is; None: the mean Jacobian norm."""
    found: dict[str, Rung | None] = {
        labels.rung_name(rung): rung for rung in ladder.rungs(group, norm)
    }
    return found | ({JACOBIAN: None} if mean_jacobian(group, norm) is not None else {})


def mean_jacobian(group: Group, norm: str) -> Array | None:
    """Mean Jacobian norm over the training points, or where that is missing any others."""
    for split in ("train", "test", ""):
        found = group.series.get(Series("jacobian_norm_mean", "metric", norm, split))
        if found is not None:
            return found
    return None


def _panel(
    group: Group, axis: str, place: dict[str, int], norm: str, options: Mapping[str, Any]
) -> Panel:
    index = tuple(slice(None) if name in (axis, "seed") else place[name] for name in AXES)
    at: dict[str, Value] = {
        name: getattr(group, name)[place[name]].item()
        for name in AXES
        if name not in (axis, "seed")
    }
    x = np.asarray(getattr(group, axis), dtype=np.float64)
    series = {name: values[index] for name, values in curves_of(group, norm).items()}
    lower, upper = (side[index] for side in ladder.bracket(group, norm))
    return fitted(axis, at, x, series, (lower, upper), options)


def curves_of(group: Group, norm: str) -> dict[str, Array]:
    """Every curve of :func:`names`, (W, N, E, S)."""
    series = {name: ladder.rungs(group, norm)[r] for name, r in names(group, norm).items() if r}
    if (jacobian := mean_jacobian(group, norm)) is not None:
        series[JACOBIAN] = jacobian
    return series


def fitted(
    axis: str,
    at: dict[str, Value],
    x: Array,
    series: dict[str, Array],
    bracket: tuple[Array, Array],
    options: Mapping[str, Any],
) -> Panel:
    """The panel of an axis ``x`` (P,) and curves and both sides of the bracket along it, (P, S)."""
    positive = x > 0
    x, series = x[positive], {name: values[positive] for name, values in series.items()}
    start, seeds, kept, reason = _range(x, series, options.get("fit_from", {}).get(axis))
    panel = Panel(axis, at, x, series, seeds, start, reason, {}, None)
    if start is None:
        return panel
    part, confidence = np.ix_(np.arange(start, len(x)), seeds), options["confidence"]
    kept_x = x[start:]
    fits = {n: power_law.fit(kept_x, series[n][part], confidence=confidence) for n in kept}
    sides = [side[positive][part] for side in bracket]
    proved = None
    if np.isfinite(sides).all():
        proved = power_law.bracketed(kept_x, *sides, confidence=confidence)
    return panel._replace(fits=fits, constant=proved)


def _range(
    x: Array, series: dict[str, Array], asked: float | None
) -> tuple[int | None, NDArray[np.intp], list[str], str]:
    """First place to fit, the seeds that have all of it, the curves that they have, or why none."""
    nothing = np.zeros(0, dtype=np.intp)
    first = 0 if asked is None else int(np.searchsorted(x, asked))
    starts = range(first, len(x) - power_law.MIN_POINTS + 1)
    if not starts:
        from_there = "" if asked is None else f" from {asked:g} on"
        few = f"{len(x) - first} point{'s' * (len(x) - first != 1)}{from_there}"
        return None, nothing, [], f"{few}, a fit needs {power_law.MIN_POINTS}"
    for start in starts if asked is None else starts[:1]:
        there = {n: (np.isfinite(v[start:]) & (v[start:] > 0)).all(0) for n, v in series.items()}
        kept = [name for name, seeds in there.items() if seeds.any()]
        seeds = np.flatnonzero(np.all([there[name] for name in kept], axis=0)) if kept else nothing
        curves = (series[name][start:, seeds] for name in kept)
        straight = asked is not None or all(power_law.is_straight(x[start:], c) for c in curves)
        if len(seeds) and straight:
            return start, seeds, kept, ""
    if not any(np.isfinite(values).any() for values in series.values()):
        return None, nothing, [], "no bound and no Jacobian norm"
    if asked is not None:
        return None, nothing, [], f"no seed has positive values from {asked:g} on"
    least, factor = power_law.MIN_POINTS, power_law.STRAIGHT
    return None, nothing, [], f"the last {least} points are not within a factor {factor} of a line"

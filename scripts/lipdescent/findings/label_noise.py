"""Does the Lipschitz constant of wide networks grow with label noise? Only the bracket decides."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipdescent.analysis import labels, ladder, statistics
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.findings.words import Facts, number, numbers

FLAT = 1.1  # a change proved to be by less than this factor counts as flat


def effect(group: Group, norm: str, threshold: Array, confidence: float) -> dict[str, Any]:
    """Constants with the least and the most label noise, at every width beyond both thresholds.

    The least and the most noise are the outermost levels that some width interpolates; ``widths``
    are those larger than both their interpolation thresholds. At each, the ratio of the (geometric)
    mean constants (most over least noise) lies between lower(most)/upper(least) and
    upper(most)/lower(least).

    Parameters
    ----------
    threshold : (N,), NaN where no width interpolates.
    """
    levels = np.flatnonzero(np.isfinite(threshold))
    if len(levels) < 2:
        return {"between": None, "widths": [], "reason": _reason(len(group.label_noise))}
    ends = levels[[0, -1]]
    widths = np.flatnonzero(group.width > threshold[ends].max())
    reason = None if len(widths) else "no width of the grid lies beyond the interpolation threshold"
    return _compared(group, norm, ends, widths, confidence) | {"reason": reason}


def below(group: Group, norm: str, threshold: Array, confidence: float) -> dict[str, Any]:
    """The same of the least and the most label noise of all, below both their thresholds.

    Where a level has none, every width is below it.
    """
    if len(group.label_noise) < 2:
        return {"between": None, "widths": [], "reason": _reason(1)}
    ends = np.array([0, len(group.label_noise) - 1])
    limit = np.where(np.isfinite(threshold[ends]), threshold[ends], np.inf).min()
    widths = np.flatnonzero(group.width < limit)
    reason = None if len(widths) else "no width of the grid lies below the interpolation threshold"
    return _compared(group, norm, ends, widths, confidence) | {"reason": reason}


def _compared(
    group: Group, norm: str, ends: NDArray[np.intp], widths: NDArray[np.intp], confidence: float
) -> dict[str, Any]:
    """Two levels of label noise at some widths: what the brackets prove, and the bounds' trends."""
    lower, upper = (side[:, ends, -1] for side in ladder.bracket(group, norm))
    trends = {
        f"best {side}": ladder.best(group, side, norm)[:, ends, -1] for side in ("lower", "upper")
    }
    for rung, values in ladder.rungs(group, norm).items():
        trends[labels.rung_name(rung)] = values[:, ends, -1]
    rows = [
        {"width": int(group.width[place])}
        | _range(lower[place], upper[place], confidence)
        | {"trend": {n: trend(v[place], confidence) for n, v in trends.items()}}
        for place in widths
    ]
    return {"between": group.label_noise[ends].tolist(), "widths": rows}


def _range(lower: Array, upper: Array, confidence: float) -> dict[str, Any]:
    """What the bracket proves of the ratio of the mean constants; bounds are (2, S).

    ``verdict`` is about the networks that were trained; ``verdict_over_seeds`` takes the outer
    ends of the intervals (of fewer than four seeds: ranges) of both ends of the range.
    """
    lower_mean, upper_mean = statistics.mean_bracket(lower, upper)
    at_least = float(_divide(lower_mean[1], upper_mean[0]))
    at_most = float(_divide(upper_mean[1], lower_mean[0]))
    over_seeds = None
    if lower.shape[-1] > 1:
        over_seeds = verdict(
            float(statistics.ratio_estimate(lower[1], upper[0], confidence=confidence).low),
            float(statistics.ratio_estimate(upper[1], lower[0], confidence=confidence).high),
        )
    return {
        "ratio_at_least": number(at_least),
        "ratio_at_most": number(at_most),
        "verdict": verdict(at_least, at_most),
        "verdict_over_seeds": over_seeds,
    }


def verdict(at_least: float, at_most: float) -> str:
    """``grows``, ``falls``, ``flat`` (within a factor 1.1) or ``undecided``, from a range."""
    if not (np.isfinite(at_least) and np.isfinite(at_most)):
        return "unknown"
    if at_least > 1 / FLAT and at_most < FLAT:
        return "flat"
    if at_least > 1:
        return "grows"
    return "falls" if at_most < 1 else "undecided"


def trend(values: Array, confidence: float) -> Facts:
    """Ratio of the means over seeds, second row over first, (2, S), with its interval."""
    return numbers(statistics.ratio_estimate(values[1], values[0], confidence=confidence))


def _reason(levels: int) -> str:
    if levels < 2:
        return "the study has one label noise"
    return "fewer than two levels of label noise have an interpolation threshold on this grid"


def _divide(above: Array, below: Array) -> Array:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    out = np.full(np.broadcast(above, below).shape, np.nan)
    return np.divide(above, below, out=out, where=below > 0)

"""Peaks, thresholds and correlations of one dataset and architecture, for every label noise."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lipdescent.analysis import curve_shape, labels, ladder, statistics
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array, Axis, Estimate
from lipdescent.findings import curves, in_short, label_noise, slopes
from lipdescent.findings.side_by_side import widest
from lipdescent.findings.words import number


def findings(group: Group, options: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of a group, ready for JSON (None: cannot be estimated).

    Parameters
    ----------
    options : ``confidence``, ``interpolation_accuracy`` and perhaps ``fit_from``.
    """
    confidence, level = options["confidence"], options["interpolation_accuracy"]
    test_loss = ladder.metric(group, "test_loss")[:, :, -1]
    test_error = ladder.test_error(group)[:, :, -1]
    followed = {"error": test_error, "calibrated": ladder.calibrated_loss(group)[:, :, -1]}
    accuracy = ladder.metric(group, "train_accuracy")[:, :, -1]
    threshold = interpolation_threshold(accuracy, group.width, level)
    bounds = {
        norm: {
            name: follows(values[:, :, -1], test_loss, group.width, confidence)
            | {
                f"spearman_{what}": correlation(values[:, :, -1], of)
                for what, of in followed.items()
            }
            for name, values in named_bounds(group, norm).items()
        }
        for norm in ladder.norms(group)
    }
    facts = {
        "dataset": group.dataset,
        "architecture": group.variant,
        "width": group.width.tolist(),
        "label_noise": group.label_noise.tolist(),
        "seed": group.seed.tolist(),
        "epoch": int(group.epoch[-1]),
        **({"point": group.point} if group.point else {}),
        "num_models": group.num_models,
        "num_diverged": group.num_diverged,
        "not_applicable": list(group.not_applicable),
        "failed": group.failed,
        "declared": sorted({s.quantity for s in group.series if s.direction == "declared"}),
        "interpolation_accuracy": level,
        "confidence": confidence,
        "interpolation_threshold": plain(threshold),
        "widest": widest(group),
        "test_loss": peaks(test_loss, group.width, confidence)
        | {"peak_shift": peak_shift(test_loss, group.label_noise, confidence)},
        "test_error": peaks(test_error, group.width, confidence, plain_mean=True)
        | {"peak_shift": peak_shift(test_error, group.label_noise, confidence)},
        "bounds": bounds,
        "same_as_best": {norm: same_as_best(group, norm) for norm in bounds},
        "constant": {norm: constant_over_width(group, norm) for norm in bounds},
        "label_noise_effect": {
            norm: label_noise.effect(group, norm, threshold.value, confidence) for norm in bounds
        },
        "label_noise_below": {
            norm: label_noise.below(group, norm, threshold.value, confidence) for norm in bounds
        },
        "over_epochs": {norm: curves.over_epochs(group, norm, options) for norm in bounds},
        "curves": curves.over_width(group, list(bounds)),
        "slopes": {norm: slopes.exponents(group, norm, options) for norm in bounds},
    }
    return facts | {"in_short": in_short.in_short(facts)}


def interpolation_threshold(accuracy: Array, width: Axis, level: float) -> Estimate:
    """First width whose mean train accuracy (W, N, S) reaches ``level``; the seeds' own: (N,)."""
    mean = statistics.first_reaching(statistics.mean(accuracy).T, width, level=level)
    each = statistics.first_reaching(np.moveaxis(accuracy, 0, -1), width, level=level)
    found = statistics.over_seeds(mean, each)
    never = np.isnan(each).any(-1)  # no largest one where a seed does not reach it
    return found._replace(high=np.where(never, np.nan, found.high))


def named_bounds(group: Group, norm: str) -> dict[str, Array]:
    """``best lower``, ``best upper`` (those that exist), then every bound by its label."""
    found = {}
    for side in ("lower", "upper"):
        values = ladder.best(group, side, norm)
        if np.isfinite(values[:, :, -1]).any():
            found[f"best {side}"] = values
    rungs = ladder.rungs(group, norm).items()
    return found | {labels.rung_name(rung): values for rung, values in rungs}


def same_as_best(group: Group, norm: str) -> dict[str, str]:
    """Bounds that are the best of their side at every checkpoint: name -> ``best lower``, ..."""
    found = {}
    for rung, values in ladder.rungs(group, norm).items():
        best = ladder.best(group, rung.direction, norm)
        if rung.direction in ("lower", "upper") and np.array_equal(values, best, equal_nan=True):
            found[labels.rung_name(rung)] = f"best {rung.direction}"
    return found


def correlation(bound: Array, other: Array) -> list[dict[str, float | None]]:
    """Spearman's rank correlation over width, (W, N, S) twice, per label noise."""
    return plain(statistics.correlation_over_width(statistics.spearman, bound, other))


def follows(bound: Array, test_loss: Array, width: Axis, confidence: float) -> dict[str, Any]:
    """Peak of a bound, its distance from the test loss's and their correlation, per label noise.

    ``bound`` and ``test_loss`` are (W, N, S). ``steps_from_test_peak`` counts widths of the grid:
    positive where the bound is largest at a larger width than the test loss. ``seeds`` are those
    that have a rank correlation, which networks that diverged may leave without.
    """
    both = np.isfinite(bound) & np.isfinite(test_loss)
    test_loss = np.where(both, test_loss, np.nan)
    places = np.arange(len(width))
    (ours, each_ours), (theirs, each_theirs) = (
        (statistics.peak_position(statistics.centre(side).T, places), _own_peaks(side, places))
        for side in (bound, test_loss)
    )
    correlations = {
        name: plain(statistics.correlation_over_width(correlation, bound, test_loss))
        for name, correlation in (
            ("spearman", statistics.spearman),
            ("kendall", statistics.kendall),
        )
    }
    steps = statistics.over_seeds(ours - theirs, each_ours - each_theirs)
    each = statistics.spearman(*(np.moveaxis(side, 0, -1) for side in (bound, test_loss)))
    counts = {"seeds": np.isfinite(each).sum(-1).tolist()}
    own = peaks(bound, width, confidence) | {"steps_from_test_peak": plain(steps)}
    return own | correlations | counts


def constant_over_width(group: Group, norm: str) -> list[dict[str, Any]]:
    """What the bracket proves about the true constant over width, per label noise.

    The geometric mean over seeds of the constants lies between those of the bounds. Its largest
    value can be at a width only if the upper bound there reaches the largest lower bound anywhere.
    From its peak to the widest network it falls by the ratio of the largest to the widest's, which
    is 1 where this is the largest and no less anywhere: at least the largest lower bound over the
    widest's upper one, at most the largest upper bound of the others over the widest's lower one.
    """
    lower, upper = statistics.mean_bracket(
        *(side[:, :, -1] for side in ladder.bracket(group, norm))
    )
    facts: list[dict[str, Any]] = []
    for low, high in zip(lower.T, upper.T, strict=True):
        if not np.isfinite(low).any():
            facts.append({"can_peak_at": None, "falls_at_least": None, "falls_at_most": None})
            continue
        reach = np.where(np.isfinite(high), high, np.inf)  # nothing is known without a bound
        others = reach[:-1].max(initial=0.0)
        facts.append(
            {
                "can_peak_at": group.width[reach >= np.nanmax(low)].tolist(),
                "falls_at_least": number(_no_less(np.nextafter(np.nanmax(low) / high[-1], 0))),
                "falls_at_most": number(_no_less(np.nextafter(others / low[-1], np.inf)))
                if low[-1] > 0
                else None,
            }
        )
    return facts


def _no_less(ratio: float) -> float:
    """Of a largest value to one of them; what is not known is not known."""
    return float(np.maximum(ratio, 1.0))


def peaks(
    values: Array, width: Axis, confidence: float, *, plain_mean: bool = False
) -> dict[str, Any]:
    """Where the mean over seeds is largest, over the widest network's, and the curve's shape.

    ``values`` is (W, N, S). The interval of the ratio holds for every width at once, as the largest
    is chosen by the same data. Shares have a ``plain_mean``, and steps that are differences.
    """
    geometric = statistics.has_logarithm(values) and not plain_mean
    curve = (statistics.geometric_mean if geometric else statistics.mean)(values)
    place = statistics.peak_index(curve.T)
    position = statistics.over_seeds(
        statistics.peak_position(curve.T, width), _own_peaks(values, width)
    )
    inside = (position.value != width[0]) & (position.value != width[-1])
    ratio = Estimate(*(np.full(len(place), np.nan) for _ in Estimate._fields))
    if geometric:
        largest = np.take_along_axis(values, np.maximum(place, 0)[None, :, None], axis=0)[0]
        ratio = statistics.ratio_estimate(
            largest, values[-1], confidence=confidence, candidates=len(width) - 1
        )
    compared = statistics.logarithm(values) if geometric else values
    return {
        "peak_width": plain(position),
        "peak_inside_grid": inside.tolist(),
        "peak_over_widest": plain(ratio),
        "shape": [
            _told(curve_shape.shape(curves, confidence=confidence), width, geometric)
            for curves in np.moveaxis(compared, 1, 0)
        ],
    }


def _told(shape: curve_shape.Shape, width: Axis, geometric: bool) -> dict[str, Any]:
    """A shape for JSON: places as widths, steps as ratios (differences of what can be negative)."""
    steps = {
        name: number(np.exp(step) if geometric else step)
        for name, step in (("rise", shape.rise), ("fall", shape.fall), ("descent", shape.descent))
    }
    places = {
        name: int(width[place]) if place >= 0 else None
        for name, place in (("peak", shape.peak), ("minimum", shape.minimum))
    }
    return {"verdict": shape.verdict} | places | steps


def peak_shift(values: Array, noise: Axis, confidence: float) -> dict[str, Any] | None:
    """By how many widths of the grid the largest value moves from the least to the most noise.

    Seed by seed, (W, N, S): median and range. ``shown`` is the direction in which every seed moves,
    where their number lets the range hold the median of all seeds with ``confidence``.
    """
    if len(noise) < 2 or len(values) < 2:
        return None
    own = _own_peaks(values, np.arange(len(values)))
    steps = own[-1] - own[0]
    there = steps[np.isfinite(steps)]
    if not len(there):
        return None
    found = statistics.over_seeds(np.median(there), there)
    shown = None
    if statistics.held_by_range(len(there)) >= confidence:
        shown = "larger" if found.low > 0 else "smaller" if found.high < 0 else None
    return {
        "between": [float(noise[0]), float(noise[-1])],
        "steps": plain(found)[0],
        "shown": shown,
    }


def _own_peaks(values: Array, positions: Axis) -> Array:
    """Where every seed's own curve is largest, (W, N, S) -> (N, S)."""
    return statistics.peak_position(np.moveaxis(values, 0, -1), positions)


def plain(estimate: Estimate) -> list[dict[str, float | None]]:
    """An estimate (N,) as JSON: one {value, low, high} per label noise."""
    columns = zip(*(np.ravel(part) for part in estimate), strict=True)
    return [dict(zip(Estimate._fields, map(number, column), strict=True)) for column in columns]

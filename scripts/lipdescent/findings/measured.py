"""Peaks, thresholds and correlations of one dataset and architecture, for every label noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lipdescent import labels, selection, statistics
from lipdescent.findings import label_noise
from lipdescent.findings.side_by_side import widest
from lipdescent.selection import Group
from lipdescent.statistics import Array, Estimate

SEED = 0  # of the bootstrap


def findings(group: Group, options: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of a group, ready for JSON (None: cannot be estimated).

    Parameters
    ----------
    options : ``bootstrap`` (resamples), ``confidence``, ``interpolation_accuracy``.
    """
    generator = np.random.default_rng(SEED)
    counts = statistics.resample_seeds(
        len(group.seed), resamples=options["bootstrap"], generator=generator
    )
    confidence, level = options["confidence"], options["interpolation_accuracy"]
    test_loss = selection.metric(group, "test_loss")[:, :, -1]
    accuracy = selection.metric(group, "train_accuracy")[:, :, -1]
    threshold = _over_width(
        lambda curve: statistics.first_reaching(curve, group.width, level=level),
        accuracy,
        counts,
        confidence=confidence,
        on_grid=True,
    )
    bounds = {
        norm: {
            name: follows(values[:, :, -1], test_loss, group.width, counts, confidence)
            for name, values in named_bounds(group, norm).items()
        }
        for norm in selection.norms(group)
    }
    return {
        "dataset": group.dataset,
        "architecture": group.architecture,
        "width": group.width.tolist(),
        "label_noise": group.label_noise.tolist(),
        "seed": group.seed.tolist(),
        "epoch": int(group.epoch[-1]),
        "num_models": group.num_models,
        "num_diverged": group.num_diverged,
        "not_applicable": list(group.not_applicable),
        "failed": group.failed,
        "interpolation_accuracy": level,
        "confidence": confidence,
        "interpolation_threshold": plain(threshold),
        "widest": widest(group),
        "test_loss": _peaks(test_loss, group.width, counts, confidence),
        "bounds": bounds,
        "constant": {norm: constant_over_width(group, norm) for norm in bounds},
        "label_noise_effect": {
            norm: label_noise.effect(group, norm, threshold.value, counts, confidence)
            for norm in bounds
        },
    }


def named_bounds(group: Group, norm: str) -> dict[str, Array]:
    """``best lower``, ``best upper`` (those that exist), then every bound by its label."""
    found = {}
    for side in ("lower", "upper"):
        values = selection.best(group, side, norm)
        if np.isfinite(values[:, :, -1]).any():
            found[f"best {side}"] = values
    rungs = selection.rungs(group, norm).items()
    return found | {labels.rung_name(rung): values for rung, values in rungs}


def follows(
    bound: Array, test_loss: Array, width: Array, counts: Array, confidence: float
) -> dict[str, Any]:
    """Peak of a bound, its distance from the test loss's and their correlation, per label noise.

    ``bound`` and ``test_loss`` are (W, N, S). ``steps_from_test_peak`` counts widths of the grid:
    positive where the bound peaks at a larger width than the test loss.
    """
    both = np.isfinite(bound) & np.isfinite(test_loss)
    test_loss = np.where(both, test_loss, np.nan)
    places = np.arange(len(width))
    ours, theirs = (_curves(side, counts) for side in (bound, test_loss))
    steps = [
        statistics.peak_position(a, places) - statistics.peak_position(b, places)
        for a, b in zip(ours, theirs, strict=True)
    ]
    correlations = {
        name: plain(
            statistics.correlation_over_width(
                correlation, bound, test_loss, counts, confidence=confidence
            )
        )
        for name, correlation in (
            ("spearman", statistics.spearman),
            ("kendall", statistics.kendall),
        )
    }
    difference = statistics.estimate(*steps, confidence=confidence, on_grid=True)
    return (
        _peaks(bound, width, counts, confidence)
        | {"steps_from_test_peak": plain(difference)}
        | correlations
    )


def constant_over_width(group: Group, norm: str) -> list[dict[str, Any]]:
    """What the bracket proves about the true constant over width, per label noise.

    The mean over seeds of the constants lies between the means of the bounds. Its largest value
    can be at a width only if the upper bound there reaches the largest lower bound anywhere;
    from its peak to the widest network it falls at least by the ratio of the largest lower bound
    to the widest network's upper bound.
    """
    lower, upper = (statistics.mean(side[:, :, -1]) for side in selection.bracket(group, norm))
    facts = []
    for low, high in zip(lower.T, upper.T, strict=True):
        if not np.isfinite(low).any():
            facts.append({"can_peak_at": None, "falls_at_least": None, "falls_at_most": None})
            continue
        reach = np.where(np.isfinite(high), high, np.inf)  # nothing is known without a bound
        facts.append(
            {
                "can_peak_at": group.width[reach >= np.nanmax(low)].tolist(),
                "falls_at_least": number(np.nanmax(low) / high[-1]),
                "falls_at_most": number(np.max(reach) / low[-1]) if low[-1] > 0 else None,
            }
        )
    return facts


def _peaks(values: Array, width: Array, counts: Array, confidence: float) -> dict[str, Any]:
    """Width of the largest mean over seeds, and its ratio to the widest network's."""
    position = _over_width(
        lambda curve: statistics.peak_position(curve, width),
        values,
        counts,
        confidence=confidence,
        on_grid=True,
    )
    ratio = _over_width(statistics.peak_ratio, values, counts, confidence=confidence)
    inside = (position.value != width[0]) & (position.value != width[-1])
    return {
        "peak_width": plain(position),
        "peak_inside_grid": inside.tolist(),
        "peak_over_widest": plain(ratio),
    }


def _curves(values: Array, counts: Array) -> tuple[Array, Array]:
    """Means over seeds and resampled ones, width last: (W, N, S) -> (N, W) and (B, N, W)."""
    counts = counts if values.shape[-1] > 1 else counts[:0]
    drawn = np.swapaxes(statistics.resampled_means(values, counts), -1, -2)
    return statistics.mean(values).T, drawn


def _over_width(
    function, values: Array, counts: Array, *, confidence: float, on_grid: bool = False
) -> Estimate:
    """A statistic of the mean curve over width with its interval: (W, N, S) -> (N,)."""
    whole, drawn = _curves(values, counts)
    return statistics.estimate(
        function(whole), function(drawn), confidence=confidence, on_grid=on_grid
    )


def plain(estimate: Estimate) -> list[dict[str, float | None]]:
    """An estimate (N,) as JSON: one {value, low, high} per label noise."""
    columns = zip(*(np.ravel(part) for part in estimate), strict=True)
    return [dict(zip(Estimate._fields, map(number, column), strict=True)) for column in columns]


def number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None

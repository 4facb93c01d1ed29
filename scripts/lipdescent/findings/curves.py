"""Mean curves for the small figures of findings, and what training does behind its best epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lipdescent.analysis import ladder, statistics
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.findings.words import number, numbers

Curve = list[float | None]


def over_width(group: Group, norms: list[str]) -> dict[str, Curve]:
    """Means at the last epoch, with the most label noise and of brackets with the least, too."""
    found = {
        "test error": _plain(statistics.mean(ladder.test_error(group)[:, -1, -1])),
        "test loss": _plain(statistics.centre(ladder.metric(group, "test_loss")[:, -1, -1])),
    }
    for norm in norms:
        for side, values in zip(("lower", "upper"), ladder.bracket(group, norm), strict=True):
            for noise, name in ((-1, ""), (0, " (least noise)")):
                mean = statistics.geometric_mean(values[:, noise, -1])
                if np.isfinite(mean).any():
                    found[f"{side}, {norm}{name}"] = _plain(mean)
    return found


def over_epochs(group: Group, norm: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """From the epoch with the least mean test loss to the last, at the critical width, or at the
    largest where none is.

    With the most label noise. The geometric mean of the constants grows at least by the last lower
    over the best epoch's upper bound; the interval of the test loss's growth holds for every epoch
    at once, as the best is chosen by the same data. None without two epochs and a bracket.
    """
    critical = ladder.critical_width(group, options["interpolation_accuracy"])
    width = len(group.width) - 1 if critical is None else critical
    losses = ladder.metric(group, "test_loss")[width, -1]
    lower, upper = statistics.mean_bracket(
        *(side[width, -1] for side in ladder.bracket(group, norm))
    )
    means = statistics.centre(losses)
    if len(means) < 2 or not statistics.has_logarithm(losses) or not np.isfinite(means).all():
        return None
    if not np.isfinite(lower[-1]):
        return None
    best = int(np.argmin(means))
    rises = statistics.ratio_estimate(
        losses[-1], losses[best], confidence=options["confidence"], candidates=len(means) - 1
    )
    sides = {f"lower, {norm}": lower, f"upper, {norm}": upper}
    return {
        "width": int(group.width[width]),
        "critical": critical is not None,
        "best": int(group.epoch[best]),
        "epochs": group.epoch.tolist(),
        "loss_rises": numbers(rises),
        "constant_grows_at_least": number(lower[-1] / upper[best]) if upper[best] > 0 else None,
        "upper_at_best": number(upper[best]),
        "curves": {"test loss": _plain(means)} | {n: _plain(v) for n, v in sides.items()},
    }


def _plain(values: Array) -> Curve:
    return [number(float(value)) for value in values]

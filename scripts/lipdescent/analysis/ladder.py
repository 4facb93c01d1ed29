"""Which bounds and metrics a group has, their order, the best of each side."""

import numpy as np

from lipdescent.analysis import statistics
from lipdescent.analysis.groups import DIRECTIONS, FROM_ABOVE, Group, Rung, Series
from lipdescent.analysis.statistics import Array


def metric(group: Group, quantity: str) -> Array:
    """A loss, an accuracy or another metric without a norm, (W, N, E, S).

    All NaN where every checkpoint diverged, so that none was measured.

    Raises
    ------
    KeyError
        Naming the metric and those that are there.
    """
    if group.diverged.all():
        return np.full(group.diverged.shape, np.nan)
    for key, values in group.series.items():
        if key.quantity == quantity and key.direction == "metric":
            return values
    known = sorted({key.quantity for key in group.series if key.direction == "metric"})
    raise KeyError(f"no metric {quantity!r} in the table; it has: {', '.join(known)}")


def test_error(group: Group) -> Array:
    """Share of the test points that are classified wrongly, (W, N, E, S)."""
    return 1 - metric(group, "test_accuracy")


def calibrated_loss(group: Group) -> Array:
    """Test cross-entropy at a fitted scale of the logits, (W, N, E, S); all NaN if not measured."""
    found = group.series.get(Series("test_loss_calibrated", "metric", "", "test"))
    return np.full(group.diverged.shape, np.nan) if found is None else found


def constant(group: Group, quantity: str) -> float | None:
    """``num_train`` or ``num_classes``: what all networks of a group share; None if not stored."""
    found = group.series.get(Series(quantity, "metric", "", ""))
    if found is None or not np.isfinite(found).any():
        return None
    return float(np.nanmax(found))


def chance(group: Group, loss: str) -> dict[str, float]:
    """``error`` and ``loss`` of a guess that takes all classes alike, where they are known.

    The loss is told of the plain cross-entropy only.
    """
    classes = constant(group, "num_classes")
    if classes is None or classes < 2:
        return {}
    found = {"error": 1 - 1 / classes}
    return found | ({"loss": float(np.log(classes))} if loss == "cross_entropy" else {})


def critical_width(group: Group, level: float) -> int | None:
    """Place of the critical width: the first that interpolates with the least noise, in the end.

    None where none does. The one width that figures and findings call critical. ``level`` is the
    mean train accuracy that counts as interpolating.
    """
    accuracy = statistics.mean(metric(group, "train_accuracy")[:, 0, -1])
    found = statistics.first_reaching(accuracy, np.arange(len(accuracy)), level=level)
    return int(found) if np.isfinite(found) else None


def telling_widths(group: Group, level: float, *, smallest: bool = False) -> dict[int, str]:
    """Place of a width -> its parts, in the order of the widths: ``critical and largest``.

    The critical one, where there is one, and the largest; with ``smallest`` that one, too.
    """
    places = {"smallest": 0 if smallest else None, "critical": critical_width(group, level)}
    places["largest"] = len(group.width) - 1
    parts: dict[int, list[str]] = {}
    for part, place in places.items():
        if place is not None:
            parts.setdefault(place, []).append(part)
    return {place: " and ".join(named) for place, named in sorted(parts.items())}


def width_of_equality(group: Group) -> float:
    """Where there would be as many parameters as training points, p = n, between the widths.

    Straight in the logarithms of width and p; NaN outside of the grid or where n is not stored.
    """
    samples, sizes = constant(group, "num_train"), group.num_parameters
    if samples is None or len(sizes) < 2 or not sizes[0] <= samples <= sizes[-1]:
        return float("nan")
    x, xs, ys = (
        np.log(np.asarray(side, dtype=np.float64)) for side in (samples, sizes, group.width)
    )
    return float(np.exp(np.interp(x, xs, ys)))


def norms(group: Group) -> list[str]:
    """Norms in which there is a bound, l2 first."""
    found = {key.norm for key in group.series if key.direction in DIRECTIONS}
    return sorted(found, key=lambda norm: (norm != "l2", norm))


def rungs(group: Group, norm: str) -> dict[Rung, Array]:
    """Every bound in one norm, lowest first; over splits the largest, of upper bounds the least.

    "Lowest" is by the median over all checkpoints.
    """
    found: dict[Rung, Array] = {}
    for key, values in group.series.items():
        if key.norm == norm and key.direction in DIRECTIONS:
            rung = Rung(key.quantity, key.direction)
            better = np.fmin if key.direction in FROM_ABOVE else np.fmax
            found[rung] = better(found[rung], values) if rung in found else values
    return dict(sorted(found.items(), key=lambda item: (item[0].direction, np.nanmedian(item[1]))))


def all_rungs(group: Group) -> list[Rung]:
    """Every bound in any norm, in the order of :func:`rungs`, the first norm first."""
    return list(dict.fromkeys(rung for norm in norms(group) for rung in rungs(group, norm)))


def best(group: Group, direction: str, norm: str) -> Array:
    """Largest lower (estimate) or least upper (declared) bound of every checkpoint, (W, N, E, S).

    All NaN if there is none.
    """
    better = np.fmin if direction in FROM_ABOVE else np.fmax
    found = [v for rung, v in rungs(group, norm).items() if rung.direction == direction]
    return better.reduce(found) if found else np.full(group.diverged.shape, np.nan)


def sides(group: Group, norm: str) -> dict[str, Array]:
    """What is known from below and from above: direction -> :func:`best` of it.

    Where nothing is proved from below, as for attention, estimates stand in its place.
    """
    below = {direction: best(group, direction, norm) for direction in ("lower", "estimate")}
    proved = np.isfinite(below["lower"]).any() or not np.isfinite(below["estimate"]).any()
    side = "lower" if proved else "estimate"
    return {side: below[side], "upper": best(group, "upper", norm)}


def absence(group: Group, direction: str) -> str:
    """Why there is no such bound."""
    if direction == "upper" and any(key.direction == "declared" for key in group.series):
        return "declared, not proved"
    absent = any(name.startswith(f"{direction}_") for name in group.not_applicable)
    if any(name.startswith(f"{direction}_") for name in group.failed):
        return "failed with an error"
    return "not applicable\nto these networks" if absent else "none in this study"


def bracket(group: Group, norm: str) -> tuple[Array, Array]:
    """Best lower and best upper bound where both are there, so means are of the same models."""
    lower, upper = best(group, "lower", norm), best(group, "upper", norm)
    both = np.isfinite(lower) & np.isfinite(upper)
    return np.where(both, lower, np.nan), np.where(both, upper, np.nan)


def gaps(group: Group, norm: str) -> dict[Rung, Array]:
    """Every upper bound over the best lower one, (W, N, E, S); none where the lower bound is 0."""
    lower = best(group, "lower", norm)
    lower = np.where(lower > 0, lower, np.nan)
    found = {rung: v / lower for rung, v in rungs(group, norm).items() if rung.direction == "upper"}
    return {rung: ratio for rung, ratio in found.items() if np.isfinite(ratio).any()}

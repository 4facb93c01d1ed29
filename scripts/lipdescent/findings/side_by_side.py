"""Architectures of one dataset next to each other, at the widest networks."""

from collections.abc import Mapping, Sequence

import numpy as np

from lipdescent.analysis import ladder, statistics
from lipdescent.analysis.groups import Group, Series
from lipdescent.analysis.labels import noise_name, variant_name
from lipdescent.analysis.statistics import Array
from lipdescent.findings import words
from lipdescent.findings.page import Block, Heading, Short, Table, Text
from lipdescent.findings.words import Facts

COLUMNS = {
    "train accuracy": Series("train_accuracy", "metric", "", "train"),
    "test accuracy": Series("test_accuracy", "metric", "", "test"),
    "test loss": Series("test_loss", "metric", "", "test"),
    "certified radius": Series("mean_certified_radius", "metric", "l2", "test"),
}
BRACKET = ("l2 constant, at least", "at most")


def widest(group: Group) -> dict[str, list[float | None]]:
    """Means over seeds at the largest width and the last epoch, per label noise."""
    found = {name: group.series[key] for name, key in COLUMNS.items() if key in group.series}
    means = {name: _mean(name, values[-1, :, -1]) for name, values in found.items()}
    bracket = (side[-1, :, -1] for side in ladder.bracket(group, "l2"))
    means |= dict(zip(BRACKET, statistics.mean_bracket(*bracket), strict=True))
    return {
        name: [float(value) if np.isfinite(value) else None for value in values]
        for name, values in means.items()
    }


def _mean(name: str, values: Array) -> Array:
    return (statistics.centre if name == "test loss" else statistics.mean)(values)


def side_by_side(
    groups: Sequence[Facts], in_short: Mapping[str, list[Facts]] | None = None
) -> list[Block]:
    """A table for every data set that more than one architecture was trained on.

    ``in_short``: data set -> sentences above it.
    """
    blocks: list[Block] = []
    for dataset in dict.fromkeys(facts["dataset"] for facts in groups):
        rows = [facts for facts in groups if facts["dataset"] == dataset]
        if len(rows) < 2:
            continue
        columns = [name for name in (*COLUMNS, *BRACKET) if any(name in f["widest"] for f in rows)]
        blocks += [
            Heading(2, f"{dataset}: architectures side by side"),
            *([Short(in_short[dataset])] if in_short else []),
            Text(
                f"Means over seeds, of losses and bounds geometric ones, at width "
                f"{max(rows[0]['width'])}, epoch {rows[0]['epoch']}. "
                "Losses are those configured: where an architecture has its own, compare how "
                "they move, not their values. The certified radius counts wrong points as 0."
            ),
            Table(
                ["architecture", "label noise", "fits from width", *columns],
                [_row(facts, place, columns) for facts in rows for place in _noises(facts)],
            ),
        ]
    return blocks


def _noises(facts: Facts) -> range:
    return range(len(facts["label_noise"]))


def _row(facts: Facts, place: int, columns: Sequence[str]) -> list[str]:
    cells = ((name, facts["widest"].get(name)) for name in columns)
    return [
        variant_name(facts["architecture"]),
        noise_name(facts["label_noise"][place]),
        words.interval(facts["interpolation_threshold"][place], "{:g}"),
        *(_digits(name, values[place]) if values else "-" for name, values in cells),
    ]


def _digits(name: str, value: float | None) -> str:
    """Three digits that count, a bound's outwards; a dash where there is no value."""
    if name in BRACKET:
        return (words.at_least, words.at_most)[BRACKET.index(name)](value, ".3g")
    return "-" if value is None else f"{value:.3g}"

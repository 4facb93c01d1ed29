"""Findings as tables."""

from __future__ import annotations

from lipdescent.analysis.labels import noise_name
from lipdescent.findings import slopes, words
from lipdescent.findings.page import Block, Heading, Table
from lipdescent.findings.words import NORMS, Facts


def test_loss_table(facts: Facts) -> Table:
    """Threshold of interpolation, where the test loss is largest, and its shape."""
    header = ["label noise", "interpolation threshold (width)", "largest (width)",
              "largest / widest", "shape"]  # fmt: skip
    loss = facts["test_loss"]
    rows = [
        [
            noise_name(level),
            words.interval(facts["interpolation_threshold"][place], "{:g}"),
            words.interval(loss["peak_width"][place], "{:g}") + words.edge(loss, place),
            words.interval(loss["peak_over_widest"][place]),
            loss["shape"][place]["verdict"],
        ]
        for place, level in enumerate(facts["label_noise"])
    ]
    return Table(header, rows)


def bound_blocks(facts: Facts, norm: str) -> list[Block]:
    """Tables of one norm: peaks and correlations, the constant, label noise."""
    shown = words.distinct(list(facts["bounds"][norm]))
    blocks: list[Block] = [Heading(3, f"Lipschitz bounds in {NORMS[norm]} over width")]
    header = ["bound", "label noise", "largest (width)", "steps from the largest test loss",
              "largest / widest", "shape", "Spearman", "Kendall"]  # fmt: skip
    rows = [
        [
            name,
            noise_name(level),
            words.interval(bound["peak_width"][place], "{:g}") + words.edge(bound, place),
            words.interval(bound["steps_from_test_peak"][place], "{:+g}"),
            words.interval(bound["peak_over_widest"][place]),
            bound["shape"][place]["verdict"],
            words.interval(bound["spearman"][place]),
            words.interval(bound["kendall"][place]),
        ]
        for name, bound in facts["bounds"][norm].items()
        if name in shown
        for place, level in enumerate(facts["label_noise"])
    ]
    blocks.append(Table(header, rows))
    if any(c["can_peak_at"] for c in facts["constant"][norm]):
        blocks += [
            Heading(3, f"What the bracket proves about the {NORMS[norm]} constant over width"),
            Table(
                [
                    "label noise",
                    "can be largest only at widths",
                    "largest / widest, at least",
                    "at most",
                ],
                [
                    [
                        noise_name(level),
                        _widths(c["can_peak_at"], facts["width"]),
                        words.at_least(c["falls_at_least"]),
                        words.at_most(c["falls_at_most"]),
                    ]
                    for level, c in zip(facts["label_noise"], facts["constant"][norm], strict=True)
                ],
            ),
        ]
    blocks += _noise_table(facts["label_noise_effect"][norm], norm)
    return blocks + slopes.blocks(facts["slopes"][norm], norm)


def _noise_table(found: Facts, norm: str) -> list[Block]:
    if not found["widths"]:
        return []
    least, most = (noise_name(level) for level in found["between"])
    names = words.distinct(list(found["widths"][0]["trend"]))
    header = ["width", "constant, at least", "at most", "verdict", "verdict over seeds", *names]
    rows = [
        [
            str(row["width"]),
            words.at_least(row["ratio_at_least"]),
            words.at_most(row["ratio_at_most"]),
            row["verdict"],
            row["verdict_over_seeds"] or "-",
            *(words.interval(row["trend"][name]) for name in names),
        ]
        for row in found["widths"]
    ]
    title = f"Label noise beyond the threshold, {NORMS[norm]}: {most} over {least}"
    return [Heading(3, title), Table(header, rows)]


def _widths(possible: list[int] | None, every: list[int]) -> str:
    if possible is None:
        return "-"
    return "any" if possible == every else ", ".join(map(str, possible))

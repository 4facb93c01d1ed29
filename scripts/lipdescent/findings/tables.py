"""Findings as tables."""

from lipdescent.analysis.labels import noise_name
from lipdescent.findings import slopes, words
from lipdescent.findings.page import Block, Heading, Table
from lipdescent.findings.words import NORMS, Facts


def outcome_table(facts: Facts, what: str) -> Table:
    """Threshold of interpolation, where test error or test loss is largest, and its shape."""
    header = ["label noise", "interpolation threshold (width)", "largest (width)",
              "largest / widest", "shape", "steps, at least"]  # fmt: skip
    found = facts[what.replace(" ", "_")]
    if what == "test error":
        header.remove("largest / widest")
    rows = []
    for place, level in enumerate(facts["label_noise"]):
        shape = found["shape"][place]
        row = [
            noise_name(level),
            words.interval(facts["interpolation_threshold"][place], "{:g}"),
            words.interval(found["peak_width"][place], "{:g}") + words.edge(found, place),
            words.interval(found["peak_over_widest"][place]),
            shape["verdict"],
            _steps(shape),
        ]
        if what == "test error":
            row.pop(3)
        rows.append(row)
    ratios = any(words.known(one) for one in found["peak_over_widest"])
    kind = "ratios" if ratios else "differences"
    caption = f"{what.capitalize()} over width, at epoch {facts['epoch']}; steps are {kind}."
    return Table(header, rows, caption)


def _steps(shape: Facts) -> str:
    steps = [("descent", shape["descent"]), ("rise", shape["rise"]), ("fall", shape["fall"])]
    told = [f"{name} {words.at_least(size, '.3f')}" for name, size in steps if size is not None]
    return ", ".join(told) or "-"


def bound_blocks(facts: Facts, norm: str) -> list[Block]:
    """Tables of one norm: peaks and correlations, the constant, label noise."""
    same = facts["same_as_best"][norm]
    shown = words.distinct(list(facts["bounds"][norm]), same)
    blocks: list[Block] = [Heading(3, f"Lipschitz bounds in {NORMS[norm]} over width")]
    header = ["bound", "label noise", "largest (width)", "steps from the largest test loss",
              "largest / widest", "shape", "Spearman, test loss", "test error", "fitted scale",
              "Kendall, test loss"]  # fmt: skip
    rows = [
        [
            words.named(name, same),
            noise_name(level),
            words.interval(bound["peak_width"][place], "{:g}") + words.edge(bound, place),
            words.interval(bound["steps_from_test_peak"][place], "{:+g}"),
            words.interval(bound["peak_over_widest"][place]),
            bound["shape"][place]["verdict"],
            words.interval(bound["spearman"][place]),
            words.interval(bound["spearman_error"][place]),
            words.interval(bound["spearman_calibrated"][place]),
            words.interval(bound["kendall"][place]),
        ]
        for name, bound in facts["bounds"][norm].items()
        if name in shown
        for place, level in enumerate(facts["label_noise"])
    ]
    caption = (
        f"Largest values in {NORMS[norm]}, and rank correlations over width with test loss, test "
        f"error and the test loss at a fitted scale, at epoch {facts['epoch']}."
    )
    blocks.append(Table(header, rows, caption))
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
                "The geometric mean over the seeds of the true constants; proved.",
            ),
        ]
    for where, key in (("below", "label_noise_below"), ("beyond", "label_noise_effect")):
        blocks += _noise_table(facts[key][norm], norm, where, same)
    return blocks + slopes.blocks(facts["slopes"][norm], norm)


def _noise_table(found: Facts, norm: str, where: str, same: Facts) -> list[Block]:
    if not found["widths"]:
        return []
    least, most = (noise_name(level) for level in found["between"])
    names = words.distinct(list(found["widths"][0]["trend"]), same)
    header = ["width", "constant, at least", "at most", "verdict", "verdict over seeds"]
    header += [words.named(name, same) for name in names]
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
    title = f"Label noise {where} the threshold, {NORMS[norm]}: {most} over {least}"
    caption = (
        "Factors between the two noises: of the constant as proved, of the bounds as measured."
    )
    return [Heading(3, title), Table(header, rows, caption)]


def _widths(possible: list[int] | None, every: list[int]) -> str:
    if possible is None:
        return "-"
    if possible == every:
        return "any"
    return words.widths(possible, every) + " *" * bool(words.grid_end(possible, every))

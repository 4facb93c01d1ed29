"""The document of a study's findings: answers first, then tables, then what is left open."""

from collections.abc import Mapping, Sequence

from lipdescent.analysis import statistics
from lipdescent.analysis.labels import noise_name, variant_name
from lipdescent.analysis.statistics import MIN_SEEDS
from lipdescent.findings import between, slopes, words
from lipdescent.findings.headlines import headlines
from lipdescent.findings.page import Block, Fold, Heading, Points, Short, Text
from lipdescent.findings.side_by_side import side_by_side
from lipdescent.findings.tables import bound_blocks, outcome_table
from lipdescent.findings.words import NORMS, SIDES, Facts


def report(
    study: str,
    groups: Sequence[Facts],
    further: Mapping[str, list[Facts]] | None = None,
    *,
    read_from: str = "",
) -> list[Block]:
    """The whole document: architectures side by side, then answers and tables of every group.

    ``further`` are fits over further axes, by norm; ``read_from`` is the pattern of the files of
    networks that were trained elsewhere.
    """
    blocks: list[Block] = [
        Heading(1, f"Findings of study {study}"),
        *([Text(words.elsewhere(read_from))] if read_from else []),
        *side_by_side(groups, between.in_short(groups)),
    ]
    blocks += slopes.point_blocks(further or {})
    for facts in groups:
        name = variant_name(facts["architecture"])
        blocks += [Heading(2, f"{facts['dataset']}, {name}"), Text(about(facts))]
        if facts["in_short"]:
            blocks += [Heading(3, "In short"), Short(facts["in_short"])]
        blocks.append(Fold("In full sentences", [Heading(3, "In full"), Points(headlines(facts))]))
        over_width: list[Block] = [Heading(3, "Test error and test loss over width")]
        over_width += [outcome_table(facts, what) for what in ("test error", "test loss")]
        blocks.append(Fold("Test error and test loss over width", over_width))
        for norm in facts["bounds"]:
            name = f"Lipschitz bounds in {NORMS[norm]}"
            blocks.append(Fold(name, bound_blocks(facts, norm)))
        missing = cannot_be_estimated(facts)
        if missing:
            blocks += [Heading(3, "What cannot be estimated"), Points(missing)]
    blocks.append(Fold("How to read this", [Text(how_to_read(groups))]))
    return blocks


def about(facts: Facts) -> str:
    """What was trained, and what is left out."""
    grid = [
        f"{words.count(facts['width'], 'width')} ({words.span(facts['width'])})",
        f"{words.count(facts['label_noise'], 'level')} of label noise "
        f"({words.span(facts['label_noise'], noise_name)})",
        words.count(facts["seed"], "seed"),
    ]
    text = f"{facts['num_models']} networks: {', '.join(grid)}; all numbers at epoch "
    text += f"{facts['epoch']}."
    if facts["num_diverged"]:
        text += f" {facts['num_diverged']} diverged networks are left out."
    if facts["not_applicable"]:
        text += f" Not applicable to these networks: {', '.join(facts['not_applicable'])}."
    if facts.get("declared"):
        names = ", ".join(facts["declared"])
        text += f" Of {names} the upper bounds rest on constants of layers that were declared, not "
        text += "proved here: they are in no bracket."
    for name, widths in facts.get("failed", {}).items():
        at = words.span(widths) if len(widths) > 1 else widths[0]
        text += f" {name} failed with an error at {words.count(widths, 'width')} ({at}): its values"
        text += f" there are missing, logs/measure/ says why ({name}.log)."
    return text


def cannot_be_estimated(facts: Facts) -> list[str]:
    """What the study is too small for."""
    lines = []
    seeds = len(facts["seed"])
    if seeds < 2:
        lines.append("One seed: no intervals and no ranges; a peak cannot be told from noise.")
    elif seeds < MIN_SEEDS:
        lines.append(
            f"{seeds} seeds: ranges over the seeds in place of intervals; a peak cannot be told "
            f"from noise."
        )
    if len(facts["width"]) < 3:
        lines.append("Fewer than three widths: no peaks inside the grid, no rank correlations.")
    if len(facts["label_noise"]) < 2:
        lines.append("One level of label noise: no effect of label noise.")
    for norm, bounds in facts["bounds"].items():
        lines += [
            f"No {side.removeprefix('best ')} bound in {NORMS[norm]}: no certified bracket."
            for side in SIDES
            if side not in bounds
        ]
    if not facts["bounds"]:
        lines.append("No Lipschitz bound: nothing to compare with the test loss.")
    without = [
        noise_name(level)
        for level, threshold in zip(
            facts["label_noise"], facts["interpolation_threshold"], strict=True
        )
        if threshold["value"] is None
    ]
    if without:
        lines.append(
            f"No interpolation threshold with label noise {', '.join(without)}: no width reaches "
            f"a mean train accuracy of {noise_name(facts['interpolation_accuracy'])}."
        )
    return lines


def how_to_read(groups: Sequence[Facts]) -> str:
    """Definitions, once for all groups."""
    facts = groups[0]
    confidence, level = (noise_name(facts[key]) for key in ("confidence", "interpolation_accuracy"))
    return (
        f"Proved: by certified brackets, rounding included, for the networks measured here. Seen: "
        f"in means over seeds, steps and intervals at {confidence}. A fitted scale: the test "
        f"cross-entropy of each network's logits times the number that is best on one half of the "
        f"test points, judged on the other, both ways; it does not change with the logits' scale, "
        f"as bounds and test loss do. "
        f"Means over seeds are geometric ones of losses and bounds, plain ones of accuracies and "
        f"errors, whose steps are differences. "
        f"{_brackets(len(facts['seed']), confidence)} The interpolation threshold is the first "
        f"width whose mean train accuracy, on the labels trained on, reaches {level} (no upper end "
        f"where a seed never does). * marks a "
        f"largest value at an end of the grid: a larger one may lie outside. Largest / widest is "
        f"the ratio of the largest mean to the widest network's. Shape: double descent where the "
        f"curve falls from the narrowest network to a minimum, rises to a peak and falls to the "
        f"widest network; one peak (and no first descent in this grid) where only an inner width "
        f"lies above both ends; each step counts only where paired t-tests over the seeds show it "
        f"({confidence}, all places together); else no peak. The true constant lies between the "
        f"best lower and the best upper bound: a statement about it is made only where these "
        f"brackets prove it, for the networks measured here; the verdict over seeds also asks it "
        f"of the ends of their intervals or ranges."
    )


def _brackets(seeds: int, confidence: str) -> str:
    """What stands in brackets."""
    if seeds < 2:
        return "One seed has no intervals."
    held = noise_name(round(statistics.held_by_range(seeds), 3))
    ranges = (
        f"the range over the {seeds} seeds, smallest to largest of what each gives alone (it holds "
        f"the median of all seeds with a probability of {held} at least)"
    )
    if seeds < MIN_SEEDS:
        return (
            f"In brackets: {ranges}; that of largest / widest is of each seed's ratio at the width "
            f"where the mean is largest; no interval is taken of fewer than {MIN_SEEDS} seeds."
        )
    return (
        f"In brackets, of ratios: {confidence} intervals by Student's t of the logarithms, paired "
        f"over the seeds; that of largest / widest holds for all widths together, as the largest "
        f"is chosen by the same data. Of widths, steps and rank correlations (medians of each "
        f"seed's own): {ranges}."
    )

"""The document of a study's findings: answers first, then tables, then what is left open."""

from __future__ import annotations

from collections.abc import Sequence

from lipdescent.findings import words
from lipdescent.findings.headlines import headlines
from lipdescent.findings.page import Block, Heading, Points, Text
from lipdescent.findings.side_by_side import side_by_side
from lipdescent.findings.tables import bound_blocks, test_loss_table
from lipdescent.findings.words import NORMS, SIDES, Facts
from lipdescent.labels import noise_name


def report(study: str, groups: Sequence[Facts]) -> list[Block]:
    """The whole document: architectures side by side, then answers and tables of every group."""
    blocks: list[Block] = [Heading(1, f"Findings of study {study}"), *side_by_side(groups)]
    for facts in groups:
        blocks += [Heading(2, f"{facts['dataset']}, {facts['architecture']}"), Text(about(facts))]
        blocks.append(Points(headlines(facts)))
        blocks += [Heading(3, "Test loss over width"), test_loss_table(facts)]
        for norm in facts["bounds"]:
            blocks += bound_blocks(facts, norm)
        missing = cannot_be_estimated(facts)
        if missing:
            blocks += [Heading(3, "What cannot be estimated"), Points(missing)]
    blocks.append(Text(how_to_read(groups)))
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
    for name, widths in facts.get("failed", {}).items():
        at = words.span(widths) if len(widths) > 1 else widths[0]
        text += f" {name} failed with an error at {words.count(widths, 'width')} ({at}): its values"
        text += f" there are missing, logs/measure/ says why ({name}.log)."
    return text


def cannot_be_estimated(facts: Facts) -> list[str]:
    """What the study is too small for."""
    lines = []
    if len(facts["seed"]) < 2:
        lines.append("One seed: no bootstrap intervals.")
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
    return (
        f"Values are of the mean over seeds; in brackets, bootstrap intervals over seeds "
        f"({noise_name(facts['confidence'])}). The interpolation threshold is the first width "
        f"whose mean train accuracy, on the labels trained on, reaches "
        f"{noise_name(facts['interpolation_accuracy'])}. * marks a peak at an end of the grid: "
        f"the largest value may lie outside. Peak / widest is the ratio of the largest value to "
        f"the widest network's. The true constant lies between the best lower and the best upper "
        f"bound: a statement about it is made only where these brackets prove it, for the networks "
        f"trained here; the verdict over seeds also asks it of the ends of the intervals."
    )

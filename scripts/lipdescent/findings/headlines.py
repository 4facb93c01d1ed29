"""The answers of a study, each in a sentence or two made from the numbers."""

from collections import Counter

from lipdescent.analysis import curve_shape
from lipdescent.analysis.labels import noise_name
from lipdescent.analysis.statistics import MIN_SEEDS
from lipdescent.findings import slopes, words
from lipdescent.findings.words import NORMS, SIDES, Facts

SHAPES = {
    curve_shape.DOUBLE_DESCENT: "Double descent of the {} over width at ",
    curve_shape.ONE_PEAK: "One peak of the {}, no first descent in this grid of widths, at ",
    curve_shape.NO_PEAK: "No peak of the {} over width is shown at ",
    curve_shape.UNKNOWN: "Nothing can be said of the {} over width at ",
}

ANSWERS = {
    "grows": "it grows",
    "falls": "it falls",
    "flat": "it stays within a factor 1.1",
    "undecided": "undecided",
    "unknown": "no bracket",
}


def headlines(facts: Facts) -> list[str]:
    """The answers in a sentence or two each."""
    lines = [_shape_headline(facts, what) for what in ("test error", "test loss")]
    lines.append(_shift_headline(facts))
    for norm in facts["bounds"]:
        lines += [_peak_headline(facts, norm), _constant_headline(facts, norm)]
        lines.append(_noise_headline(facts, norm))
        lines.append(slopes.headline(facts["slopes"][norm], norm))
    if not facts["bounds"]:
        lines.append("The study measured no Lipschitz bound.")
    return [line for line in lines if line]


def _shape_headline(facts: Facts, what: str) -> str:
    """What the seeds show of it over width, each word only where it is shown."""
    found = facts[what.replace(" ", "_")]
    shapes = list(zip(facts["label_noise"], found["shape"], strict=True))
    if len(facts["width"]) < 3:
        return f"Fewer than three widths: whether the {what} peaks cannot be estimated."
    if len(facts["seed"]) < MIN_SEEDS:
        where = "; ".join(
            f"at width {words.value(peak, '{:g}')} with {noise_name(noise)} label noise"
            f"{_beyond([peak['value']], facts)}"
            for noise, peak in _ends(
                list(zip(facts["label_noise"], found["peak_width"], strict=True))
            )
        )
        return (
            f"{words.count(facts['seed'], 'seed')}: a peak of the {what} over width cannot be "
            f"told from noise ({MIN_SEEDS} are needed). Its mean is largest {where}."
        )
    told = {
        verdict: [(noise, shape) for noise, shape in shapes if shape["verdict"] == verdict]
        for verdict in SHAPES
    }
    return " ".join(
        f"{SHAPES[verdict].format(what)}{words.share(len(own), len(shapes))} of label noise"
        f"{_steps(own, what)}."
        for verdict, own in told.items()
        if own
    )


def _steps(found: list[tuple[float, Facts]], what: str) -> str:
    """Where a shape's peak is and its least steps: ratios, of errors differences."""
    form = ".3f" if what == "test error" else ".2f"
    parts = []
    for noise, shape in _ends(found):
        if shape["peak"] is None:
            return ""
        steps = [("rise", shape["rise"]), ("fall", shape["fall"])]
        if shape["descent"] is not None:
            steps.insert(0, (f"descent to width {shape['minimum']}", shape["descent"]))
        told = ", ".join(f"{name} {words.at_least(size, form)}" for name, size in steps)
        parts.append(f"peak at width {shape['peak']} with {noise_name(noise)}, at least: {told}")
    return f" ({'; '.join(parts)})"


def _shift_headline(facts: Facts) -> str:
    """Whether the test loss is largest at other widths with more label noise."""
    found = facts["test_loss"]["peak_shift"]
    if found is None or found["steps"]["low"] is None or len(facts["width"]) < 3:
        return ""
    least, most = (noise_name(level) for level in found["between"])
    answer = f"to {found['shown']} widths" if found["shown"] else "a direction is not shown"
    return (
        f"Does the largest test loss move with label noise? From {least} to {most}, seed by seed, "
        f"by {words.interval(found['steps'], '{:+g}')} widths of the grid (median and range of "
        f"the seeds): {answer}."
    )


def _peak_headline(facts: Facts, norm: str) -> str:
    if len(facts["width"]) < 3:
        return ""
    parts = []
    for side in SIDES:
        bound = facts["bounds"][norm].get(side)
        if bound is None:
            parts.append(f"there is no {side.removeprefix('best ')} bound")
            continue
        steps = [step["value"] for step in bound["steps_from_test_peak"]]
        same, near = steps.count(0), sum(s is not None and abs(s) <= 1 for s in steps)
        far = f" and within one width of the grid at {near}" if near > same else ""
        parts.append(f"the {side} bound at {words.share(same, len(steps))} of label noise{far}")
    return (
        f"Is a bound's mean largest at the width where the test loss's is? In {NORMS[norm]}: "
        f"{'; '.join(parts)}."
    )


def _constant_headline(facts: Facts, norm: str) -> str:
    pairs = zip(facts["label_noise"], facts["constant"][norm], strict=True)
    known = [(noise, c) for noise, c in pairs if c["can_peak_at"]]
    if not known or len(facts["width"]) < 3:
        return ""
    most = max(len(c["can_peak_at"]) for _, c in known)
    if most > len(facts["width"]) / 2:
        return (
            f"Where the true {NORMS[norm]} constant itself peaks is not proved: the brackets leave "
            f"up to {most} of {len(facts['width'])} widths possible."
        )
    where = "; ".join(
        f"{words.widths(c['can_peak_at'], facts['width'])} with {noise_name(noise)} label noise"
        f"{_beyond(c['can_peak_at'], facts)}"
        for noise, c in _ends(known)
    )
    peaks = [p["value"] for p in facts["test_loss"]["peak_width"]]
    pairs = zip(peaks, facts["constant"][norm], strict=True)
    holds = sum(p in c["can_peak_at"] for p, c in pairs if c["can_peak_at"])
    text = (
        f"Proved by the brackets: the true {NORMS[norm]} constant, in geometric mean over seeds, "
        f"is largest at width {where}; the width of the largest test loss is among these at "
        f"{words.share(holds, len(known))}."
    )
    falls = [c["falls_at_least"] for _, c in known if (c["falls_at_least"] or 0) > 1]
    if falls:
        text += (
            f" From its peak to the widest network it falls by a factor of at least "
            f"{words.at_least(min(falls))} at {words.share(len(falls), len(known))}."
        )
    return text


def _noise_headline(facts: Facts, norm: str) -> str:
    found, same = facts["label_noise_effect"][norm], facts["same_as_best"][norm]
    start = f"Beyond the threshold, does the {NORMS[norm]} constant grow with label noise?"
    if not found["widths"]:
        return f"{start} Cannot be said: {found['reason']}."
    rows = found["widths"]
    least, most = (noise_name(level) for level in found["between"])
    verdicts = "; ".join(
        f"{ANSWERS[v]} at {words.share(n, len(rows), 'width')}"
        for v, n in Counter(row["verdict"] for row in rows).most_common()
    )
    if all(row["verdict"] == "unknown" for row in rows):
        told = _trends(rows[-1], len(facts["seed"]), same)
        return f"{start} Cannot be said: there is no certified bracket. {told}"
    text = f"{start} From {least} to {most}, by the brackets: {verdicts}"
    decided = [row for row in rows if row["verdict"] in ("grows", "falls", "flat")]
    if decided and len(facts["seed"]) > 1:
        firm = sum(row["verdict"] == row["verdict_over_seeds"] for row in decided)
        text += f" (decided also over the seeds at {firm} of these {len(decided)})"
    widest = rows[-1]
    if widest["ratio_at_least"] is not None and widest["ratio_at_most"] is not None:
        text += (
            f". At width {widest['width']} the constant changes by a factor between "
            f"{words.at_least(widest['ratio_at_least'])} and "
            f"{words.at_most(widest['ratio_at_most'])}"
        )
    return f"{text}.{_excluded(rows, same)} {_trends(widest, len(facts['seed']), same)}"


def _excluded(rows: list[Facts], same: Facts) -> str:
    """Bounds whose own change with label noise the constant provably does not share."""
    counts = Counter(
        name
        for row in rows
        for name in words.distinct(list(row["trend"]), same)
        if words.outside(row["trend"][name]["value"], row["ratio_at_least"], row["ratio_at_most"])
    )
    if not counts:
        return ""
    told = ", ".join(
        f"{name} at {words.share(n, len(rows), 'width')}" for name, n in counts.items()
    )
    return f" Excluded by the brackets, a change of the constant like that of: {told}."


def _trends(row: Facts, seeds: int, same: Facts) -> str:
    """What each bound, read alone, would say; by its interval or range where there is one."""
    sides: dict[str, list[str]] = {"growth": [], "decline": [], "no clear change": []}
    for name in words.distinct(list(row["trend"]), same):
        ratio = row["trend"][name]
        if not words.known(ratio):
            continue
        low = ratio["value"] if ratio["low"] is None else ratio["low"]
        high = ratio["value"] if ratio["high"] is None else ratio["high"]
        side = "growth" if low > 1 else "decline" if high < 1 else "no clear change"
        sides[side].append(f"{words.named(name, same)} {words.interval(ratio)}")
    told = "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items() if names)
    every = f", at every one of the {seeds} seeds" if 1 < seeds < MIN_SEEDS else ""
    return f"The bounds, each read alone, say at width {row['width']}{every}: {told}."


def _beyond(widths: list, facts: Facts) -> str:
    """That a larger value may lie outside of the grid."""
    end = words.grid_end(widths, facts["width"])
    return f" ({end}: a larger one may lie beyond)" if end else ""


def _ends(items: list) -> list:
    return items if len(items) == 1 else [items[0], items[-1]]

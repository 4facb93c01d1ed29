"""The study in at most five short sentences, each with what it rests on and a small figure.

A badge says how sure a sentence is: ``proved`` by certified brackets, for the networks trained
here; ``seen`` in the means over seeds, with the confidence of the study; ``undecided``. Sentences
are of the most label noise, where the field looks for double descent.
"""

from lipdescent.analysis import curve_shape, statistics
from lipdescent.analysis.labels import noise_name
from lipdescent.findings import words
from lipdescent.findings.words import NORMS, Facts

PROVED, SEEN, UNDECIDED = "proved", "seen", "undecided"
MOST_SENTENCES, MOST_WORDS = 5, 25
WHAT = {"test_error": "test error", "test_loss": "test loss"}
VERDICTS = {"grows": "grows", "falls": "falls", "flat": "is flat", "undecided": "is undecided"}


def in_short(facts: Facts) -> list[Facts]:
    """Sentences as {text, badges, also, figure, sketch}, the most important first."""
    norm = next(iter(facts["bounds"]), None)
    found = [_shape(facts)]
    if norm is not None:
        found += [_peak(facts, norm), _over_epochs(facts, norm), _noise(facts, norm)]
        found.append(_follows(facts, norm))
    return [one for one in found if one][:MOST_SENTENCES]


def sentences(facts: Facts) -> list[str]:
    """``proved, seen: The mean l2 constant ...``; for a terminal and the start page."""
    return [f"{', '.join(one['badges'])}: {one['text']}" for one in facts["in_short"]]


def sentence(
    text: str, badges: list[str], figure: str, sketch: Facts | None, also: str = ""
) -> Facts:
    """One sentence as the pages and JSON have it; ``figure`` may be none, ""."""
    return {"text": text, "badges": badges, "also": also, "figure": figure, "sketch": sketch}


def _sketch(facts: Facts, *curves: str, mark: float | None = None) -> Facts:
    """Curves over width with the most label noise; a bracket is two of them."""
    shown = {name: facts["curves"][name] for name in curves if name in facts["curves"]}
    return {"x": facts["width"], "over": "width", "curves": shown, "mark": mark}


def _noise_name(facts: Facts) -> str:
    return f"{noise_name(facts['label_noise'][-1])} label noise"


def _shape(facts: Facts) -> Facts | None:
    """First descent, peak and second descent of test error and test loss."""
    if len(facts["width"]) < 3:
        return None
    shapes = {what: facts[key]["shape"][-1] for key, what in WHAT.items()}
    sketch = _sketch(facts, *WHAT.values(), mark=shapes["test error"]["peak"])
    noise, (error, loss) = _noise_name(facts), shapes.values()
    told = [w for w, s in shapes.items() if s["peak"] is not None]
    both = len(told) == 2 and error["verdict"] == loss["verdict"]
    if not told:
        if all(s["verdict"] == curve_shape.UNKNOWN for s in shapes.values()):
            why = f"{words.count(facts['seed'], 'seed')} cannot tell a peak over width from noise"
        else:
            why = "neither test error nor test loss is shown to peak over width"
        return sentence(f"With {noise}, {why}.", [UNDECIDED], "double_descent", sketch)
    # Of losses that can be negative steps are differences.
    ratios = facts["test_loss"]["peak_over_widest"][-1]["value"] is not None
    steps = (_steps(w, shapes[w], ratios=ratios and w == "test loss") for w in told)
    also = f"At least ({noise_name(facts['confidence'])}): {'; '.join(steps)}"
    first = told[0]
    if shapes[first]["verdict"] == curve_shape.DOUBLE_DESCENT:
        own = shapes[first]
        text = f"Double descent ({noise}): {first} falls to width {own['minimum']}, "
        text += f"peaks at {own['peak']}, falls"
        rest = f"; test loss falls to {loss['minimum']}, peaks at {loss['peak']}, falls"
        rest = rest if both else ""
    else:
        text = f"{first.capitalize()} has a peak over width, at {shapes[first]['peak']} ({noise})"
        rest = f"; so has test loss, at {loss['peak']}" if both else ""
    if not both:
        other = "test loss" if first == "test error" else "test error"
        rest = f"; of {other}, {shapes[other]['verdict']} is shown"
    return sentence(f"{text}{rest}.", [SEEN], "double_descent", sketch, f"{also}.")


def _steps(what: str, shape: Facts, *, ratios: bool) -> str:
    """``test loss falls 1.05-fold, rises 2.64-fold``; differences are ``by 0.062``."""
    verbs = {"descent": "falls", "rise": "rises", "fall": "falls"}
    told = [
        f"{verb} {words.at_least(shape[step], '.2f')}-fold"
        if ratios
        else f"{verb} by {words.at_least(shape[step], '.3f')}"
        for step, verb in verbs.items()
        if shape[step]
    ]
    return f"{what} {', '.join(told)}"


def _peak(facts: Facts, norm: str) -> Facts | None:
    """Where the constant is largest, and whether test error peaks there."""
    constant = facts["constant"][norm][-1]
    possible = constant["can_peak_at"]
    if not possible or len(facts["width"]) < 3:
        return None
    noise, name = _noise_name(facts), NORMS[norm]
    peak = facts["test_error"]["shape"][-1]["peak"]
    sketch = _sketch(facts, f"lower, {norm}", f"upper, {norm}", mark=peak)
    at = words.widths(possible, facts["width"])
    if len(possible) > len(facts["width"]) / 2:
        text = f"Where the mean {name} constant is largest over width ({noise}) is open: at {at}."
        return sentence(text, [UNDECIDED], "double_descent", sketch)
    end = words.grid_end(possible, facts["width"])
    where = f"at width {at}" if len(possible) < 3 else f"somewhere from width {at}"
    if end:  # what is beyond it may be larger
        where = f"{'at width' if len(possible) < 3 else 'within widths'} {at}, {end}"
    text = f"The mean {name} constant ({noise}) is largest {where}"
    badges = [PROVED]
    if peak is not None:
        there = ", among these" if peak in possible else ""
        text += f"; test error peaks at {peak}{there if len(possible) > 1 else ''}"
        badges.append(SEEN)
    falls, also = constant["falls_at_least"] or 0, ""
    if falls > 1:
        also = (
            f"From its peak to the widest network it falls at least {words.at_least(falls)}-fold."
        )
    return sentence(f"{text}.", badges, "double_descent", sketch, also)


def _over_epochs(facts: Facts, norm: str) -> Facts | None:
    """From the epoch with the least test loss to the last one."""
    found = facts["over_epochs"].get(norm)
    if found is None or found["best"] == facts["epoch"]:
        return None
    rise, grows = found["loss_rises"], found["constant_grows_at_least"] or 0
    seen = rise["low"] is not None and rise["low"] > 1
    sketch = {"x": found["epochs"], "over": "epoch", "curves": found["curves"],
              "mark": found["best"]}  # fmt: skip
    also = f"{_noise_name(facts)}; test loss {words.interval(rise)}-fold"
    if not found["critical"]:
        also += "; the largest width, as none interpolates"
    if found["upper_at_best"] is not None:
        also += f"; the constant at epoch {found['best']}: at most "
        also += words.at_most(found["upper_at_best"], ".3g")
    start = f"At width {found['width']}, from the best epoch ({found['best']}) to the last "
    start += f"({facts['epoch']}),"
    loss = f"test loss grows {words.value(rise, '{:.1f}')}-fold" if seen else ""
    if grows > 1:
        verb = "" if seen else "grows "  # said of the loss already
        constant = f"the {NORMS[norm]} constant {verb}at least {words.at_least(grows, '.1f')}-fold"
        text = f"{start} {loss}, {constant}" if seen else f"{start} {constant}"
    else:
        if not seen:
            return None
        text = f"{start} {loss}; whether the {NORMS[norm]} constant grows is open"
    badges = [PROVED] * (grows > 1) + [SEEN] * seen + [UNDECIDED] * (grows <= 1)
    return sentence(f"{text}.", badges, "epoch_curves", sketch, f"{also}.")


def _noise(facts: Facts, norm: str) -> Facts | None:
    """What label noise does to the constant below the interpolation thresholds, and beyond."""
    found = {"below": facts["label_noise_below"][norm], "beyond": facts["label_noise_effect"][norm]}
    known = {
        where: [row for row in part["widths"] if row["verdict"] != "unknown"]
        for where, part in found.items()
    }
    told = [where for where, rows in known.items() if rows]
    if not told:
        return None
    least, most = (noise_name(level) for level in found[told[0]]["between"])
    parts, before, decided = [], "", False
    for where in told:
        verdicts = [row["verdict"] for row in known[where]]
        first = max(VERDICTS, key=verdicts.count)
        share = words.share(verdicts.count(first), len(verdicts), "width")
        decided |= first != "undecided"
        verb = "so" if first == before else VERDICTS[first]
        parts.append(f"{verb} at {share} {where} the threshold")
        before = first
    text = f"From {least} to {most} noise, the {NORMS[norm]} constant {'; '.join(parts)}"
    if len(parts) > 1:
        text = text.removesuffix(" the threshold").replace(" widths beyond", " beyond")
    also = "; ".join(_factors(where, known[where]) for where in told)
    curves = [f"{side}, {norm}{of}" for of in (" (least noise)", "") for side in ("lower", "upper")]
    sketch = _sketch(facts, *curves)
    badges = [PROVED] if decided else [UNDECIDED]
    also = f"{also[:1].upper()}{also[1:]}."
    return sentence(f"{text}.", badges, "double_descent", sketch, also)


def _factors(where: str, rows: list[Facts]) -> str:
    """What the brackets leave of the factor, over all widths of one side."""
    least = min(row["ratio_at_least"] for row in rows)
    most = max(row["ratio_at_most"] for row in rows)
    factor = f"a factor of {words.at_least(least)} to {words.at_most(most)}"
    return f"{where} the threshold {factor}"


def _follows(facts: Facts, norm: str) -> Facts | None:
    """Whether the upper bound moves with test loss, and without its scale, and with test error.

    It does where every seed's rank correlation is above 0, and there are seeds enough.
    """
    bound = facts["bounds"][norm].get("best upper")
    if bound is None:
        return None
    found = {
        of: bound[key][-1]
        for key, of in (
            ("spearman", "with test loss"),
            ("spearman_error", "with test error"),
            ("spearman_calibrated", "at a fitted logit scale"),
        )
    }
    found = {of: estimate for of, estimate in found.items() if words.known(estimate)}
    if len(found) < 2:
        return None
    # The range over so many seeds holds the median of all seeds with the confidence asked for.
    held = statistics.held_by_range(bound["seeds"][-1]) >= facts["confidence"]
    start = f"Over width, the {NORMS[norm]} upper bound"
    told = ", ".join(f"{words.value(estimate)} {of}" for of, estimate in found.items())
    text = f"{start}'s rank correlation is {told}."
    if held and (found.get("with test loss", {}).get("low") or -1) > 0:
        text = f"{start} moves {_told_of_loss(found)}{_told_of_error(found)}."
    ranges = ", ".join(f"{words.interval(estimate)} {of}" for of, estimate in found.items())
    also = f"Medians and ranges of the seeds, {_noise_name(facts)}: {ranges}."
    sketch = _sketch(facts, f"upper, {norm}", "test loss", "test error")
    return sentence(text, [SEEN if held else UNDECIDED], "alignment", sketch, also)


def _told_of_loss(found: Facts) -> str:
    """``with test loss (rank correlation 0.88; 0.45 at a fitted logit scale)``."""
    scaled = found.get("at a fitted logit scale")
    of_scaled = f"; {words.value(scaled)} at a fitted logit scale" if scaled else ""
    own = words.value(found["with test loss"])
    return f"with test loss (rank correlation {own}{of_scaled})"


def _told_of_error(found: Facts) -> str:
    """What the seeds' ranges show of test error: with it, against it, or neither."""
    error = found.get("with test error")
    if error is None:
        return ""
    value = words.value(error)
    if (error["low"] or 0) > 0:
        return f" and with test error ({value})"
    if (error["high"] or 0) < 0:
        return f", against test error ({value})"
    return f"; with test error, not shown ({value})"

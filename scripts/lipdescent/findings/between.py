"""What sets a study's architectures apart, in short sentences: fitting, constants, test error."""

from collections.abc import Callable, Sequence

from lipdescent.analysis.labels import noise_name, variant_name
from lipdescent.findings import words
from lipdescent.findings.in_short import MOST_WORDS, PROVED, SEEN, sentence
from lipdescent.findings.side_by_side import BRACKET
from lipdescent.findings.words import Facts

MEANS = {"test error": "Mean test error", "certified radius": "Mean certified l2 radius"}


def in_short(groups: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Data set -> sentences, at the largest width, the last epoch and the most label noise.

    Of data sets that several architectures were trained on.
    """
    found = {}
    for dataset in dict.fromkeys(facts["dataset"] for facts in groups):
        rows = [facts for facts in groups if facts["dataset"] == dataset]
        if len(rows) > 1:
            told = [_fits(rows), _constants(rows), *(_means(rows, what) for what in MEANS)]
            found[dataset] = [one for one in told if one]
    return found


def _where(rows: Sequence[Facts]) -> str:
    return f"at width {max(rows[0]['width'])}, {noise_name(rows[0]['label_noise'][-1])} noise"


def _fits(rows: Sequence[Facts]) -> Facts:
    """From which width each fits the labels that it was trained on."""
    found = [(row, row["interpolation_threshold"][-1]["value"]) for row in rows]
    fitted = sorted(((row, at) for row, at in found if at is not None), key=lambda one: one[1])
    noise = noise_name(rows[0]["label_noise"][-1])
    if not fitted:
        text = f"No width fits the training labels ({noise} noise) of any of these."
        return sentence(text, [SEEN], "", None)
    never = len(rows) - len(fitted)
    rest = f"; {never} of {len(rows)} fit at none" if never else ""
    start = f"First widths that fit the training labels ({noise} noise):"
    return _sentence(start, fitted, lambda at: f"{at:g}", SEEN, rest)


def _constants(rows: Sequence[Facts]) -> Facts | None:
    """The bracket of each one's mean constant, rounded outwards."""
    sides = [[row["widest"].get(side, [None])[-1] for side in BRACKET] for row in rows]
    found = [(row, pair) for row, pair in zip(rows, sides, strict=True) if None not in pair]
    if len(found) < 2:
        return None
    found.sort(key=lambda one: one[1][1])

    def told(pair: Sequence[float]) -> str:
        return f"{words.at_least(pair[0], '.3g')} to {words.at_most(pair[1], '.3g')}"

    return _sentence(f"Mean l2 constants {_where(rows)}:", found, told, PROVED)


def _means(rows: Sequence[Facts], what: str) -> Facts | None:
    """Test error or certified radius of each."""
    column = "test accuracy" if what == "test error" else what
    means = [row["widest"].get(column, [None])[-1] for row in rows]
    found = [(row, mean) for row, mean in zip(rows, means, strict=True) if mean is not None]
    if len(found) < 2:
        return None
    if what == "test error":
        found = [(row, 1 - mean) for row, mean in found]
    found.sort(key=lambda one: one[1])
    return _sentence(f"{MEANS[what]} {_where(rows)}:", found, lambda mean: f"{mean:.3g}", SEEN)


def _sentence(
    start: str, found: Sequence[tuple], form: Callable, badge: str, rest: str = ""
) -> Facts:
    """``start`` mlp 0.612, lipschitz 0.688; of too many the first and the last in their order."""
    told = [f"{variant_name(row['architecture'])} {form(value)}" for row, value in found]
    text = f"{start} {', '.join(told)}{rest}."
    if len(text.split()) > MOST_WORDS:
        text = f"{start} {told[0]}, ..., {told[-1]}{rest}."
    return sentence(text, [badge], "", None)

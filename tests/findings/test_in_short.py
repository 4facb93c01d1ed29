"""Short sentences say what made-up studies of known truth show, and no more."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import synthetic_study

from lipdescent.analysis.groups import group_of
from lipdescent.findings import document, in_short, measured, page, sketch
from lipdescent.storage import table

OPTIONS = {"confidence": 0.95, "interpolation_accuracy": 0.995}
SIX = {"seeds": range(6)}
TIGHT = (
    ("lower_ascent", "lower", "l2", "train", 0.99),
    ("upper_lipsdp", "upper", "l2", "", 1.01),
    ("upper_layer_product", "upper", "l2", "", 3.0),
)


def facts_of(change=None, **study):
    rows = synthetic_study.make(**study)
    if change:
        frame = rows.to_pandas()
        change(frame)
        rows = table.from_columns(len(frame), **{name: frame[name].to_numpy() for name in frame})
    group = group_of(rows, dataset="mnist1d", architecture="mlp")
    return measured.findings(group, OPTIONS)


def sentence(facts, start):
    (found,) = [one for one in facts["in_short"] if start in one["text"]]
    return found


def descend_first(frame):
    """The narrowest network's error and loss are larger than all others'."""
    narrow = frame["width"] == 4
    frame.loc[narrow & (frame["quantity"] == "test_loss"), "value"] = 9.0
    frame.loc[narrow & (frame["quantity"] == "test_accuracy"), "value"] = 0.2


def test_double_descent_is_said_where_both_are_shown():
    facts = facts_of(descend_first, bounds=TIGHT, **SIX)
    found = sentence(facts, "Double descent")
    assert found["text"] == (
        "Double descent (40 % label noise): test error falls to width 8, peaks at 32, falls; "
        "test loss falls to 8, peaks at 32, falls."
    )
    assert found["badges"] == ["seen"]
    error, loss = (facts[what]["shape"][-1] for what in ("test_error", "test_loss"))
    assert found["also"] == (
        f"At least (95 %): test error falls by {down(error['descent'], 3)}, rises by "
        f"{down(error['rise'], 3)}, falls by {down(error['fall'], 3)}; test loss falls "
        f"{down(loss['descent'], 2)}-fold, rises {down(loss['rise'], 2)}-fold, falls "
        f"{down(loss['fall'], 2)}-fold."
    )
    assert error["descent"] == pytest.approx(0.8 - 0.5 * synthetic_study.hump(8, 32), rel=0.05)
    assert error["fall"] < 0.5 * (1 - synthetic_study.hump(128, 32))


def down(value, digits):
    return f"{np.floor(value * 10**digits) / 10**digits:.{digits}f}"


def test_of_noise_nothing_is_said_to_peak():
    def noise(frame):
        chosen = frame["quantity"].isin(["test_loss", "test_accuracy"])
        frame.loc[chosen, "value"] = np.random.default_rng(0).uniform(0.3, 0.6, chosen.sum())

    found = facts_of(noise, **SIX)["in_short"][0]
    assert found["badges"] == ["undecided"]
    assert "neither test error nor test loss is shown to peak" in found["text"]


def test_the_constants_peak_is_proved_or_open():
    tight = sentence(facts_of(bounds=TIGHT, **SIX), "mean l2 constant")
    assert tight["text"].startswith(
        "The mean l2 constant (40 % label noise) is largest at width 32;"
    )
    assert tight["badges"] == ["proved", "seen"]
    loose = facts_of(bounds=(TIGHT[0], TIGHT[2]), **SIX)
    open_ = sentence(loose, "mean l2 constant")
    assert open_["badges"] == ["undecided"]
    assert "is open" in open_["text"]


@pytest.mark.parametrize(
    ("wide", "said"), [((128,), "at width 128, the grid's end"),
                       ((32, 64, 128), "within widths 32 to 128, the grid's end")],
)  # fmt: skip
def test_a_constant_that_is_largest_at_the_grids_end_may_be_larger_beyond(wide, said):
    def grow(frame):
        of = frame["direction"].isin(["lower", "upper"]) & frame["width"].isin(wide)
        frame.loc[of & (frame["direction"] == "lower"), "value"] = 90.0
        frame.loc[of & (frame["direction"] == "upper"), "value"] = 91.0

    facts = facts_of(grow, bounds=TIGHT, **SIX)
    found = sentence(facts, "constant (40 % label noise) is largest")
    assert f"is largest {said}; test error peaks at 32" in found["text"]
    assert len(found["text"].split()) <= in_short.MOST_WORDS
    text = page.markdown(document.report("x", [facts]))
    assert "(the grid's end: a larger one may lie beyond)" in text
    assert f"{wide[0]} * |" in text or "to 128 * |" in text


def test_growth_over_epochs_is_of_last_lower_over_best_upper():
    facts = facts_of(bounds=TIGHT, scatter=0.001, **SIX)
    found = facts["over_epochs"]["l2"]
    assert (found["width"], found["best"]) == (16, 0)
    assert found["constant_grows_at_least"] == pytest.approx(10 * 0.99 / 1.01, rel=1e-3)
    assert found["loss_rises"]["value"] == pytest.approx(10, rel=0.01)
    text = sentence(facts, "best epoch")["text"]
    assert text.endswith("test loss grows 10.0-fold, the l2 constant at least 9.8-fold.")


def test_where_only_the_constants_growth_is_shown_it_grows():
    found = sentence(facts_of(bounds=TIGHT, scatter=0.001, seeds=(0,)), "best epoch")
    assert found["text"].endswith("to the last (100), the l2 constant grows at least 9.7-fold.")
    assert found["badges"] == ["proved"]


def test_nothing_is_proved_where_the_most_widths_are_undecided():
    def loosen(frame):
        loose = (frame["direction"] == "upper") & ~frame["width"].isin([8, 16, 32])
        frame.loc[loose, "value"] *= 100

    widths = (2, *synthetic_study.WIDTHS)
    found = sentence(facts_of(loosen, bounds=TIGHT, widths=widths, **SIX), "noise, the l2")
    assert "undecided at 2 of 3 widths below the threshold; so at both beyond" in found["text"]
    assert found["badges"] == ["undecided"]


def test_a_study_whose_every_network_diverged_says_so():
    group = group_of(synthetic_study.diverged(), dataset="mnist1d", architecture="mlp")
    facts = measured.findings(group, OPTIONS)
    text = page.markdown(document.report("gone", [facts]))
    assert "54 diverged networks are left out" in text
    assert [one["badges"] for one in facts["in_short"]] == [["undecided"]]


def test_label_noise_below_the_threshold_divides_the_constant():
    facts = facts_of(bounds=TIGHT, scatter=0, **SIX)
    rows = facts["label_noise_below"]["l2"]["widths"]
    assert [row["width"] for row in rows] == [4, 8]
    truth = synthetic_study.hump(8, 32) / synthetic_study.hump(8, 16)
    assert rows[1]["ratio_at_most"] == pytest.approx(truth * 1.01 / 0.99)
    found = sentence(facts, "below the threshold")
    assert "falls at both widths below the threshold" in found["text"]
    assert found["badges"] == ["proved"]
    less = sentence(facts_of(bounds=TIGHT, scatter=0, growth=0.2, **SIX), "below the threshold")
    assert less["text"].endswith("falls at both widths below the threshold; so at both beyond.")


@pytest.mark.parametrize(
    "study",
    [
        SIX,
        SIX | {"bounds": TIGHT},
        {"seeds": (0,)},
        {"seeds": (0, 1)},
        {"noises": (0.2,)},
        {"widths": (16,)},
        {"widths": (4, 8)},
        {"epochs": (100,)},
        {"bounds": ()},
        {"bounds": TIGHT[:1]},
        {"bounds": TIGHT[1:]},
        SIX | {"growth": 0.2, "bounds": TIGHT},
        {"diverged": tuple(itertools.product((4, 8), (0.4,), range(3)))},
    ],
)
def test_five_sentences_of_25_words_each_with_a_figure_that_can_be_drawn(study):
    found = facts_of(**study)["in_short"]
    assert len(found) <= in_short.MOST_SENTENCES
    for one in found:
        assert len(one["text"].split()) <= in_short.MOST_WORDS, one["text"]
        assert one["text"].endswith(".")
        assert set(one["badges"]) <= {"proved", "seen", "undecided"}
        assert one["badges"]
        drawn = ET.fromstring(sketch.svg(one["sketch"], label="a < b"))
        assert drawn.get("aria-label") == "a < b"
        for curve in drawn.iter("polyline"):
            numbers = [float(v) for pair in curve.get("points").split() for v in pair.split(",")]
            assert all(0 <= value <= sketch.WIDTH for value in numbers)


ERRORS = {
    "as it is": (lambda _, error: error, " and with test error (1.00)."),
    "turned round": (lambda _, error: 1 - error, ", against test error (-1.00)."),
    "of no relation": (
        lambda seed, error: np.where(seed % 2 == 0, error, 1 - error),
        "; with test error, not shown (0.00).",
    ),
}


@pytest.mark.parametrize("how", ERRORS)
def test_what_the_bound_moves_with_is_said_by_every_seeds_correlation(how):
    change, said = ERRORS[how]

    def errors(frame):
        own = frame["quantity"] == "test_accuracy"
        error = 1 - frame.loc[own, "value"].to_numpy()
        frame.loc[own, "value"] = 1 - change(frame.loc[own, "seed"].to_numpy(), error)

    found = facts_of(errors, bounds=TIGHT, scatter=0, **SIX)["in_short"][-1]
    start = "Over width, the l2 upper bound moves with test loss (rank correlation 1.00"
    assert found["text"].startswith(start)
    assert found["text"].endswith(said)
    assert found["badges"] == ["seen"]


def test_a_correlation_is_seen_only_with_seeds_enough_for_its_range():
    """Of n seeds the range holds the median of all with 1 - 2^(1 - n): .95 from six on.

    A seed whose networks all diverged is none of them.
    """
    gone = tuple(itertools.product(synthetic_study.WIDTHS, (0.4,), (0,)))
    for study, badge in (
        ({"seeds": range(5)}, "undecided"), (SIX, "seen"), (SIX | {"diverged": gone}, "undecided"),
    ):  # fmt: skip
        assert sentence(facts_of(**study), "rank corr")["badges"] == [badge]

"""Findings of made-up studies whose truth is known, and of studies too small to tell."""

import json
import runpy
import sys
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic_study

from lipdescent.analysis import ladder
from lipdescent.analysis.groups import group_of
from lipdescent.findings import document, label_noise, measured, page, words
from lipdescent.storage import table

OPTIONS = {"confidence": 0.9, "interpolation_accuracy": 0.995}
TIGHT = (
    ("lower_ascent", "lower", "l2", "train", 0.99),
    ("upper_lipsdp", "upper", "l2", "", 1.01),
    ("upper_layer_product", "upper", "l2", "", 3.0),
)


def facts_of(**study):
    group = group_of(synthetic_study.make(**study), dataset="mnist1d", architecture="mlp")
    return measured.findings(group, OPTIONS)


def values(estimates):
    return [estimate["value"] for estimate in estimates]


def test_peaks_thresholds_and_correlations_of_a_known_study():
    facts = facts_of()
    assert values(facts["interpolation_threshold"]) == [16, 32, 32]
    assert values(facts["test_loss"]["peak_width"]) == [16, 32, 32]
    truth = synthetic_study.hump(16, 16) / synthetic_study.hump(128, 16)
    ratio = facts["test_loss"]["peak_over_widest"][0]
    assert ratio["value"] == pytest.approx(truth, rel=0.02)
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    for norm, names in (
        ("l2", ["best lower", "best upper", "Jacobian (lower)", "LipSDP (upper)",
                "layer product (upper)"]),
        ("linf", ["best lower", "best upper", "Jacobian (lower)", "layer product (upper)"]),
    ):  # fmt: skip
        assert list(facts["bounds"][norm]) == names
        for bound in facts["bounds"][norm].values():
            assert values(bound["peak_width"]) == [16, 32, 32]
            assert values(bound["steps_from_test_peak"]) == [0, 0, 0]
            assert values(bound["spearman"]) == pytest.approx([1, 1, 1])
            assert bound["peak_inside_grid"] == [True] * 3


def test_best_bounds_are_the_best_over_quantities_and_splits():
    group = group_of(synthetic_study.make(), dataset="mnist1d", architecture="mlp")
    lower, upper = ladder.bracket(group, "l2")
    np.testing.assert_allclose(upper / lower, 1.25 / 0.8)
    assert lower.shape == (6, 3, 3, 3)  # width, noise, epoch, seed
    gaps = ladder.gaps(group, "linf")
    assert [rung.quantity for rung in gaps] == ["upper_layer_product"]
    np.testing.assert_allclose(next(iter(gaps.values())), 9 / 0.8)


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_over_the_widest_lies_between_its_ends_for_any_constants(seed):
    """Of constants that are drawn, and brackets drawn around them."""
    draw = np.random.default_rng(seed)
    constants = draw.uniform(1, 4, size=len(synthetic_study.WIDTHS))
    constants[-1] *= draw.choice([0.5, 1, 4])
    rows = synthetic_study.make(bounds=TIGHT[:2], scatter=0, noises=(0.0,), seeds=(0,)).to_pandas()
    for width, constant in zip(synthetic_study.WIDTHS, constants, strict=True):
        at = rows["width"] == width
        rows.loc[at & (rows["direction"] == "lower"), "value"] = constant / draw.uniform(1, 2)
        rows.loc[at & (rows["direction"] == "upper"), "value"] = constant * draw.uniform(1, 2)
    made = {name: rows[name].to_numpy() for name in rows}
    group = group_of(table.from_columns(len(rows), **made), dataset="mnist1d", architecture="mlp")
    (found,) = measured.constant_over_width(group, "l2")
    truth = constants.max() / constants[-1]
    assert 1 <= found["falls_at_least"] <= truth <= found["falls_at_most"]
    assert synthetic_study.WIDTHS[constants.argmax()] in found["can_peak_at"]
    if found["can_peak_at"] == [synthetic_study.WIDTHS[-1]]:
        assert found["falls_at_most"] == 1  # the widest is proved the largest


def test_the_constants_peak_is_claimed_only_where_the_bracket_proves_it():
    tight = facts_of(bounds=TIGHT, scatter=0)["constant"]["l2"]
    assert [fact["can_peak_at"] for fact in tight] == [[16], [32], [32]]
    truth = synthetic_study.hump(16, 16) / synthetic_study.hump(128, 16)
    assert tight[0]["falls_at_least"] == pytest.approx(truth * 0.99 / 1.01)
    assert tight[0]["falls_at_most"] == pytest.approx(truth * 1.01 / 0.99)
    wide = facts_of(scatter=0)["constant"]["linf"]
    assert wide[0]["can_peak_at"] == list(synthetic_study.WIDTHS)
    assert wide[0]["falls_at_least"] == 1  # nothing is less than the largest
    text = page.markdown(document.report("x", [facts_of(bounds=TIGHT)]))
    assert "largest at width 16 with 0 % label noise; 32 with 40 % label noise" in text
    wide_bounds = tuple(bound for bound in synthetic_study.BOUNDS if bound[2] == "linf")
    text = page.markdown(document.report("x", [facts_of(bounds=wide_bounds)]))
    assert "constant itself peaks is not proved" in text


@pytest.mark.parametrize(("growth", "expected"), [(1.5, "grows"), (1.0, "flat"), (0.6, "falls")])
def test_label_noise_is_decided_only_by_disjoint_brackets(growth, expected):
    # Both noise levels have the same curve, so that growth is the true ratio
    facts = facts_of(bounds=TIGHT, noises=(0.2, 0.4), growth=growth, scatter=0)
    found = facts["label_noise_effect"]["l2"]
    assert found["between"] == [0.2, 0.4]
    assert [row["width"] for row in found["widths"]] == [64, 128]
    for row in found["widths"]:
        assert row["verdict"] == expected
        assert row["ratio_at_least"] == pytest.approx(growth * 0.99 / 1.01)
        assert row["ratio_at_most"] == pytest.approx(growth * 1.01 / 0.99)
        assert row["trend"]["layer product (upper)"]["value"] == pytest.approx(growth)
    text = page.markdown(document.report("x", [facts]))
    line = next(line for line in text.splitlines() if "grow with label noise?" in line)
    said = "stays within a factor 1.1" if expected == "flat" else expected
    assert f"it {said} at both widths" in line


def test_a_wide_bracket_decides_nothing_though_the_layer_product_grows():
    facts = facts_of(noises=(0.2, 0.4), growth=1.3)
    row = facts["label_noise_effect"]["l2"]["widths"][-1]
    assert row["trend"]["layer product (upper)"]["low"] > 1.2
    assert row["verdict"] == "undecided"
    assert row["verdict_over_seeds"] == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.95, 1.05, "flat"),
        (1.01, 1.05, "flat"),
        (1.01, 1.2, "grows"),
        (0.5, 0.99, "falls"),
        (0.5, 1.5, "undecided"),
        (float("nan"), 1.5, "unknown"),
    ],
)
def test_verdict(low, high, expected):
    assert label_noise.verdict(low, high) == expected


def test_diverged_models_are_left_out_and_counted():
    bad = ((128, 0.4, 0), (128, 0.4, 1), (128, 0.4, 2), (32, 0.4, 1))
    facts = facts_of(diverged=bad)
    assert facts["num_diverged"] == 4
    assert facts["num_models"] == 54
    assert values(facts["test_loss"]["peak_width"]) == [16, 32, 32]
    assert facts["test_loss"]["peak_over_widest"][2]["value"] is None
    text = page.markdown(document.report("x", [facts]))
    assert "4 diverged networks are left out." in text


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"widths": (16,)}, "Fewer than three widths: no peaks inside the grid"),
        (
            {"seeds": (0,)},
            "One seed: no intervals and no ranges; a peak cannot be told from noise.",
        ),
        ({"seeds": (0, 1)}, "2 seeds: ranges over the seeds in place of intervals; a peak cannot"),
        ({"noises": (0.2,)}, "One level of label noise: no effect of label noise."),
        ({"epochs": (0,)}, "1 seed"),
        ({"bounds": ()}, "No Lipschitz bound: nothing to compare"),
        ({"bounds": TIGHT[:1]}, "Cannot be said: there is no certified bracket. The bounds, each"),
        ({"bounds": TIGHT[:1]}, "No upper bound in l2: no certified bracket."),
        ({"bounds": TIGHT[1:]}, "No lower bound in l2: no certified bracket."),
        ({"widths": (2, 4, 8)}, "No interpolation threshold with label noise 0 %, 20 %, 40 %"),
        ({"widths": (16,), "seeds": (0,), "noises": (0.0,), "epochs": (0,)}, "One seed"),
    ],
)
def test_a_study_that_is_too_small_says_so(study, said):
    study = {"seeds": (0,)} | study if said == "1 seed" else study
    facts = facts_of(**study)
    json.dumps(facts, allow_nan=False)
    blocks = document.report("small", [facts])
    assert said in page.markdown(blocks)
    assert "nan" not in page.markdown(blocks).split()


SIX = tuple(range(6))


def test_no_peak_is_shown_where_there_is_none():
    facts = facts_of(widths=(2, 4, 8), seeds=SIX)
    text = page.markdown(document.report("x", [facts]))
    assert "No peak of the test loss over width is shown at all 3 levels" in text
    assert "8 [8, 8] *" in text


def test_one_peak_is_not_called_double_descent():
    facts = facts_of(seeds=SIX, scatter=0.05)
    text = page.markdown(document.report("x", [facts]))
    assert "no first descent in this grid of widths, at all 3 levels" in text
    assert "peak at width 16 with 0 %" in text
    assert "ouble descent of the test loss" not in text
    first = facts["test_loss"]["shape"][0]
    hump = synthetic_study.hump
    assert 1 < first["rise"] < hump(16, 16) / hump(4, 16)
    assert 1 < first["fall"] < hump(16, 16) / hump(128, 16)
    for bound in facts["bounds"]["l2"].values():
        assert [shape["verdict"] for shape in bound["shape"]] == ["one peak"] * 3


def test_double_descent_is_called_so_and_noise_is_not():
    draws = np.random.default_rng(0)
    rows = synthetic_study.make(seeds=SIX, scatter=0.03).to_pandas()
    loss = (rows["quantity"] == "test_loss") & (rows["epoch"] == 100)
    rows.loc[loss & (rows["width"] == 4), "value"] *= 3  # now it falls to width 8 first
    noise = loss & (rows["label_noise"] == 0.4)
    rows.loc[noise, "value"] = np.exp(0.3 * draws.normal(size=noise.sum()))
    columns = {name: rows[name].to_numpy() for name in rows}
    made = table.from_columns(len(rows), **columns)
    facts = measured.findings(group_of(made, dataset="mnist1d", architecture="mlp"), OPTIONS)
    shapes = facts["test_loss"]["shape"]
    assert [s["verdict"] for s in shapes] == ["double descent", "double descent", "no peak"]
    assert [s["minimum"] for s in shapes] == [8, 8, None]
    text = page.markdown(document.report("x", [facts]))
    assert "Double descent of the test loss over width at 2 of 3 levels" in text
    assert "No peak of the test loss over width is shown at 1 of 3 levels" in text


def test_a_shift_of_the_peak_needs_every_one_of_enough_seeds():
    for seeds, shown in ((SIX, "larger"), (SIX[:4], None)):
        facts = facts_of(seeds=seeds)
        found = facts["test_loss"]["peak_shift"]
        assert found["shown"] == shown
        assert found["steps"] == {"value": 1, "low": 1, "high": 1}
    text = page.markdown(document.report("x", [facts_of(seeds=SIX, noises=(0.2, 0.4))]))
    assert "by +0 [+0, +0] widths of the grid (median and range of the seeds): a direction" in text


def test_intervals_and_ranges_are_called_by_their_names():
    few, more = (page.markdown(document.report("x", [facts_of(seeds=s)])) for s in (SIX[:3], SIX))
    assert "no interval is taken of fewer than 4 seeds" in few
    assert "the range over the 3 seeds" in few
    assert "75 % at least" in few
    assert "90 % intervals by Student's t" in more
    assert "96.9 % at least" in more


def test_losses_that_can_be_negative_have_plain_means_and_no_ratios():
    rows = synthetic_study.make(seeds=SIX).to_pandas()
    loss = rows["quantity"] == "test_loss"
    rows.loc[loss, "value"] -= 3
    columns = {name: rows[name].to_numpy() for name in rows}
    group = group_of(
        table.from_columns(len(rows), **columns), dataset="mnist1d", architecture="mlp"
    )
    facts = measured.findings(group, OPTIONS)
    assert facts["test_loss"]["peak_over_widest"][0]["value"] is None
    assert facts["test_loss"]["shape"][0]["verdict"] == "one peak"
    rise = 5 * (synthetic_study.hump(16, 16) - synthetic_study.hump(4, 16))
    assert facts["test_loss"]["shape"][0]["rise"] == pytest.approx(rise, rel=0.05)
    assert "nan" not in page.markdown(document.report("x", [facts])).split()
    assert "<polyline" in page.html(document.report("x", [facts]), title="x")
    assert "-fold" not in facts["in_short"][0]["also"]


def test_the_script_writes_three_files_of_every_group(tmp_path):
    rows = table.concatenate(
        [synthetic_study.make(), synthetic_study.make(architecture="cnn<b>", bounds=())]
    )
    table.write(tmp_path / "table.parquet", rows)
    names = ("json", "markdown", "html")
    job = SimpleNamespace(
        input=SimpleNamespace(table=tmp_path / "table.parquet"),
        output=SimpleNamespace(**{name: str(tmp_path / f"findings.{name}") for name in names}),
        log=[tmp_path / "log"],
        wildcards=SimpleNamespace(study="made-up"),
        params=SimpleNamespace(statistics=OPTIONS, read_from="runs/w{width}.pt"),
    )
    streams = sys.stdout, sys.stderr
    try:
        script = Path(table.__file__).parents[2] / "findings.py"
        runpy.run_path(str(script), init_globals={"snakemake": job})
    finally:
        sys.stdout.close()
        sys.stdout, sys.stderr = streams
    found = json.loads((tmp_path / "findings.json").read_text())
    assert [group["architecture"] for group in found["groups"]] == ["mlp", "cnn<b>"]
    html = (tmp_path / "findings.html").read_text()
    assert html.startswith("<!DOCTYPE html>")
    assert "cnn&lt;b&gt;" in html
    assert "http" not in html  # self-contained
    assert "3 seeds cannot tell a peak over width from noise" in (tmp_path / "log").read_text()


def test_architectures_are_told_side_by_side():
    groups = [
        measured.findings(
            group_of(
                synthetic_study.make(bounds=bounds, architecture=name),
                dataset="mnist1d",
                architecture=name,
            ),
            OPTIONS,
        )
        for name, bounds in (("mlp", TIGHT), ("free", ()))
    ]
    assert document.side_by_side(groups[:1]) == []
    *_, rows = document.side_by_side(groups)
    assert rows.header[0] == "architecture"
    cell = dict(zip(rows.header, rows.rows[0], strict=True))
    truth = 40 * synthetic_study.hump(128, 16)
    assert float(cell["l2 constant, at least"]) == pytest.approx(0.99 * truth, rel=0.02)
    assert float(cell["at most"]) == pytest.approx(1.01 * truth, rel=0.02)
    low, high = (groups[0]["widest"][name][0] for name in ("l2 constant, at least", "at most"))
    assert float(cell["l2 constant, at least"]) <= low  # shown outwards
    assert float(cell["at most"]) >= high
    assert cell["fits from width"].startswith("16")
    bare = dict(zip(rows.header, rows.rows[3], strict=True))
    assert (bare["architecture"], bare["at most"]) == ("free", "-")


def test_unknown_group_and_metric_are_named():
    rows = synthetic_study.make(epochs=(0,), seeds=(0,))
    with pytest.raises(ValueError, match=r"no rows of mnist1d/vit .* has: mnist1d/mlp"):
        group_of(rows, dataset="mnist1d", architecture="vit")
    group = group_of(rows, dataset="mnist1d", architecture="mlp")
    with pytest.raises(
        KeyError,
        match="no metric 'tast_loss' in the table; it has: num_classes, num_train, test_accuracy",
    ):
        ladder.metric(group, "tast_loss")


def test_not_applicable_bounds_are_named():
    rows = synthetic_study.make(epochs=(0,), seeds=(0,), bounds=())
    nothing = table.from_columns(
        1,
        study="made-up", dataset="mnist1d", architecture="mlp", width=4, num_parameters=200,
        label_noise=0.0, seed=0, epoch=0, split="", quantity="upper_lipsdp", direction="upper",
        norm="", value=float("nan"), status="not_applicable",
    )  # fmt: skip
    group = group_of(table.concatenate([rows, nothing]), dataset="mnist1d", architecture="mlp")
    assert group.not_applicable == ("upper_lipsdp",)
    assert ladder.norms(group) == []
    assert "Not applicable to these networks: upper_lipsdp." in document.about(
        measured.findings(group, OPTIONS)
    )


def test_a_tight_bracket_excludes_the_layer_products_growth():
    # The layer product grows by 1.5 with the least to the most noise, the constant does not
    rows = synthetic_study.make(bounds=TIGHT, noises=(0.2, 0.4), scatter=0)
    grown = rows.to_pylist()
    for row in grown:
        if row["quantity"] == "upper_layer_product" and row["label_noise"] == 0.4:
            row["value"] *= 1.5
    columns = {name: [row[name] for row in grown] for name in rows.column_names}
    group = group_of(
        table.from_columns(len(grown), **columns), dataset="mnist1d", architecture="mlp"
    )
    text = page.markdown(document.report("x", [measured.findings(group, OPTIONS)]))
    assert "a change of the constant like that of: layer product (upper) at both widths" in text
    assert "it stays within a factor 1.1 at both widths" in text


def test_words():
    assert words.outside(2, 0.9, 1.1)
    assert words.outside(0.5, 0.9, None)
    assert not words.outside(1, 0.9, 1.1)
    assert not words.outside(None, 0.9, 1.1)
    assert words.share(5, 5) == "all 5 levels"
    assert words.share(1, 1) == "the only level"
    assert words.interval({"value": 32, "low": 16, "high": 64}, "{:g}") == "32 [16, 64]"
    assert words.interval({"value": None, "low": None, "high": None}) == "-"
    names = ["best lower", "best upper", "a (lower)", "b (upper)", "c (upper)"]
    same = {"a (lower)": "best lower"}
    kept = ["best lower", "best upper", "b (upper)", "c (upper)"]
    assert words.distinct(names, same) == kept
    assert words.distinct(["a (lower)"], same) == ["a (lower)"]
    assert words.named("best lower", same) == "best lower (a)"
    assert words.named("best upper", same) == "best upper"
    every = [8, 16, 24, 32, 40]
    assert words.widths([16, 24, 32], every) == "16 to 32"
    assert words.widths([16, 24], every) == "16 or 24"
    assert words.widths([8, 16, 40], every) == "8, 16 or 40"
    assert words.widths([40], every) == "40"


def test_markdown_and_html_say_the_same():
    blocks = document.report("made-up", [facts_of()])
    markdown, html = page.markdown(blocks), page.html(blocks, title="t")
    inside = [one for block in blocks if isinstance(block, page.Fold) for one in block.blocks]
    tables = [one for one in (*blocks, *inside) if isinstance(one, page.Table)]
    assert len(tables) >= 6
    for block in tables:
        assert all(f"| {' | '.join(row)} |" in markdown for row in block.rows)
        assert all(f'<th scope="row">{row[0]}</th>' in html for row in block.rows)
        assert {len(row) for row in block.rows} == {len(block.header)}
        assert f"<caption>{block.caption}</caption>" in html
        assert block.caption in markdown
    for sentence in facts_of()["in_short"]:
        assert sentence["text"] in markdown
        assert escape(sentence["text"]) in html

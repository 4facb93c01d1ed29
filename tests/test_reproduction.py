"""docs/reproduction.md is made of records alone, by a stated rule; each experiment is covered."""

import json
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reproduction
import reproduction_measures as measures
import reproduction_statements as listed
import synthetic_study
from reproduction_words import Measured, Statement

from lipdescent.storage import table

ROOT = Path(__file__).parents[1]
STORED = reproduction.stored()
EPOCHS, SEEDS, WIDTHS = (0, 1, 10, 100, 1000), (0, 1), (8, 16, 32)


def said(paper, values=(), *, bracket=None, holds=None, **options):
    statement = Statement("k", "E1", "s", paper, "paper", ("x",), lambda _: None, **options)
    return reproduction.verdict(statement, Measured(list(values), bracket, holds))


@pytest.mark.parametrize(
    ("paper", "values", "expected"),
    [
        (10.0, [8.0, 9.0], "differs"),  # up to 9.9
        (9.9, [8.0, 9.0], "agrees"),
        (7.2, [8.0, 9.0], "agrees"),
        (7.19, [8.0, 9.0], "differs"),
        (-2.2, [-2.0, -1.0], "agrees"),  # a negative end is widened outwards, too
        (-2.21, [-2.0, -1.0], "differs"),
        ((1.0, 2.0), [2.1], "agrees"),
        ((1.0, 2.0), [2.3], "differs"),
        (None, [2.3], "no number"),
    ],
)
def test_a_number_agrees_within_the_widened_range(paper, values, expected):
    assert said(paper, values) == expected


def test_the_bracket_decides_what_is_said_of_the_constant():
    for bracket, expected in (
        ((1.0, 2.0), "proved"),
        ((0.9, 2.0), "not decided"),
        ((2.1, 3.0), "excluded"),
        ((0.1, 0.9), "excluded"),
        (None, "not decided"),
    ):
        assert said((1.0, 2.0), [1.5], bracket=bracket, of_constant=True) == expected
    assert said(None, holds=True) == "agrees"
    assert said(None, holds=False) == "differs"
    assert said(None, holds=True, of_constant=True) == "proved"
    assert said(None, holds=False, of_constant=True) == "not decided"
    statement = listed.STATEMENTS[0]
    assert reproduction.verdict(statement, None) == "open"


def test_the_tables_are_those_of_the_records():
    assert STORED["texts"] == json.loads(json.dumps(reproduction.tables(STORED["records"])))
    keys = [statement.key for statement in listed.STATEMENTS]
    assert len(keys) == len(set(keys)) >= 25
    assert set(STORED["records"]) <= set(keys)
    for key, record in STORED["records"].items():
        (statement,) = (s for s in listed.STATEMENTS if s.key == key)
        assert record["study"] in statement.studies
        assert record["study"] in record["command"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", record["date"])
        assert record["machine"]


def test_what_other_pages_show_is_recorded_as_they_show_it():
    wanted = [statement for statement in listed.STATEMENTS if statement.from_numbers]
    assert len(wanted) > 20
    for statement in wanted:
        (study,) = statement.studies
        found = statement.take(ROOT / f"docs/numbers/{study}.json")
        record = STORED["records"][statement.key]
        assert [found.values, found.holds] == [record["values"], record["holds"]], statement.key


def test_every_experiment_is_covered_by_studies_that_exist():
    numbers = []
    for name in listed.COVERAGE:
        ends = [int(number) for number in re.findall(r"E(\d+)", name)]
        numbers += range(ends[0], ends[-1] + 1)
    assert numbers == list(range(1, 32))
    there = {path.stem for path in (ROOT / "config/studies").glob("*.yaml")}
    for _, studies, lacks in listed.COVERAGE.values():
        assert set(studies) <= there
        assert studies or lacks
    for statement in listed.STATEMENTS:
        assert set(statement.studies) <= there


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Bounds that are exact power laws of width and epoch, with a bracket a factor 2 wide."""
    folder = tmp_path_factory.mktemp("study")
    rows = []
    for width in WIDTHS:
        for seed in SEEDS:
            for epoch in EPOCHS:
                constant = (1 + seed) * (1 if width == 16 else 0.25) * max(epoch, 0.1) ** 0.5
                for quantity, direction, norm, split, value in (
                    ("lower_jacobian", "lower", "l2", "train", constant),
                    ("upper_layer_product", "upper", "l2", "", 2 * constant),
                    ("test_loss", "metric", "", "test", 1 + constant),
                ):
                    rows.append({"width": width, "seed": seed, "epoch": epoch, "value": value,
                                 "quantity": quantity, "direction": direction, "norm": norm,
                                 "split": split})  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    fixed = {"study": "x", "dataset": "mnist1d", "architecture": "mlp", "num_parameters": 1,
             "label_noise": 0.0, "status": "ok"}  # fmt: skip
    columns |= {name: [value] * len(rows) for name, value in fixed.items()}
    columns = {name: np.array(column) for name, column in columns.items()}
    table.write(folder / "table.parquet", table.from_columns(len(rows), **columns))
    return folder


def test_exponents_growth_and_peaks_of_power_laws(study):
    found = measures.exponent(measures.UPPER, "epoch", start=1)(study)
    assert found.values == pytest.approx([0.5, 0.5])
    # Epochs 1 to 1,000: logarithms -1.5, -.5, .5, 1.5 around their mean, 5 their sum of squares;
    # the least exponent takes the upper bound at the first two and the lower one at the others.
    slack = np.log10(2) * (1.5 + 0.5) / 5
    assert found.bracket == pytest.approx((0.5 - slack, 0.5 + slack))
    grown = measures.growth(measures.LOWER)(study)
    assert grown.values == pytest.approx([100, 100])
    assert grown.bracket == pytest.approx((50, 200))
    at = measures.at(measures.LOWER, epoch=100)(study)
    assert at.values == pytest.approx([2.5, 5])
    assert at.bracket == pytest.approx((2.5, 10))  # over the seeds
    peaks = measures.peak(measures.TEST_LOSS)(study)
    assert peaks.values == [16, 16]
    assert peaks.bracket == (16, 16)  # the others are at most half as large
    names = (measures.TEST_LOSS, measures.LOWER, measures.UPPER)
    assert measures.tandem(names)(study).holds
    assert measures.fidelity(study).values == pytest.approx([0.5, 0.5])


def test_the_constant_peaks_over_sizes_where_the_bracket_proves_it(tmp_path):
    """Widths 8 and 16 over 100, 200, 400 points: 1 3 1 in brackets a factor 2 wide, and 1 1.5 1."""
    rows = []
    for width, curve in ((8, (1.0, 3.0, 1.0)), (16, (1.0, 1.5, 1.0))):
        for num_train, constant in zip((100, 200, 400), curve, strict=True):
            for seed in SEEDS:
                for quantity, direction, norm, split, value in (
                    ("lower_jacobian", "lower", "l2", "train", constant),
                    ("upper_layer_product", "upper", "l2", "", 2 * constant),
                    ("test_loss", "metric", "", "test", constant if width == 8 else 1.0),
                ):
                    rows.append({"width": width, "seed": seed, "value": value, "norm": norm,
                                 "quantity": quantity, "direction": direction, "split": split,
                                 "num_train": num_train})  # fmt: skip
    fixed = {"study": "x", "dataset": "mnist1d", "architecture": "mlp", "num_parameters": 1,
             "label_noise": 0.0, "epoch": 1, "status": "ok"}  # fmt: skip
    whole = []
    for num_train in (100, 200, 400):
        here = [row for row in rows if row["num_train"] == num_train]
        columns = {name: np.array([row[name] for row in here]) for name in here[0]}
        del columns["num_train"]
        columns |= {name: np.array([value] * len(here)) for name, value in fixed.items()}
        point = {"num_train": num_train}
        whole.append(table.from_columns(len(here), point=point, **columns))
    table.write(tmp_path / "table.parquet", table.concatenate(whole))
    found = measures.constant_peaks_over_sizes(tmp_path)
    assert found.holds
    assert found.note == "width 8: largest at 200"
    hurts = measures.more_data_hurts(tmp_path)
    assert hurts.holds
    assert hurts.note == "width 8, 100 to 200 points: 1.00 to 3.00"
    slope = measures.exponent(measures.UPPER, "num_train")(tmp_path)
    assert slope.values == pytest.approx([0, 0], abs=1e-12)  # of the widest, symmetric about 200


def test_what_a_study_lacks_is_no_number(study):
    for taken in (
        measures.at("lower_pairs"),
        measures.at(measures.LOWER, epoch=7),
        measures.at(measures.LOWER, width=7),
        measures.exponent(measures.MEAN, "epoch"),
    ):
        with pytest.raises(measures.Missing):
            taken(study)


def test_a_network_that_diverged_is_no_peak(study, monkeypatch):
    def lost(group, name, whole=measures.values):
        found = whole(group, name).copy()
        found[0, 0, -1, 1] = np.nan  # which numpy's argmax takes for the largest
        return found

    monkeypatch.setattr(measures, "values", lost)
    for taken in (measures.peak(measures.UPPER), measures.tandem([measures.UPPER])):
        with pytest.raises(measures.Missing, match="not there for all networks"):
            taken(study)


def test_brackets_of_quotients_are_rounded_outwards():
    random = np.random.default_rng(0)
    for _ in range(200):
        a, b = np.exp(random.normal(size=(2, 1)))
        low, high = measures._ends(a / b, a / b)
        assert Fraction(low) < Fraction(float(a[0])) / Fraction(float(b[0])) < Fraction(high)


def test_a_short_study_does_not_replace_a_full_one(tmp_path, study, monkeypatch):
    both = Statement("k", "E9", "s", 16.0, "paper", ("full", "full_small"),
                     measures.peak(measures.TEST_LOSS))  # fmt: skip
    monkeypatch.setattr(listed, "STATEMENTS", [both])
    short = tmp_path / "full_small"
    short.mkdir()
    (short / "table.parquet").write_bytes((study / "table.parquet").read_bytes())
    (short / "provenance.json").write_text(json.dumps({"finished": "2026-11-27T08:00:00"}))
    taken = reproduction.take(tmp_path, {})
    assert taken["k"]["study"] == "full_small"
    assert taken["k"]["values"] == [16, 16]
    record = {"k": {"study": "full", "values": [80.0]}}
    assert reproduction.take(tmp_path, record) == record
    short.rename(tmp_path / "full")
    assert reproduction.take(tmp_path, taken)["k"]["study"] == "full"


def test_ratios_between_networks_take_opposite_ends_of_their_brackets(monkeypatch):
    def group(name, *lower):
        lower = np.array(lower)[None, :, None]
        sides = lower, 2 * lower
        point = {"optimizer": name}
        return SimpleNamespace(point=point, width=np.array([256]), sides=sides, study="")

    monkeypatch.setattr(measures.ladder, "bracket", lambda group, norm: group.sides)
    monkeypatch.setattr(measures, "values", lambda group, name: group.sides[0])
    noisy, other = group("sgd", [1.0, 2.0], [3.0, 4.0]), group("adam", [6.0, 10.0], [0.0, 0.0])
    monkeypatch.setattr(measures, "all_groups", lambda *_: [noisy])
    assert measures.noise_effect("", "mlp")("").bracket == pytest.approx((4 / 4, 6 / 1))
    monkeypatch.setattr(measures, "all_groups", lambda *_: [noisy, other])
    found = measures.between_points("", "optimizer", "adam", "sgd", width=256)("")
    assert found.bracket == pytest.approx((10 / 4, 12 / 1))


def at_points(monkeypatch, shown):
    """Groups at ``axis`` values with an array of every curve by its name, (W, N, E, S)."""
    found = [
        SimpleNamespace(point={"cap": cap, "other": 1}, width=np.array([256]), study="", shown=own)
        for cap, own in shown.items()
    ]
    found.append(SimpleNamespace(point={"cap": 1.0, "other": 2}, width=np.array([256]), study=""))
    monkeypatch.setattr(measures, "all_groups", lambda *_: found[::-1])
    monkeypatch.setattr(
        measures, "values", lambda group, _: np.array(group.shown)[None, None, None]
    )


def test_the_least_loss_is_inside_where_intervals_are_apart(monkeypatch):
    taken = measures.best_is_inside("cap", other=1)
    at_points(monkeypatch, {0.0: [2.0, 2.1, 1.9], 1.0: [1.0, 1.1, 1.2], 2.0: [3.0, 3.1, 3.2]})
    assert taken("").holds is True
    assert taken("").note.startswith("test loss at 0: 1.99")
    at_points(monkeypatch, {0.0: [2.0, 2.1, 1.9], 1.0: [1.0, 1.1, 3.2], 2.0: [3.0, 3.1, 3.2]})
    assert taken("").holds is False
    at_points(monkeypatch, {0.0: [0.2, 0.21, 0.19], 1.0: [1.0, 1.1, 1.2]})
    assert taken("").holds is False


def test_a_product_above_the_caps_square_is_told(monkeypatch):
    taken = measures.below_caps("cap", other=1)
    at_points(monkeypatch, {2.0: [3.0, 4.0], 0.5: [0.25, 0.2]})
    assert taken("") == Measured([], None, True, "cap 0.5: 1 of it, cap 2: 1 of it")
    at_points(monkeypatch, {2.0: [3.0, 4.0], 0.5: [0.251, 0.2]})
    assert taken("").holds is False


def test_one_point_of_an_axis_and_softmax_over_logits(tmp_path):
    bounds = (
        ("lower_jacobian", "lower", "l2", "train", 0.8),
        ("lower_jacobian", "lower", "l2_softmax", "train", 0.2),
        ("upper_layer_product", "upper", "l2", "", 2.0),
        ("upper_layer_product", "upper", "l2_softmax", "", 1.0),
    )
    rows = synthetic_study.make(bounds=bounds, seeds=SEEDS, scatter=0, point={"kind": "b"})
    table.write(tmp_path / "table.parquet", rows)
    found = measures.at(measures.LOWER, kind="b")(tmp_path)
    assert found.values == pytest.approx([0.8 * 40 * synthetic_study.hump(128, 16)] * 2)
    with pytest.raises(ValueError, match="values to unpack"):
        measures.at(measures.LOWER, kind="a")(tmp_path)
    for side, value in (("lower", 0.25), ("upper", 0.5)):
        found = measures.softmax(side)(tmp_path)
        assert found.values == pytest.approx([value] * 2)
        assert found.bracket == pytest.approx((0.2 / 2.0, 1.0 / 0.8))


def test_the_table_of_experiments_says_which_studies_no_record_is_of():
    records = {"k": {"study": "ks_toy"}}
    rows = {cells[0]: cells for cells in reproduction.tables(records)["coverage"]["rows"]}
    assert rows["E8"][3] == ""
    assert rows["E26"][3] == "a run of `ks_optimizers`, `ks_optimizers_small`"
    assert rows["E30"][3].endswith("; a run of `ks_dropout`, `ks_dropout_resnet_small`")


def test_the_note_tells_the_largest_slope_of_all_starts(tmp_path):
    """A curve that is 1, 2, 2, 4, 16 at 0, 1, 10, 100, 1000: steeper the later the start."""
    rows = synthetic_study.make(epochs=EPOCHS, seeds=SEEDS, scatter=0).to_pandas()
    rows["value"] = (
        rows["epoch"].map(dict(zip(EPOCHS, (1, 2, 2, 4, 16), strict=True))).astype(float)
    )
    columns = {name: rows[name].to_numpy() for name in rows}
    table.write(tmp_path / "table.parquet", table.from_columns(len(rows), **columns))
    found = measures.exponent(measures.UPPER, "epoch", start=1, starts_from=1)(tmp_path)
    steepest = np.polyfit(np.log10([10, 100, 1000]), np.log10([2, 4, 16]), 1)[0]
    assert found.note == f"from any start, epoch 1 on, at most {steepest:.3g}"

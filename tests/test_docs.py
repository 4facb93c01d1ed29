"""Tables and numbers of the docs are those that results gave; links lead somewhere."""

import json
import re
import sys
from pathlib import Path

import docs_numbers
import docs_sources
import numpy as np
import pandas as pd
import pytest
import synthetic_study
import yaml

from lipdescent.storage import table

ROOT = Path(__file__).parents[1]
PAGES = docs_numbers.pages()
SOURCES = sorted(docs_numbers.NUMBERS.glob("*.json"))
ALL = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "results/README.md"]
# Tables that define and explain, by the start of their header; no result is in them.
EXPLAIN = ("to", "name", "name in `bounds:`", "studies", "bound", "constraint", "layer",
           "room", "column", "quantity", "What", "What happened",
           "experiment of the paper")  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_docs_say_what_is_stored(page):
    text = page.read_text()
    assert docs_numbers.filled(text) == text, "make docs-numbers writes it"
    found = len(docs_numbers.MARKED.findall(text))
    assert text.count("<!-- numbers:") == text.count("<!-- end -->") == found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_of_numbers_comes_from_a_command(page):
    outside = docs_numbers.MARKED.sub("", page.read_text())
    for header in re.findall(r"^\|(.*)\|\n\|[-|: ]+\|\n", outside, re.MULTILINE):
        first = header.split("|")[0].strip()
        assert first in EXPLAIN, f"{page.name}: a table typed by hand: {header}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_number_says_where_it_is_from_and_is_used(source):
    stored = json.loads(source.read_text())
    for key in ("command", "date", "machine", "repetitions"):
        assert stored[key], key
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", stored["date"])
    used = {m[2] for page in PAGES for m in docs_numbers.MARKED.findall(page.read_text())
            if m[1] == source.stem}  # fmt: skip
    assert used == set(stored["texts"])
    for text in stored["texts"].values():
        if isinstance(text, dict) and "rows" in text:
            assert {len(row) for row in text["rows"]} == {len(text["header"])}


def test_a_number_changed_by_hand_is_noticed(tmp_path, monkeypatch):
    page = ROOT / "docs/bounds.md"
    block = next(m for m in docs_numbers.MARKED.finditer(page.read_text()) if "one_hidden" in m[0])
    edited = page.read_text().replace(block[0], block[1] + "7" + block[5])
    assert docs_numbers.filled(edited) == page.read_text()
    (tmp_path / "docs").mkdir()
    for path in PAGES:
        (tmp_path / path.relative_to(ROOT)).write_text(path.read_text())
    monkeypatch.setattr(docs_numbers, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs_numbers.py", "--check"])
    with pytest.raises(SystemExit) as done:
        docs_numbers.main()
    assert not done.value.code
    (tmp_path / "docs/bounds.md").write_text(edited)
    with pytest.raises(SystemExit, match=r"bounds\.md: make docs-numbers"):
        docs_numbers.main()


def test_an_unknown_number_is_named():
    with pytest.raises(
        ValueError, match=r"no nothing\.json in docs/numbers; there are: any_forward_small, bounds"
    ):
        docs_numbers.text_of("nothing", "x")
    with pytest.raises(ValueError, match=r"stacking has no 'x'; it has: speed, readme"):
        docs_numbers.text_of("stacking", "x")


def test_the_sizes_quoted_are_those_of_the_default_study():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    grid = {key: len(values) for key, values in config["grid"].items()}
    texts = json.loads((docs_numbers.NUMBERS / "default.json").read_text())["texts"]
    networks = grid["width"] * grid["label_noise"] * grid["seed"]
    assert texts["networks"] == f"{networks:,}"
    assert texts["checkpoints"] == f"{networks * grid['epoch']:,}"
    assert texts["figures"] == str(len(config["figures"]))
    assert texts["measurements"] == str(1 + len(config["bounds"]))


def test_two_runs_agree_where_their_intervals_meet():
    stored = {"a": [2.0, 1.5, 2.5], "b": [1.0, 0.9, 1.1], "c": [1.0, 1.0, 1.0]}
    fresh = {"a": [3.0, 2.4, 3.6], "b": [1.3, 1.2, 1.4], "d": [1.0, 1.0, 1.0]}
    found = docs_numbers.disagreements(stored, fresh)
    assert [line.split(":")[0] for line in found] == ["b", "c", "d"]


def test_means_of_other_seeds_agree_and_of_another_study_do_not(tmp_path):
    """The study's made-up truth, drawn twice with other seeds, and with a peak elsewhere."""
    for name, seeds, growth in (("a", range(6), 1), ("b", range(6, 12), 1), ("c", range(6), 4)):
        (tmp_path / name).mkdir()
        rows = synthetic_study.make(seeds=tuple(seeds), growth=growth, scatter=0.1).to_pandas()
        noise = np.random.default_rng(seeds[0]).normal(size=len(rows))
        rows["value"] *= np.exp(0.1 * noise)
        columns = {column: rows[column].to_numpy() for column in rows}
        table.write(tmp_path / name / "table.parquet", table.from_columns(len(rows), **columns))
    first, again, other = (docs_sources.means(tmp_path / name) for name in "abc")
    assert docs_numbers.disagreements(first, again) == []
    apart = docs_numbers.disagreements(first, other)
    assert any("best lower, l2, width 128, 40 %" in line for line in apart)
    assert not any("test loss" in line for line in apart)


def test_bounds_of_a_table_are_rounded_outwards(tmp_path):
    (tmp_path / "experiments").mkdir()
    rows = [
        {"width": 8, "depth": 1, "training": "plain", "accuracy": 0.5, "norm": norm,
         "logit": logit, "quantity": quantity, "value": value * share, "seconds": 1.0}
        for norm in ("linf", "l2")
        for logit, share in (("all", 1.0), ("0", 0.25), ("1", 0.75))
        for quantity, value in (("lower_jacobian", 1.99999), ("upper_geolip", 2.00001),
                                ("upper_lipsdp", 2.00001), ("upper_layer_product", 30.0))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "experiments/geolip.csv")
    found = docs_sources.geolip(tmp_path)
    assert found["linf"]["rows"] == [["8", "plain", "0.500", "1.999", "", "2.001", "", "30"]]
    assert found["l2"]["rows"] == [["8", "plain", "1.999", "", "2.001", "", "30"]]
    assert found["l2_logits"]["rows"] == [["8", "plain", "0.9999", "", "1.001", "", "15"]]
    assert found["linf_seconds"]["rows"] == [["8", "plain", "1", "", "1", "", "1"]]


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            names = {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in names, f"{page.name}: {target}"


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_a_link_named_after_a_page_leads_to_it(page):
    """``[temperature](two_points.md)`` says one page and opens another."""
    pages = {path.stem.replace("_", " ") for path in (ROOT / "docs").glob("*.md")}
    for name, target in re.findall(r"\[([^]]+)\]\(([^)#\s]+\.md)\)", page.read_text()):
        if name.replace("_", " ") in pages:
            assert name.replace("_", " ") == Path(target).stem.replace("_", " ")


@pytest.mark.parametrize("study", ["divergence", "two_points"])
def test_closed_forms_are_where_the_link_says(study):
    """The two points' logarithm has a page of its own."""
    assert "e^W + W = t + 1" in (ROOT / "docs/two_points.md").read_text()
    assert "(temperature.md)" not in (ROOT / f"docs/{study}.md").read_text()


def test_a_check_that_finds_nothing_ends_well(monkeypatch):
    monkeypatch.setattr("sys.argv", ["docs_numbers.py", "--check"])
    with pytest.raises(SystemExit) as end:
        docs_numbers.main()
    assert end.value.code == 0
    means = json.loads((docs_numbers.NUMBERS / "default.json").read_text())["means"]
    monkeypatch.setattr("docs_sources.means", lambda folder: means)
    monkeypatch.setattr("sys.argv", ["docs_numbers.py", "--agree", "default"])
    with pytest.raises(SystemExit) as end:
        docs_numbers.main()
    assert end.value.code == 0  # a text, even an empty one, is a failure
    monkeypatch.setattr("docs_sources.means", lambda folder: {})
    with pytest.raises(SystemExit, match="only one run has it"):
        docs_numbers.main()

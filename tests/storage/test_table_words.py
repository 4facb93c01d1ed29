"""What is said of the table: everything that is measured has a word, in every place the same."""

import ast
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic_study

import lipdescent
from lipdescent.measuring.kinds import ensemble
from lipdescent.plugins import lookup
from lipdescent.storage import table, table_columns, table_words

ROOT = Path(__file__).parents[2]


def measured():
    """Names of quantities in the code, as far as they are written out."""
    found = set(ensemble.NAMES)
    for room in ("bounds", "measuring/kinds", "robustness"):
        for path in (lookup.LIBRARY / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Measurement":
                    match node.args[0]:
                        case ast.Constant(value=str(name)):
                            found.add(name)
                        case ast.JoinedStr(values=[ast.Constant(value=start), *_]):
                            found.add(f"{start}mean")
    return sorted(found)


@pytest.mark.parametrize("name", measured())
def test_every_quantity_has_a_meaning(name):
    assert table_words.describe(name).meaning


def test_names_of_a_further_set_of_points_and_of_levels():
    assert table_words.describe("lower_jacobian@gaussian") == table_words.describe("lower_jacobian")
    assert "mean operator norm" in table_words.describe("jacobian_norm_mean@grid").meaning
    assert "PGD" in table_words.describe("pgd_accuracy@0.5").meaning
    with pytest.raises(KeyError, match="'estimate_zero'"):
        table_words.describe("estimate_zero")


def test_the_columns_are_those_of_the_table():
    assert list(table_words.COLUMNS) == list(table_columns.NAMES)


def test_the_page_is_what_the_command_writes():
    page = (ROOT / "docs/table.md").read_text()
    assert table_words.filled(page) == page, "say: make table-words"


def test_the_fields_of_the_file_say_what_they_are(tmp_path):
    made = synthetic_study.make(point={"depth": 2})
    axes = table.axes(made)
    words = table_words.document(axes, ["test_loss"])
    parquet, csv = tmp_path / "table.parquet", tmp_path / "table.csv"
    table.gather([made], parquet=parquet, csv=csv, axes=axes, words=words["columns"])
    found = pq.read_schema(parquet)
    for name in found.names:
        told = {k.decode(): v.decode() for k, v in found.field(name).metadata.items()}
        assert told.items() >= words["columns"][name].items()
    assert table.read(parquet).equals(made.unify_dictionaries())
    assert json.loads(json.dumps(words))["quantities"]["test_loss"]["meaning"]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A study of the name that the page's examples read, in the current folder."""
    folder = tmp_path / "results/default"
    folder.mkdir(parents=True)
    made = synthetic_study.make()
    names = [*made.column_names]
    study = made.to_pandas().assign(study="default")
    columns = {name: study[name].tolist() for name in names}
    table.gather(
        [table.from_columns(len(study), **columns)],
        parquet=folder / "table.parquet",
        csv=folder / "table.csv",
    )
    monkeypatch.chdir(tmp_path)
    return study


def examples(language):
    page = (ROOT / "docs/table.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_examples_of_the_page_run(results, capsys):
    blocks = examples("python")
    assert len(blocks) == 3
    for block in blocks[:2]:
        exec(compile(block, "docs/table.md", "exec"), {})
    assert "Series(quantity=" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="no R (apt-get install r-base-core)")
def test_the_example_in_r_gives_the_means_of_pandas(results):
    (block,) = examples("r")
    assert len(block.splitlines()) <= 10
    printed = subprocess.run(
        ["Rscript", "-e", f"options(digits = 15)\n{block}"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    found = pd.read_csv(io.StringIO(printed), sep=r"\s+").set_index(["width", "label_noise"])
    last = results[results["epoch"] == results["epoch"].max()]
    upper = last[(last["direction"] == "upper") & (last["norm"] == "l2")]
    best = upper.groupby(["width", "label_noise", "seed"])["value"].min()
    loss = last[last["quantity"] == "test_loss"].groupby(["width", "label_noise"])["value"].mean()
    for column, wanted in (
        ("value.loss", loss),
        ("value.upper", best.groupby(["width", "label_noise"]).mean()),
    ):
        assert len(found) == len(wanted)
        np.testing.assert_allclose(found[column].loc[wanted.index], wanted, rtol=1e-12)


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"table\.parquet: no table there"):
        lipdescent.load(tmp_path)

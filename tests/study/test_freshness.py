"""Stamps in files of every kind, recipes, and which files of a study are stale before any job."""

import contextlib
import copy
import os
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from configurations import checked
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lipdescent import datasets
from lipdescent.figures import _style as style
from lipdescent.storage import checkpoints, stamped_parquet, stamps, table
from lipdescent.storage.stamp_differences import differences
from lipdescent.study import config, job_stamps
from lipdescent.study.freshness import Freshness
from lipdescent.study.recipes import Recipes
from lipdescent.study.runs import record_plan

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
FEW = {"width": [2, 5], "label_noise": [0, 0.2], "seed": [0, 1], "epoch": [0, 1, 3]}
CERTIFICATES = {"upper": ["upper_lipsdp"], "radii": {"l2": [0.1]}}


def prepared(**changes):
    """The default study, small and with certificates, with some keys (a.b) changed."""
    study = copy.deepcopy(DEFAULT)
    study |= {"study": "s", "device": "cpu", "certificates": CERTIFICATES, "experiments": {}}
    study["grid"] |= FEW
    study["figures"], study["comparisons"] = ["bound_gap"], ["over_width"]
    for key, value in changes.items():
        *parents, last = key.split("/")
        section = study
        for name in parents:
            section = section[name]
        section[last] = value
    return config.prepare(study, schema=SCHEMA, figures=["bound_gap"], comparisons=["over_width"])


def all_recipes(study):
    """Every recipe of what a study publishes, inputs first."""
    known = Recipes(study)
    found = {}

    def add(recipe):
        for one in recipe.inputs:
            add(one)
        found[recipe.path] = recipe

    for recipe in (
        known.figure(dataset="mnist1d", architecture="mlp", figure="bound_gap"),
        known.comparison(dataset="mnist1d", comparison="over_width"),
        known.findings(),
        known.provenance(),
        known.verify(),
    ):
        add(recipe)
    return list(found.values())


def made_by(recipe, content=""):
    """The stamp that a job of this recipe leaves, by the files that lie there."""
    stamp = recipe.stamp() | {"content": content or recipe.recipe, "by": {"threads": 1}}
    for name, short in stamp["inputs"].items():
        short["content"] = stamps.read(f"results/s/{name}")["content"]
    return stamp


def write(path, stamp):
    """A file of each kind, as the jobs write it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    match Path(path).suffix:
        case ".npz":
            zeros = np.zeros((1, 2), np.float32), np.zeros(1, np.int64)
            datasets.Dataset(*zeros, *zeros, 2).save(path, stamp)
        case ".safetensors":
            checkpoints.save_atomically(path, {}, {"made": stamps.dumps(stamp)})
        case ".parquet":
            text = {"made": stamps.dumps(stamp)}
            pa.parquet.write_table(pa.table({"x": [1]}).replace_schema_metadata(text), path)
        case ".json":
            Path(path).write_text(stamps.document({"x": 0.5}, stamp))
        case ".png":
            about = PngInfo()
            about.add_text("Comment", stamps.as_text(stamp))
            Image.new("1", (1, 1)).save(path, pnginfo=about)
        case _:
            text = "before " + stamps.as_text(stamp) + " behind "
            Path(path).write_text(text + stamps.seal(text.encode()))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Every file of a study."""
    folder = tmp_path_factory.mktemp("template")
    with contextlib.chdir(folder):
        study = prepared()
        record_plan(study)
        for recipe in all_recipes(study):
            stamp = made_by(recipe)
            for path in reversed(recipe.outputs):
                write(path, stamp)
                if path.endswith(".csv"):
                    stamp = stamps.with_companion(stamp, path, Path(path))
    return study, folder


@pytest.fixture
def finished(template, tmp_path, monkeypatch):
    """A study in a folder of its own."""
    study, folder = template
    shutil.copytree(folder / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return study


def stale(study):
    """Paths below the study's folder of everything that is stale, and what was said."""
    said = []
    freshness = Freshness(said.append)
    found = {path for recipe in all_recipes(study) for path in freshness.stale(recipe)}
    return {stamps.below(path) for path in found}, said


def rules(study, paths):
    by_path = {stamps.below(p): r.rule for r in all_recipes(study) for p in r.outputs}
    return {by_path[path] for path in paths}


def test_a_finished_study_is_fresh(finished):
    assert stale(finished) == (set(), [])


def test_every_kind_of_file_gives_its_stamp_back(tmp_path):
    stamp = {"rule": "r", "recipe": "1", "asked": {"text": "ü -- (\\)"}, "content": "2"}
    array = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    data = datasets.Dataset(*array, *array, 2)
    data.save(tmp_path / "d.npz", stamp)
    seed, stopped, diverged = (checkpoints.empty_epochs(1) for _ in range(3))
    state = {"w": torch.ones(1, 1, 2)}
    saved = checkpoints.Checkpoints(
        state, torch.tensor([0]), torch.zeros(1), seed, stopped, diverged
    )
    checkpoints.write(tmp_path / "c.safetensors", saved, stamp)
    stamped_parquet.write(tmp_path / "t.parquet", pa.table({"x": [1.0]}), stamp)
    figure, _ = style.new_figure(1, 1, height=2)
    style.save(figure, *(tmp_path / f"f.{kind}" for kind in ("pdf", "png", "svg")), made=stamp)
    for path in tmp_path.iterdir():
        found = stamps.read(path)
        assert (found["asked"], found["rule"]) == (stamp["asked"], "r"), path
    assert stamps.read(tmp_path / "d.npz")["content"] == data.checksum()
    again = datasets.read(tmp_path / "d.npz")
    assert again.checksum() == data.checksum()
    other = pa.table({"x": [2.0]})
    stamped_parquet.write(tmp_path / "u.parquet", other, stamp)
    contents = {stamps.read(tmp_path / f"{n}.parquet")["content"] for n in "tu"}
    assert len(contents) == 2


@pytest.mark.parametrize(
    "suffix", [".pdf", ".png", ".svg", ".md", ".html", ".json", ".safetensors"]
)
def test_a_file_that_was_cut_or_altered_has_no_stamp(tmp_path, suffix):
    """Of a figure, a page and a summary every byte; of checkpoints the end, when they are read."""
    path, stamp = tmp_path / f"x{suffix}", {"rule": "r", "recipe": "1", "inputs": {}}
    if suffix in (".pdf", ".png", ".svg"):
        figure, _ = style.new_figure(1, 1, height=1)
        style.save(figure, tmp_path / f"x{suffix}", made=stamp)
    elif suffix == ".safetensors":
        checkpoints.save_atomically(path, {"w": torch.ones(300)}, {"made": stamps.dumps(stamp)})
    else:
        write(path, stamp)
    whole, draws = path.read_bytes(), random.Random(2)
    assert stamps.read(path)["recipe"] == "1"
    for size in (len(whole) - 2, len(whole) - 30, len(whole) // 2):
        path.write_bytes(whole[:size])
        assert stamps.read(path) is None, size
    for _ in range(0 if suffix == ".safetensors" else 40):
        altered = bytearray(whole)
        altered[draws.randrange(len(whole.rstrip()))] ^= 1 << draws.randrange(7)
        path.write_bytes(altered)
        # White space around a number of a JSON file, and the end of a comment, tell nothing.
        found = stamps.read(path)
        assert found is None or (
            suffix in (".json", ".svg", ".html", ".md") and found["recipe"] == "1"
        )


def test_a_number_that_was_altered_in_a_summary_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    write(path, {"rule": "r", "recipe": "1", "inputs": {}})
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert stamps.read(path) is None


def test_a_csv_that_was_not_written_with_its_table_is_stale(finished):
    csv = Path("results/s/table.csv")
    before = csv.read_text()
    csv.write_text(before.replace("before", "other"))
    found, said = stale(finished)
    assert rules(finished, found) == {"table"}
    assert {"table.csv", "table.parquet"} <= found
    assert said[0].startswith("table: table.csv is not what was written with results/s/table.par")
    csv.write_text(before)
    assert stale(finished) == (set(), [])


def test_a_gathered_table_knows_its_csv(tmp_path):
    made = {"rule": "table", "recipe": "1", "inputs": {}, "content": "2"}
    names = {
        name: "x" for name in table.COLUMNS.names if table.COLUMNS.field(name).type == table.TEXT
    }
    rows = table.from_columns(
        1, **names, width=1, num_parameters=1, label_noise=0.0, seed=0, epoch=0, value=1.0
    )
    parquet, csv = tmp_path / "table.parquet", tmp_path / "table.csv"
    assert table.gather([rows], parquet=parquet, csv=csv, made=made) == 1
    stamp = stamps.read(parquet)
    assert (stamp["recipe"], stamp["content"]) == ("1", "2")
    assert stamps.is_companion(csv, stamp)
    csv.write_text(csv.read_text().replace("1", "2"))
    assert not stamps.is_companion(csv, stamp)
    assert table.read(parquet).equals(rows)


@pytest.mark.parametrize("name", ["results", "mlp"])
def test_inputs_have_places_of_their_own_whatever_they_are_called(name):
    """A study, a data set or an architecture may be called ``results`` as well."""
    places = {
        stamps.below(f"results/{name}/measurements/{name}/{name}/width={w}/seeds=0-1/m.parquet")
        for w in (4, 8)
    }
    assert len(places) == 2
    assert stamps.below("/some/results/s/table.parquet") == "table.parquet"


TRAINED = {"train", "measure", "table", "figure", "comparison", "findings", "provenance", "verify"}
PUBLISHED = {"figure", "comparison", "findings"}


@pytest.mark.parametrize(
    ("change", "again", "said"),
    [
        ({"training/learning_rate": 0.5}, TRAINED,
         "train: made with training.learning_rate = 0.02, wanted is 0.5"),
        ({"training/loss": "hinge"}, TRAINED, "losses/hinge.py used now and not then"),
        ({"training/schedule": "constant"}, TRAINED, "training.schedule = cosine, wanted is const"),
        ({"noise_maker": "pair_swap"}, TRAINED, "noise_maker = uniform_wrong, wanted is pair_swap"),
        ({"noise_seed": 3}, TRAINED, "noise_seed = None, wanted is 3"),
        ({"grid/epoch": [0, 1, 3, 9]}, TRAINED, "epochs = [0, 1, 3], wanted is [0, 1, 3, 9]"),
        ({"grid/label_noise": [0, 0.3]}, TRAINED, "label_noise = [0, 0.2], wanted is [0, 0.3]"),
        ({"architectures/mlp/depth": 3}, TRAINED, "build_options.depth = 2, wanted is 3"),
        ({"datasets/mnist1d/num_train": 500}, TRAINED | {"dataset"},
         "dataset: made with options.num_train = 4000, wanted is 500"),
        ({"bounds/lower_ascent/norms": ["linf"]}, TRAINED - {"train"},
         "measure: made with options.norms = ['l2'], wanted is ['linf']"),
        ({"statistics/confidence": 0.9}, PUBLISHED | {"provenance"},
         "statistics.confidence = 0.95, wanted is 0.9"),
        ({"execution/threads": 2}, {"provenance"}, "config.execution.threads = 1, wanted is 2"),
    ],
)  # fmt: skip
def test_a_changed_key_makes_what_depends_on_it_stale_and_names_both_values(
    finished, change, again, said
):
    study = prepared(**change)
    found, lines = stale(study)
    assert rules(study, found) == again
    assert any(said in line for line in lines), lines


def test_added_widths_seeds_and_bounds_leave_what_is_there(finished):
    study = prepared(**{"grid/width": [2, 3, 5], "grid/seed": [0, 1, 2]})
    found, _ = stale(study)
    assert rules(study, found) == TRAINED - {"train", "measure"}
    study = prepared(**{"bounds/upper_combettes_pesquet": {"norms": ["l2"]}})
    assert rules(study, stale(study)[0]) == TRAINED - {"train", "measure"}


def test_what_was_made_by_an_earlier_version_is_stale(finished):
    for recipe in all_recipes(finished):
        if recipe.rule == "train":
            for path in recipe.outputs:
                write(path, {})
    found, said = stale(finished)
    assert rules(finished, found) == {"train"}
    assert "carries no sound record of what made it" in said[0]


def test_a_renamed_study_keeps_its_networks_and_measures_anew(finished):
    shutil.copytree("results/s", "results/t")
    study = prepared(study="t")
    found, said = stale(study)
    assert rules(study, found) == TRAINED - {"train"}
    assert "measure: made with study = s, wanted is t" in said[0]


def test_one_file_swapped_for_another_runs_is_named(finished):
    wide, narrow = (
        f"results/s/checkpoints/mnist1d/mlp/width={w}/seeds=0-1.safetensors" for w in (5, 2)
    )
    shutil.copy(narrow, wide)
    found, said = stale(finished)
    assert "checkpoints/mnist1d/mlp/width=5/seeds=0-1.safetensors" in found
    assert not any("width=2" in path for path in found)
    assert "run.width = 2, wanted is 5" in said[0]


def test_the_same_recipe_with_other_numbers_is_not_mixed(finished):
    """Trained again elsewhere, on another device for instance, and killed before measuring."""
    (trained,) = (r for r in all_recipes(finished) if r.rule == "train" and "width=5" in r.path)
    write(trained.path, made_by(trained, content="of another machine"))
    found, said = stale(finished)
    # What is made from these Snakemake makes anew with them.
    assert rules(finished, found) == {"measure", "verify"}
    assert not any("width=2" in path for path in found)
    assert "now they are of another machine" in said[0]


def test_touching_makes_nothing_stale_and_puts_the_times_in_order(finished):
    recipes = all_recipes(finished)
    draw = random.Random(0)
    paths = [path for recipe in recipes for path in recipe.outputs]
    for path in paths:
        os.utime(path, (draw.randrange(10**9),) * 2)
    assert stale(finished) == (set(), [])
    for recipe in recipes:
        newest = max((os.stat(one.path).st_mtime_ns for one in recipe.inputs), default=0)
        assert all(os.stat(path).st_mtime_ns >= newest for path in recipe.outputs)


def test_missing_checkpoints_make_no_measurement_stale(finished):
    for recipe in all_recipes(finished):
        if recipe.rule == "train":
            for path in recipe.outputs:
                os.unlink(path)
    assert rules(finished, stale(finished)[0]) == set()
    study = prepared(**{"training/momentum": 0.5})
    found, said = stale(study)
    assert "measure" in rules(study, found)
    assert any("training.momentum = 0.9, wanted is 0.5" in line for line in said)


def test_a_changed_file_of_code_is_named(finished):
    def edited(*files):
        versions = Recipes(finished).code(*files)
        return versions | (
            {name: "edited"}
            if (name := "lipdescent/training/stack_training.py") in versions
            else {}
        )

    said = []
    known = Recipes(finished, code=edited)
    assert Freshness(said.append).stale(known.findings())
    assert said[0].startswith(
        "train: scripts/lipdescent/training/stack_training.py changed. To make anew: results/s/"
    )
    assert len(said) == 1


# Jobs


def job(recipe, wanted=None):
    """What Snakemake gives a script."""
    params = SimpleNamespace(code=recipe.code, recipe=(wanted or recipe).recipe)
    params.items = {**recipe.asked, "code": 0, "recipe": 0}.items
    where = {"dataset": "mnist1d", "architecture": "mlp", "width": "5", "seeds": "0-1"}
    return SimpleNamespace(
        rule=recipe.rule, params=params, input=[one.path for one in recipe.inputs], threads=3,
        output=list(recipe.outputs), wildcards={"study": "s"} | where, config=prepared(),
    )  # fmt: skip


def test_a_job_stamps_what_it_was_asked_for(finished):
    recipe = Recipes(finished).train(dataset="mnist1d", architecture="mlp", width="5", seeds="0-1")
    stamp = job_stamps.of(job(recipe), device="cpu")
    assert stamp["recipe"] == recipe.recipe
    assert stamp["by"] == {"threads": 3, "device": "cpu"}
    assert differences(stamp, recipe.stamp()) == []


def test_a_rule_gives_its_jobs_all_that_their_recipes_ask_for(tmp_path):
    """Else a job's stamp is another than the one that is wanted, and no job of it ever ends."""
    given = {}
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for key, rule, same in re.findall(r'(\w+)=asked\("(\w+)", "(\w+)"\)', path.read_text()):
            assert key == same
            given.setdefault(rule, set()).add(key)
    np.save(tmp_path / "points.npy", np.zeros((2, 40)))
    saved = {"points": "saved", "points_options": {"path": str(tmp_path / "points.npy")}}
    study = {"bounds/lower_pairs": saved, "quantities": {"curvature": {}}}
    asked = all_recipes(prepared(**study))
    known = Recipes(prepared(experiments={"two_points": {}}))
    name = next(iter(known.config["experiments"]))
    asked += [known.experiment(experiment=name), known.experiment_part(experiment=name, part="0")]
    asked += [known.experiment_figure(experiment=name)]
    pages = Recipes(prepared())
    asked += [pages.explorer(), pages.start_page()]
    (tmp_path / "0.pt").touch()
    one = {"label_noise": [0], "width": [5], "seed": [0], "epoch": [0]}
    files = {"files": f"{tmp_path}/{{epoch}}.pt"}
    elsewhere = {"checkpoints": files, "grid": DEFAULT["grid"] | one}
    read = Recipes(checked(copy.deepcopy(DEFAULT) | elsewhere))
    asked += [read.read(dataset="mnist1d", architecture="mlp", width="5", seeds="0-0")]
    assert {one.rule for one in asked} >= given.keys()
    for one in asked:
        assert set(one.asked) == given.get(one.rule, set()), one.path


def test_a_job_refuses_inputs_of_another_configuration_and_names_both_values(finished):
    data = Recipes(prepared(**{"datasets/mnist1d/num_train": 7})).dataset(dataset="mnist1d")
    write(data.path, made_by(data))
    recipe = Recipes(finished).train(dataset="mnist1d", architecture="mlp", width="5", seeds="0-1")
    with pytest.raises(stamps.OtherRecipe, match=r"mnist1d\.npz: .*num_train = 7, wanted is 4000"):
        job_stamps.of(job(recipe))
    Path(data.path).write_bytes(b"cut")
    with pytest.raises(stamps.OtherRecipe, match=r"mnist1d\.npz carries no sound record"):
        job_stamps.of(job(recipe))


def test_a_job_refuses_code_that_was_edited_after_the_start(finished):
    """Which version a job has imported is not known then; its stamp would name the first."""
    one = job(Recipes(finished).dataset(dataset="mnist1d"))
    job_stamps.of(one)
    one.params.code = one.params.code | {"lipdescent/datasets/mnist1d.py": "of the start"}
    with pytest.raises(
        stamps.OtherRecipe, match=r"scripts/lipdescent/datasets/mnist1d\.py changed"
    ):
        job_stamps.of(one)


def test_whole_numbers_ask_for_the_same_in_either_spelling():
    assert stamps.recipe("r", {"a": 1.0, "b": (0.0, True)}, {}, {}) == stamps.recipe(
        "r", {"b": [0, True], "a": 1}, {}, {}
    )
    assert stamps.plain(True) is True
    assert stamps.recipe("r", {"a": True}, {}, {}) != stamps.recipe("r", {"a": 1}, {}, {})


@pytest.mark.parametrize("suffix", [*stamps.READERS, ".png", ".svg", ".md", ".pdf"])
def test_no_file_however_broken_ends_the_search(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    draws = random.Random(1)
    for content in (b"", b"{}", b"[1]", b"\xff" * 40, draws.randbytes(500)):
        path.write_bytes(content)
        assert stamps.read(path) is None
    assert stamps.read(tmp_path) is None


def test_bias_and_variance_rest_on_all_seeds_of_a_width_and_other_quantities_do_not():
    quantities = {"bias_variance": {}, "curvature": {"iterations": 3}}
    study = prepared(
        **{
            "grid/width": [4, 8],
            "grid/seed": [0, 1, 2],
            "execution/seeds_per_block": 2,
            "training/loss": "mean_squared_error",
            "quantities": quantities,
        }
    )
    known = Recipes(study)
    assert known.measures[:3] == ["metrics", *quantities]
    for measure, blocks in (("bias_variance", ["2-2", "0-1"]), ("curvature", ["2-2"])):
        recipe = known.measure(
            measure=measure, dataset="mnist1d", architecture="mlp", width="8", seeds="2-2"
        )
        assert recipe.asked["options"] == quantities[measure]
        assert [one.path for one in recipe.inputs if one.rule == "train"] == [
            f"results/s/checkpoints/mnist1d/mlp/width=8/seeds={seeds}.safetensors"
            for seeds in blocks
        ]


@pytest.mark.parametrize(
    ("changes", "rests"),
    [
        ({}, True),
        ({"bounds/lower_jacobian": {"norms": ["l2"], "quantiles": [0.5]}}, True),
        ({"architectures/mlp": {"module": "mlp", "depth": 1}}, False),  # no norms at all data
        ({"bounds/lower_jacobian": {"norms": ["l2"], "num_points": 100}}, False),
        ({"bounds": {"lower_ascent": {}, "upper_lipsdp": {}}}, False),
        ({"bounds/lower_ascent": {"norms": ["l2"], "points": "gaussian"}}, False),
    ],
)
def test_an_ascent_begins_where_the_norms_at_the_data_are_largest(changes, rests):
    known = Recipes(prepared(**changes))
    place = {"dataset": "mnist1d", "architecture": "mlp", "width": "2", "seeds": "0-1"}
    earlier = [
        Path(one.path).stem
        for one in known.measure(measure="lower_ascent", **place).inputs
        if one.rule == "measure"
    ]
    assert earlier == ["lower_jacobian"] * rests

"""Entries of ``bounds``: points, outputs and names, and what of them a result depends on."""

import copy
import hashlib

import configurations
import numpy as np
import pytest

from lipdescent.jobs import resources
from lipdescent.plugins import bound_entries, lookup, signatures
from lipdescent.study import bound_checks
from lipdescent.study.recipes import Recipes
from lipdescent.study.runs import runs_of
from lipdescent.study.schema import ConfigError

NOISE = {"bound": "lower_jacobian", "points": "gaussian_noise"}


def check(**bounds):
    config = copy.deepcopy(configurations.DEFAULT)
    config["bounds"] |= bounds
    return configurations.checked(config)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"near": {"bound": "lower_jacobain"}}, r"bounds\.near\.bound 'lower_jacobain'.*mean"),
        ({"near": {"bound": 3}}, r"bounds\.near\.bound = 3: allowed is a text"),
        ({"near": {}}, "unknown bounds 'near'"),
        ({"a/b": {"bound": "lower_jacobian"}}, "a/b"),
        ({"metrics": {"bound": "lower_jacobian"}}, r"bounds\.metrics.*something else"),
        ({"lower_pairs": {"bound": "lower_jacobian"}}, r"bounds\.lower_pairs.*something else"),
        ({"near": NOISE | {"points": "noise"}}, r"bounds\.near\.points 'noise'.*gaussian_noise"),
        ({"near": NOISE | {"points_options": {"radios": 1}}}, r"points_options.*radios.*radius"),
        ({"near": NOISE | {"points_options": {"radius": "a"}}}, r"radius = 'a': allowed is a"),
        ({"near": NOISE | {"points_options": {"num_copies": 0}}}, "num_copies = 0"),
        ({"near": NOISE | {"radius": 1}}, r"option of bounds\.near.*'radius'"),
        ({"lower_pairs": {"points_options": {}}}, "without points nothing reads it"),
        ({"upper_lipsdp": {"points": "data"}}, "upper_lipsdp is an upper bound, of all points"),
        ({"lower_pairs": {"points": "saved"}}, "saved needs path"),
        (
            {"lower_pairs": {"points": "saved", "points_options": {"path": "no/such.npy"}}},
            r"'no/such\.npy': there is no such file",
        ),
        ({"lower_pairs": {"outputs": ["probs"]}}, r"outputs contains 'probs'.*logits, softmax"),
        ({"lower_pairs": {"outputs": "softmax"}}, r"outputs = 'softmax': allowed is a list"),
        ({"upper_local": {"outputs": ["softmax"]}}, "upper_local is a metric"),
        ({"upper_graph": {"domain": {"box": [1, 0]}}}, r"bounds\.upper_graph.*empty"),
        ({"lower_pairs": {"domain": "sphere"}}, r"bounds\.lower_pairs.*domain sphere.*allowed"),
        ({"upper_lipsdp": {"domain": {"box": [0, 1]}}}, r"bounds\.upper_lipsdp.*'domain'"),
        ({"near": NOISE | {"norms": ["l3"]}}, "l3"),
        ({"near": {"bound": "upper_lipsdp", "norms": ["l1"]}}, r"bounds\.near\.norms.*'l1'"),
        (
            {"lower_jacobian": {"points": "pgd"}, "pgd": {"bound": "lower_jacobian"}},
            r"bounds\.pgd.*lower_jacobian@pgd, as those of bounds\.lower_jacobian",
        ),
    ],
)
def test_mistakes_are_named(bounds, message):
    with pytest.raises(ConfigError, match=message):
        check(**bounds)


def measure(config, name):
    run = runs_of(config)[0]
    place = {"dataset": run.dataset, "architecture": run.architecture, "width": str(run.width)}
    return Recipes(config).measure(measure=name, seeds="0-5", **place)


def test_the_set_of_points_is_part_of_a_recipe_and_no_other_set_is():
    recipe = measure(check(near=NOISE), "near")
    assert recipe.asked["options"] == NOISE
    assert "lipdescent/points/gaussian_noise.py" in recipe.code
    assert "lipdescent/bounds/lower_jacobian.py" in recipe.code
    assert "lipdescent/points/pgd.py" not in recipe.code
    plain = measure(check(near=NOISE), "lower_jacobian")
    assert "files" not in plain.asked
    sets = {f"lipdescent/points/{name}.py" for name in lookup.known("points")}
    assert not sets & set(plain.code)
    assert plain.recipe == measure(check(), "lower_jacobian").recipe


def test_a_saved_files_content_is_part_of_a_recipe(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, np.zeros((2, 40)))
    entry = {"points": "saved", "points_options": {"path": str(path)}}
    before = measure(check(lower_pairs=entry), "lower_pairs")
    assert measure(check(lower_pairs=entry), "lower_pairs").recipe == before.recipe
    told = before.asked["options"]["points_options"]["path_digest"]
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(told)
    assert len(told) == 32
    np.save(path, np.ones((2, 40)))
    assert measure(check(lower_pairs=entry), "lower_pairs").recipe != before.recipe
    entry["points_options"]["path_digest"] = told
    with pytest.raises(ConfigError, match=r"points_options\.path_digest = .* leave it out"):
        check(lower_pairs=entry)


@pytest.mark.parametrize("name", lookup.known("points"))
def test_every_set_of_points_with_a_file_is_told_its_digest(name):
    wanted = {f"{key}_digest" for key in signatures.paths("points", name)}
    assert wanted <= set(signatures.options("points", name)[0])


def test_more_points_take_more_time():
    def seconds(points_options):
        star = {"bound": "lower_jacobian", "points": "convex_combinations"}
        config = check(star=star | {"points_options": points_options})
        return resources.measure_seconds(config, runs_of(config)[0], name="star", count=False)

    assert seconds({"num_pairs": 100_000}) > 20 * seconds({"num_pairs": 1})


@pytest.mark.parametrize(
    ("name", "entry", "quantity"),
    [
        ("lower_pairs", {}, "lower_pairs"),
        ("lower_pairs", {"points": "grid"}, "lower_pairs@grid"),
        ("mine", {"bound": "lower_pairs"}, "lower_pairs@mine"),
        ("mine", {"bound": "lower_pairs", "points": "grid"}, "lower_pairs@mine"),
    ],
)
def test_names_in_the_table(name, entry, quantity):
    assert bound_entries.called("lower_pairs", name, entry) == quantity


def test_a_file_of_another_entry_is_refused_by_its_rows():
    """mine and yours ask for the same: their stamps are alike, their rows are not."""
    entry = {"bound": "lower_pairs"}
    config = check(mine=entry, yours=entry)
    assert measure(config, "mine").recipe == measure(config, "yours").recipe
    bound_checks.check_rows(["lower_pairs@mine"], "a/mine.parquet", config)
    bound_checks.check_rows(["test_loss"], "a/metrics.parquet", config)
    for held in ("lower_pairs@mine", "lower_pairs"):
        with pytest.raises(ValueError, match=rf"yours\.parquet: holds {held}, .* end with @yours"):
            bound_checks.check_rows([held], "a/yours.parquet", config)

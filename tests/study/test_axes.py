"""Further axes of a study: points, their configurations, what is refused, what is made anew."""

import copy

import configurations
import pytest

from lipdescent.study import axes, published, sections
from lipdescent.study.recipes import Recipes
from lipdescent.study.runs import runs_of
from lipdescent.study.schema import ConfigError

DEPTH = {"architectures.mlp.depth": [1, 2, 3]}
NUM_TRAIN = {"datasets.mnist1d.num_train": [100, 500]}
OPTIMIZER = {
    "sgd": {"training.optimizer": "sgd"},
    "adam": {"training.optimizer": "adam", "training.learning_rate": 0.001},
}
ALL = {"depth": DEPTH, "num_train": NUM_TRAIN, "optimizer": OPTIMIZER}


def checked(vary=None, /, **changes):
    config = copy.deepcopy(configurations.DEFAULT)
    config["grid"] |= {"width": [4, 8], "seed": [0, 1]}
    if vary is not None:
        config["vary"] = copy.deepcopy(vary)
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for name in parents:
            section = section[name]
        section[last] = value
    return configurations.checked(config)


@pytest.fixture(scope="module")
def varied():
    return checked(ALL)


@pytest.fixture(scope="module")
def before(varied):
    return recipes(varied)


def recipes(config):
    """Path -> recipe of all that a study makes; code plays no part."""
    made = Recipes(config, code=lambda *files: {})
    made.verify()
    found = [made.table(), *made.table().inputs]
    found += [one for measured in made.table().inputs for one in measured.inputs]
    return {one.path: one.recipe for one in found}


def test_a_study_without_axes_is_as_it_was():
    config = checked()
    assert "vary" not in config
    (run, *_) = runs_of(config)
    assert run.path == "mnist1d/mlp/width=8/seeds=0-1"
    made = Recipes(config, code=lambda *files: {})
    train = made.train(dataset="mnist1d", architecture="mlp", width="8", seeds="0-1")
    assert set(train.asked["run"]) == {"dataset", "architecture", "width", "seeds"}
    assert recipes(config) == recipes(checked({}))


def test_points_are_the_product_and_their_folders_name_them(varied):
    paths = {run.path for run in runs_of(varied)}
    assert len(paths) == 2 * 3 * 2 * 2
    assert "mnist1d/mlp+depth=2+num_train=500+optimizer=adam/width=4/seeds=0-1" in paths
    for path in paths:  # Snakemake hands wildcards to a cluster's jobs in a list with commas
        assert not set(path) & set(", '\"")
    assert {axis.name: axis.kind for axis in axes.axes(varied)} == {
        "depth": "integer",
        "num_train": "integer",
        "optimizer": "text",
    }
    files = published.files(varied)
    assert "figures/mnist1d/mlp+depth=1+num_train=100+optimizer=sgd/alignment.png" in files


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("num_train", [100, 500])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_point_is_asked_for_what_a_study_of_its_own_would_be(depth, num_train, optimizer, varied):
    """Against a configuration written out, which knows no axes."""
    point = {"depth": depth, "num_train": num_train, "optimizer": optimizer}
    made = Recipes(varied, code=lambda *files: {})
    own = {
        "architectures__mlp__depth": point["depth"],
        "datasets__mnist1d__num_train": point["num_train"],
    }
    if point["optimizer"] == "adam":
        own |= {"training__optimizer": "adam", "training__learning_rate": 0.001}
    alone = Recipes(checked(**own), code=lambda *files: {})
    (run,) = [run for run in made.runs if run.point == point and run.width == 8]
    places = {"dataset": "mnist1d", "width": "8", "seeds": "0-1"}
    here = made.train(architecture=run.variant, **places)
    there = alone.train(architecture="mlp", **places)
    assert here.asked["run"].pop("point") == point
    assert here.asked == there.asked
    (data,), (plain,) = here.inputs, there.inputs
    assert data.path.endswith(f"datasets/mnist1d+num_train={point['num_train']}.npz")
    assert data.asked["options"] == plain.asked["options"] | {"module": "mnist1d"}


@pytest.mark.parametrize(
    ("key", "value", "other"),
    [
        ("noise_maker", "pair_swap", "uniform_wrong"),
        ("noise_seed", 3, 4),
        ("training__loss", "hinge", "mean_squared_error"),
        ("training__schedule", "constant", "cosine"),
        ("architectures__mlp__module", "lipschitz_mlp", "mlp"),
        ("architectures__mlp__training", {"loss": "hinge"}, {"loss": "mean_squared_error"}),
        ("datasets__mnist1d__seed", 3, 4),
    ],
)
def test_every_job_of_a_point_has_options_and_plug_ins_of_a_study_of_its_own(key, value, other):
    """Whatever varies: networks, measurements, pictures, against a study that knows no axes."""
    usual = {"architectures__mlp": {}} if key.endswith("module") else {}
    dotted = key.replace("__", ".")
    of = {"here": {dotted: value}, "there": {dotted: other}}
    over = {"comparisons": ["over_axis"]}
    varied = Recipes(checked({"a": of}, **usual, **over), code=listed)
    alone = Recipes(checked(**usual, **{key: value}), code=listed)
    places = {"dataset": "mnist1d", "width": "8", "seeds": "0-1"}
    here, there = ({"architecture": name} for name in ("mlp+a=here", "mlp"))
    for measure in varied.measures:
        one = varied.measure(measure=measure, **places, **here)
        same = alone.measure(measure=measure, **places, **there)
        assert (one.asked, one.code) == (same.asked, same.code)
        for mine, own in zip(one.inputs, same.inputs, strict=True):
            told = [{**recipe.asked} for recipe in (mine, own)]
            for asked in told:
                asked.pop("run", None)
                asked["options"] = {**asked.get("options", {}), "module": ""}
            assert told[0] == told[1]
            assert mine.code == own.code
    drawn = {"dataset": "mnist1d", "figure": "alignment"}
    assert varied.figure(**drawn, **here).asked == alone.figure(**drawn, **there).asked
    losses = varied.comparison(dataset="mnist1d", comparison="over_axis").asked["losses"]
    assert losses["mlp+a=here"] == alone.figure(**drawn, **there).asked["loss"]


def listed(*files):
    """In place of digests: which files."""
    return dict.fromkeys(files, "")


def test_adding_a_value_computes_that_value_alone(before):
    more = ALL | {"num_train": {"datasets.mnist1d.num_train": [100, 500, 1000]}}
    after = recipes(checked(more))
    table = {path for path in before if path.endswith("table.parquet")}
    assert {path for path in before if after.get(path) != before[path]} == table
    assert all("num_train=1000" in path for path in after.keys() - before.keys())
    assert sum("checkpoints" in path for path in after.keys() - before.keys()) == 2 * 3 * 2


def test_an_ensemble_is_of_the_seeds_of_its_own_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no plan there says how seeds are divided
    config = checked(
        {"depth": DEPTH}, quantities={"ensemble": {}}, execution={"seeds_per_block": 1}
    )
    made = Recipes(config, code=listed)
    for run in made.runs:
        place = {"dataset": run.dataset, "architecture": run.variant, "width": str(run.width)}
        seed = run.seeds[0]
        found = made.measure(measure="ensemble", seeds=f"{seed}-{seed}", **place).inputs
        trained = [one.path for one in found if one.rule == "train"]
        folder = f"results/default/checkpoints/mnist1d/{run.variant}/width={run.width}"
        assert trained == [f"{folder}/seeds={s}-{s}.safetensors" for s in (seed, 1 - seed)]


def test_a_number_with_a_point_makes_nothing_of_the_integers_anew():
    before = recipes(checked({"rate": {"training.learning_rate": [1, 2]}}))
    after = recipes(checked({"rate": {"training.learning_rate": [1, 2, 0.5]}}))
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {"results/default/table.parquet"}


def test_changing_one_point_makes_what_depends_on_it_anew(before):
    other = copy.deepcopy(ALL)
    other["optimizer"]["adam"]["training.learning_rate"] = 0.002
    after = recipes(checked(other))
    changed = {path for path in before if after[path] != before[path]}
    assert all("optimizer=adam" in path or path.endswith("table.parquet") for path in changed)
    assert len(changed) == 1 + sum("optimizer=adam" in path for path in before)


def test_an_axis_of_another_network_or_data_set_is_none_of_ones_own():
    config = checked(
        {"depth": DEPTH, "num_train": NUM_TRAIN},
        grid__architecture=["mlp", "wide"],
        grid__dataset=["mnist1d", "small"],
        architectures={"mlp": {"depth": 1}, "wide": {"module": "mlp"}},
        datasets={"mnist1d": {}, "small": {"module": "mnist1d", "num_train": 50}},
    )
    found = {(run.dataset, run.variant) for run in runs_of(config)}
    assert ("small", "wide") in found
    assert ("mnist1d", "wide+num_train=500") in found
    assert ("small", "mlp+depth=3") in found
    assert len(found) == 3 * 2 + 2 + 3 + 1
    assert set(Recipes(config).data_files) == {
        "mnist1d+num_train=100", "mnist1d+num_train=500", "small",
    }  # fmt: skip


def test_data_sets_have_names_of_their_own():
    config = checked(
        grid__dataset=["few"], datasets={"few": {"module": "mnist1d", "num_train": 77}}
    )
    assert sections.data_module(config, "few") == "mnist1d"
    made = Recipes(config)
    assert "lipdescent/datasets/mnist1d.py" in made.dataset(dataset="few").code


def test_names_with_dots_are_found_whole():
    config = checked(
        {"depth": {"architectures.mlp.v2.depth": [1, 2]}},
        grid__architecture=["mlp", "mlp.v2"],
        architectures={"mlp": {}, "mlp.v2": {"module": "mlp"}},
    )
    assert {run.variant for run in runs_of(config)} == {"mlp", "mlp.v2+depth=1", "mlp.v2+depth=2"}


def test_points_named_by_numbers_are_numbers():
    named = {
        "100": {"datasets.mnist1d.num_train": 100, "training.batch_size": 50},
        "500": {"datasets.mnist1d.num_train": 500, "training.batch_size": 100},
    }
    (axis,) = axes.axes(checked({"num_train": named}))
    assert (axis.kind, list(axis.points)) == ("integer", [100, 500])


def test_defaults_of_a_mapping_that_varies_are_filled_in():
    early = {"training.stopping": {"gradient_norm": 0.1}}
    stopping = {"none": {"training.stopping": None}, "early": early}
    config = checked({"stopping": stopping})
    here = axes.at(config, {"stopping": "early"})
    assert here["training"]["stopping"] == {
        "gradient_norm": 0.1,
        "min_epochs": 0,
        "check_every": 10,
    }
    assert config["training"]["stopping"] is None


LONG = {f"p{i}{'x' * 97}": {"training.learning_rate": 0.1 + i} for i in range(2)}
OTHER = {f"q{i}{'x' * 97}": {"training.momentum": 0.1 * i} for i in range(2)}


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"depth": {}}, r"vary.depth = \{\}: allowed is a mapping whose number.* at least 1"),
        ({"depth": [1, 2]}, r"vary.depth = \[1, 2\]: allowed is a mapping"),
        ({"depth": {"architectures.mlp.depth": []}}, r"depth = \[\]: allowed is a list of at leas"),
        ({"depth": {"architectures.mlp.depth": 3}}, r"vary.depth.*= 3: .*\{KEY: \[...\]\}, or"),
        ({"depth": {"architectures.mlp.depth": [1, 2, 1]}}, r"contains '1' twice"),
        ({"depth": {"architectures.mlp.depth": [1, 1.0]}}, r"contains '1' twice"),
        ({"depth": {"architectures.mlp.depth": [1, -1]}}, r"at depth = -1: .*depth = -1: .*least"),
        ({"depth": {"architectures.mlp.detph": [1, 2]}}, r"at depth = 1: .*'detph' \(did you mean"),
        ({"d": {"architectures.mpl.depth": [1]}}, r"architectures 'mpl' \(did you mean 'mlp'"),
        ({"d": {"datasets.digits.num_train": [9]}}, r"datasets 'digits'; known: mnist1d .*grid"),
        ({"d": {"trainning.momentum": [0]}}, r"trainning.momentum may not vary; allowed are datas"),
        ({"d": {"training.momentun": [0]}}, r"at d = 0: .*'training.momentun' \(did you mean"),
        ({"study": {"training.momentum": [0, 1]}}, r"vary.study: the table has such a column"),
        ({"s": {"study": ["a", "b"]}}, "study may not vary"),
        ({"s": {"device": ["cpu", "cuda"]}}, "device may not vary"),
        ({"w": {"grid.width": [4, 8]}}, "grid.width may not vary"),
        ({"t": {"execution.threads": [1, 2]}}, "execution.threads may not vary"),
        ({"f": {"figures": ["alignment"]}}, "figures may not vary"),
        ({"t": {"training": ["a"]}}, "training may not vary"),
        ({"a b": {"training.momentum": [0]}}, r"vary = 'a b': allowed is a name of letters"),
        (
            {"a": {"training.momentum": [0, 0.5]}, "b": {"training.momentum": [0.1]}},
            r"vary.a and vary.b both set training.momentum",
        ),
        (
            {
                "a": {"x": {"training.schedule_options": {}}},
                "b": {"training.schedule_options.floor": [0.1]},
            },
            r"vary.a and vary.b set training.schedule_options and training.schedule_options.floor",
        ),
        ({"k": {"architectures.mlp.depth": [[1, 2]]}}, r"contains \[1, 2\].*what is neither has"),
        ({"k": {"noise_maker": ["pair swap"]}}, r"contains 'pair swap': allowed are letters"),
        ({"k": {"noise_maker": ["pair_swapp", "pair_swap"]}}, r"'pair_swapp' \(did you mean"),
        ({"o": {"sgd": {}, "adam": 3}}, r"vary.o.adam = 3: allowed is either"),
        ({"o": {"a": {}, "b": {}}}, r"vary.o sets no key: allowed are points of which some set"),
        ({"o": {"a": {}, "b": {"training.optimizer": "sgd"}}}, r"mlp\+o=a and mlp\+o=b ask f"),
        ({"o": {"training.loss": ["cross_entropy", "hing"]}}, r"at o = hing: .*'hing' \(did you"),
        ({"n": {"datasets.mnist1d.num_train": [5000]}}, r"at n = 5000: .* allowed are 1 to 4000"),
        ({"a": LONG, "b": OTHER}, r"is the name of a folder: allowed are at most 200"),
        (
            {
                "depth": DEPTH,
                "o": {"sgd": {}, "adam": {"training.optimizer": "adam", "training.momentum": 0.9}},
            },
            r"at o = adam: training.momentum = 0.9: only optimizer sgd has it",
        ),
        (
            {
                "o": {
                    "sgd": {},
                    "adam": {"architectures.mlp.training": {"optimizer": "adam", "momentum": 0.9}},
                }
            },
            r"at o = adam: architectures.mlp.training.momentum = 0.9: only optimizer sgd has it",
        ),
        ({"o": {"a": {}, "b": {"architectures.mlp.training": 3}}}, r"training = 3: allowed is a m"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_by_name(vary, message):
    with pytest.raises(ConfigError, match=message) as caught:
        checked(vary)
    assert str(caught.value).startswith("config: ")


def test_a_study_of_experiments_has_no_axes():
    with pytest.raises(ConfigError, match=r"vary has depth, but .*two_points.* no axes"):
        checked({"depth": DEPTH}, experiments={"two_points": {}})


def test_values_that_yaml_has_words_for_are_called_so():
    config = checked({"seed_of_noise": {"noise_seed": [None, 0]}})
    (axis,) = axes.axes(config)
    assert (axis.kind, list(axis.points)) == ("text", ["null", "0"])
    assert axes.at(config, {"seed_of_noise": "null"})["noise_seed"] is None
    assert axes.at(config, {"seed_of_noise": "0"})["noise_seed"] == 0
    bias = checked({"bias": {"architectures.mlp.bias": [True, False]}})
    assert [run.variant for run in runs_of(bias)][:2] == ["mlp+bias=true", "mlp+bias=false"]


def test_an_axis_that_a_networks_own_training_overrides_is_refused():
    with pytest.raises(ConfigError, match=r"mlp\+r=1 and mlp\+r=2 ask for the same.*precedence"):
        checked(
            {"r": {"training.learning_rate": [1, 2]}},
            architectures__mlp={"training": {"learning_rate": 0.1}},
        )


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("training__optimizer", ["sgd", "adam"], "optimizer: {training.optimizer: [sgd, adam]}"),
        ("training__learning_rate", [0.1, 0.2], "{training.learning_rate: [0.1, 0.2]}"),
        ("architectures__mlp__depth", [1, 2], "{depth: {architectures.mlp.depth: [1, 2]}}"),
        ("noise_maker", ["a", "b"], "vary: {noise_maker: {noise_maker: [a, b]}}"),
        ("datasets__mnist1d__num_train", [1, 2], "{datasets.mnist1d.num_train: [1, 2]}"),
    ],
)
def test_a_list_where_one_value_belongs_is_told_of_vary(key, value, line):
    with pytest.raises(ConfigError) as caught:
        checked(**{key: value})
    assert f"write vary: {{{line}" in str(caught.value) or line in str(caught.value)
    assert key.replace("__", ".") in str(caught.value)


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        ([{"d": {"module": "over_axis", "x": "dpeth"}}], r"axis x 'dpeth' \(did you mean 'depth'"),
        ([{"d": {"module": "over_axis", "x": "optimizer"}}], r"unknown axis x 'optimizer'"),
        ([{"d": {"module": "over_axis", "panel": "depth", "x": "depth"}}], "depth is chosen twice"),
        ([{"d": {"module": "over_axis", "at": {"depth": 7}}}], "at.depth = 7: allowed is one of"),
        ([{"d": {"module": "over_axis", "at": 7}}], r"at = 7: allowed is a mapping"),
        ([{"d": {"module": "over_axis", "y": 7}}], r"unknown option of comparisons.d .* 'y'"),
        ([{"d": {"module": "over_axis", "x": 7}}], r"comparisons.d.x = 7: allowed is a text"),
        ([{"d": {"x": "depth"}}], r"'module' is a required property"),
        ([{"d": {"module": "ovr_axis"}}], r"unknown comparisons 'ovr_axis' \(did you mean"),
        (["over_axis", {"over_axis": {"module": "over_axis"}}], r"has 'over_axis' twice"),
        (
            [{"d": {"module": "over_axis", "x": "width"}}],
            r"axis optimizer has 2 values and is neither x \(width\), colour \(depth\) nor panel",
        ),
    ],
)  # fmt: skip
def test_pictures_over_axes_that_are_not_there_are_refused(comparisons, message):
    with pytest.raises(ConfigError, match=message):
        checked(ALL, comparisons=comparisons)

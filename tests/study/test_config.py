"""Every mistake stops before any job, with the key, the value and what is allowed."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from configurations import DEFAULT, ROOT, checked

from lipdescent.jobs import gpus
from lipdescent.plugins import lookup, signatures
from lipdescent.storage.seed_blocks import block_name
from lipdescent.study import sections
from lipdescent.study.config import as_in_a_file
from lipdescent.study.runs import Run, check_folder, experiment_parts, runs_of
from lipdescent.study.schema import ConfigError


def check(change=None, **entries):
    config = copy.deepcopy(DEFAULT)
    for path, value in {**(change or {}), **entries}.items():
        *parents, last = path.split(".")
        section = config
        for name in parents:
            section = section[name]
        section[last] = value
    return checked(config)


def keys(schema, root):
    """Of every section that has keys of its own."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]] | schema
    for key, section in schema.get("properties", {}).items():
        yield key
        yield from keys(section, root)


def test_the_default_study_s_file_tells_every_key():
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    text = (ROOT / "config/config.yaml").read_text()
    asked = {*keys(schema, schema)}
    assert {"experiments", "radii", "padding"} < asked
    assert not {key for key in asked if not re.search(rf"\b{key}:", text)}


def test_the_default_study_is_valid_and_has_108_models_on_both_sides_of_the_threshold():
    config = check()
    assert len(config["grid"]["epoch"]) == 8
    models = sum(len(run.seeds) for run in runs_of(config)) * len(config["grid"]["label_noise"])
    assert models == 108
    samples = config["datasets"]["mnist1d"]["num_train"]
    parameters = [40 * w + w + w * w + w + 10 * w + 10 for w in config["grid"]["width"]]
    assert sum(number < samples / 2 for number in parameters) >= 3
    assert sum(number > 2 * samples for number in parameters) >= 2


def test_the_given_configuration_is_not_changed():
    before = copy.deepcopy(DEFAULT)
    check()
    assert before == DEFAULT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bouns": {}}, r"unknown key 'bouns' \(did you mean 'bounds'\?\); known: .*figures"),
        (
            {"quantities": {"curvatur": {}}},
            r"unknown quantities 'curvatur' \(did you mean 'curvature'\?\); known: bias_variance, "
            "curvature, ensemble, jacobian_points",
        ),
        (
            {"quantities": {"curvature": {"iteration": 3}}},
            r"quantities.curvature \(curvature\) 'iteration' \(did you mean 'iterations'\?\)",
        ),
        (
            {"quantities": {"jacobian_points": {"bins_per_decade": 0}}},
            r"quantities.jacobian_points.bins_per_decade = 0: allowed is at least 1",
        ),
        (
            {"quantities": {"bias_variance": {}}},
            r"has bias_variance and training.loss = cross_entropy: .* mean_squared_error",
        ),
        (
            {
                "quantities": {"bias_variance": {}},
                "training.loss": "mean_squared_error",
                "grid.seed": [3],
            },
            r"has bias_variance and grid.seed = \[3\]: allowed with it are 2 seeds and more",
        ),
        (
            {"statistics.fit_from": {"epohc": 3}},
            r"numbers in statistics.fit_from 'epohc' \(did you mean 'epoch'\?\); .* epoch, width$",
        ),
        ({"statistics.fit_from": {"epoch": 0}}, "fit_from.epoch = 0: allowed is at least 1"),
        ({"figure.width": 2}, "figure.width = 2: allowed is at least 4.5"),
        ({"figure.width": "wide"}, "figure.width = 'wide': allowed is a finite number"),
        ({"figure.font_size": 6}, "figure.font_size = 6: allowed is at least 7"),
        (
            {"figure": {"width": 6, "font_size": 10}},
            r"figure.width = 6: allowed with figure.font_size = 10 is at least 6.5 \(inches\)",
        ),
        (
            {"figure.font": "DejaVu Sarif"},
            r"unknown font in figure.font 'DejaVu Sarif' \(did you mean 'DejaVu Serif'\?\); known:",
        ),
        ({"figure.dpi": 300}, "figure.dpi"),
        ({"grid.widht": [4]}, r"'grid.widht' \(did you mean 'grid.width'\?\)"),
        ({"training.momentun": 0.9}, "did you mean 'training.momentum'"),
        ({"grid.width": [-4]}, r"grid.width contains -4: allowed is at least 1"),
        ({"grid.width": []}, r"grid.width = \[\]: allowed is a list of at least 1"),
        ({"grid.width": ["4"]}, r"grid.width contains '4': allowed is an integer \(write 4\)"),
        ({"grid.label_noise": [1.5]}, r"grid.label_noise contains 1.5: allowed is at most 1"),
        ({"grid.label_noise": [-0.1]}, r"label_noise contains -0.1: allowed is at least 0"),
        ({"grid.epoch": [0, 5, 3]}, r"grid.epoch = \[0, 5, 3\]: allowed is an increasing list"),
        ({"grid.seed": [1, 2, 1]}, r"grid.seed = \[1, 2, 1\]: 1 is there twice"),
        ({"grid.dataset": ["mnist2d"]}, r"unknown grid.dataset 'mnist2d'.*known: .*mnist1d"),
        ({"grid.architecture": ["mpl"]}, r"unknown grid.architecture 'mpl'.*known: mlp"),
        ({"architectures.mlp": {"module": "mpl"}}, r"architectures.mlp.module 'mpl'.*known: .*mlp"),
        ({"comparisons": ["over_widht"]}, r"unknown comparisons 'over_widht'.*over_width"),
        (
            {"architectures.mlp": {"detph": 2}},
            r"option of architectures.mlp \(mlp\) 'detph' \(did you mean 'depth'\?\)",
        ),
        ({"bounds.lower_ascent": {"step": 3}}, r"option of bounds.lower_ascent .*'step'"),
        ({"bounds.upper_lipsdp": {"norm": ["l2"]}}, r"'norm' \(did you mean 'norms'\?\); known: "),
        ({"datasets.mnist1d": {"train": 10}}, r"'train'.*num_train"),
        (
            {"training.loss_options": {"tau": 1}},
            r"loss_options \(cross_entropy\) 'tau'.*: label_smoothing",
        ),
        ({"training.loss": "cross_entropy_temperature"}, r"cross_entropy_temperature needs tau"),
        ({"experiments": {"wasserstein": {"seed": [0]}}}, r"'seed' \(did you mean 'seeds'\?\)"),
        (
            {"training.loss": "cross_entropy_temperature", "training.loss_options": {"tau": 0}},
            r"training.loss_options.tau = 0: allowed is more than 0",
        ),
        (
            {"architectures.mlp": {"module": "lipschitz_mlp", "constant": -1}},
            r"architectures.mlp.constant = -1: allowed is more than 0",
        ),
        (
            {"architectures.mlp": {"module": "lipschitz_mlp"}, "grid.width": [8, 7]},
            r"architectures.mlp.group_size = 2 does not divide grid.width = 7",
        ),
        (
            {"execution.split": {"wasserstein": "seeds"}},
            r"unknown execution.split 'wasserstein'; known: none",
        ),
        (
            {
                "experiments": {"isometry": {"seeds": [0], "width": 8}},
                "execution.split": {"isometry": "width"},
            },
            r"execution.split.isometry 'width'; known: seeds",
        ),
        ({"training.loss": "crossentropy"}, r"training.loss 'crossentropy'.*cross_entropy"),
        ({"training.schedule": "cosin"}, r"training.schedule 'cosin'.*cosine"),
        (
            {"architectures.mlp": {"module": "mlp", "training": {"loss": "hing"}}},
            r"architectures.mlp.training.loss 'hing'.*known: .*hinge",
        ),
        (
            {"architectures.mlp": {"module": "mlp", "training": {"batchsize": 3}}},
            r"'architectures.mlp.training.batchsize' \(did you mean .*batch_size'",
        ),
        ({"training.optimizer": "lbfgs"}, r"training.optimizer = 'lbfgs': allowed is one of"),
        ({"training.learning_rate": 0}, r"learning_rate = 0: allowed is more than 0"),
        ({"training.momentum": 1.0}, r"momentum = 1.0: allowed is less than 1"),
        ({"training.batch_size": 0}, r"batch_size = 0: allowed is at least 1"),
        ({"bounds": {"upper_lipspd": {}}}, r"unknown bounds 'upper_lipspd'.*known: "),
        (
            {"bounds": {"lower_jacobian": {"norms": ["l3"]}}},
            r"norms contains 'l3': allowed is one of",
        ),
        (
            {"figures": ["double_decent"]},
            r"figures 'double_decent' \(did you mean 'double_descent'",
        ),
        ({"noise_maker": "flip"}, r"noise_maker 'flip'.*known: .*bernoulli_wrong"),
        ({"device": "gpu"}, r"device = 'gpu': allowed"),
        ({"study": "a/b"}, r"study = 'a/b': allowed"),
        ({"statistics.confidence": 2}, r"confidence = 2: allowed is less than 1"),
        (
            {"bounds.lower_gaussian": None},
            r"bounds.lower_gaussian has no value: write lower_gaussian: \{\}",
        ),
        ({"architectures.cnn": None}, r"architectures.cnn has no value.*default study has: mlp\)"),
        ({"experiments": {"isometry": None}}, r"experiments.isometry has no value.*: nothing\)"),
        (
            {"architectures.mlp": None},
            r"grid.architecture has 'mlp', which architectures.mlp: null",
        ),
        (
            {
                "bounds.upper_lipsdp": None,
                "certificates": {"upper": ["upper_lipsdp"], "radii": {"l2": [1]}},
            },
            r"certificates.upper has 'upper_lipsdp', which bounds.upper_lipsdp: null",
        ),
        (
            {"architectures": {}, "grid.architecture": ["mlp"]},
            r"unknown grid.architecture 'mlp'; known: none; architectures: {mlp: {}} beside",
        ),
        ({"grid.width": [4.0, 8]}, r"grid.width contains 4.0: allowed is an integer \(write 4\)"),
        ({"grid.width": [10**11]}, r"grid.width contains 100000000000: allowed is at most"),
        ({"grid.width": 8}, r"grid.width = 8: allowed is a list"),
        ({"grid.seed": [0.0, 1.0]}, r"grid.seed contains 0.0: allowed is an integer \(write 0\)"),
        ({"grid.epoch": [0, 1.5]}, r"grid.epoch contains 1.5: allowed is an integer$"),
        ({"grid.label_noise": [float("nan")]}, r"label_noise contains nan: allowed is a finite"),
        ({"training.learning_rate": float("inf")}, r"learning_rate = inf: allowed is a finite"),
        (
            {"training.learning_rate": "1e-3"},
            r"= '1e-3': allowed is a finite number \(write 0.001\)",
        ),
        ({"training.weight_decay": "1e-9"}, r"\(write 1.0e-09\)"),
        ({"datasets.mnist1d": {"num_train": -5}}, r"mnist1d.num_train = -5: allowed is at least 1"),
        ({"datasets.mnist1d": {"num_train": 0}}, r"num_train = 0: allowed is at least 1"),
        (
            {"datasets.mnist1d": {"num_train": "100"}},
            r"datasets.mnist1d.num_train = '100': allowed is an integer or null \(write 100\)",
        ),
        (
            {"architectures.mlp": {"depth": -1}},
            r"architectures.mlp.depth = -1: allowed is at least 0",
        ),
        ({"architectures.mlp": {"depth": "2"}}, r"mlp.depth = '2': allowed is an integer"),
        ({"architectures.mlp": {"bias": "no"}}, r"mlp.bias = 'no': allowed is true or false"),
        (
            {"bounds": {"upper_geolip": {"norms": ["l2"]}}},
            r"norms contains 'l2': .* exists in linf",
        ),
        ({"bounds": {"upper_lipsdp": {"norms": ["l2", "linf"]}}}, r"contains 'linf': .* in l2$"),
        (
            {"certificates": {"upper": ["lower_jacobian"], "radii": {"l2": [1]}}},
            r"contains 'lower_jacobian', whose direction is lower: .*upper_layer_product",
        ),
        ({"bounds.lower_jacobian": {"num_points": -3}}, r"num_points = -3: allowed is at least 1"),
        (
            {"bounds.lower_jacobian": {"quantiles": [7]}},
            r"quantiles contains 7: allowed is at most 1",
        ),
        (
            {"bounds.lower_jacobian": {"labels": {}}},
            r"'labels'.*known: domain, num_points, quantiles",
        ),
        (
            {"experiments": {"two_points": {"seeds": -1}}},
            r"two_points.seeds = -1: allowed is a list",
        ),
        (
            {"experiments": {"two_points": {"seeds": [-1]}}},
            r"seeds contains -1: allowed is at least",
        ),
        (
            {"training.optimizer": "adam", "training.momentum": 0.5},
            r"training.momentum = 0.5: only optimizer sgd has it, and training.optimizer = adam",
        ),
        (
            {"architectures.mlp": {"training": {"betas": [0.9, 0.9]}}},
            r"architectures.mlp.training.betas = .*only optimizer adam or adamw",
        ),
        (
            {"training.optimizer": "adamw", "training.momentum": 0.5},
            r"training.momentum = 0.5: only optimizer sgd has it, and training.optimizer = adamw",
        ),
        ({"architectures.mlp": {"dropout": 1.0}}, r"mlp.dropout = 1.0: allowed is less than 1"),
        ({"architectures.mlp": {"dropout": -0.1}}, r"mlp.dropout = -0.1: allowed is at least 0"),
        ({"training.layer_clip": 0}, r"training.layer_clip = 0: allowed is more than 0"),
        ({"training.parseval": 0}, r"training.parseval = 0: allowed is more than 0"),
        (
            {"training.adversary": {"norm": "l1", "radius": 0.1}},
            r"training.adversary.norm = 'l1': allowed is one of l2, linf",
        ),
        (
            {"training.adversary": {"norm": "l2", "radius": 0}},
            r"training.adversary.radius = 0: allowed is more than 0",
        ),
        (
            {
                "training.adversary": {"norm": "l2", "radius": 1},
                "architectures.mlp": {
                    "training": {"penalty": {"kind": "largest_jacobian", "coefficient": 1}}
                },
            },
            r"architectures.mlp is trained with training.penalty and training.adversary",
        ),
        (
            {"certificates": {"upper": ["upper_lipsdp"], "radii": {"l2": [1], "linf": [1]}}},
            r"certificates.radii.linf: there is no upper bound in linf, as norms of the bounds in "
            r"certificates.upper are l2",
        ),
        (
            {"training.loss": "hinge", "training.loss_options": {"margin": 0}},
            r"training.loss_options.margin = 0: allowed is more than 0",
        ),
        (
            {"datasets.fashion_mnist": {"normalise": "chanel"}},
            r"datasets.fashion_mnist.normalise = 'chanel': allowed is one of channel, none$",
        ),
        ({"datasets.cifar100": {"labels": "rough"}}, r"labels = 'rough': .* fine, coarse$"),
        (
            {"architectures.a": {"module": "lipschitz_mlp", "constraint": "bjork"}},
            r"architectures.a.constraint = 'bjork': allowed is one of bjorck, cayley, spectral",
        ),
        (
            {"architectures.a": {"module": "bilipschitz_resnet", "downsampling": "max"}},
            r"downsampling = 'max': allowed is one of average, invertible, strided$",
        ),
        (
            {"architectures.a": {"module": "torchvision_resnet", "depth": 34}},
            r"architectures.a.depth = 34: allowed is one of 18, 50$",
        ),
        (
            {"experiments": {"wasserstein": {"tasks": ["three_cone"]}}},
            r"wasserstein.tasks contains 'three_cone': allowed is one of absolute_value, three_con",
        ),
        (
            {"experiments": {"geolip": {"networks": ["64 pgd"]}}},
            r"geolip.networks contains '64 pgd': allowed is a width, .*2x64 PGD",
        ),
        (
            {"experiments": {"margin_class": {"margins": [0.1, 0]}}},
            r"margin_class.margins contains 0: allowed is more than 0",
        ),
        (
            {"experiments": {"margin_class": {"counts": [1]}}},
            r"margin_class.counts contains 1: allowed is at least 2",
        ),
        (
            {"experiments": {"koch_snowflakes": {"margin": -0.1}}},
            r"koch_snowflakes.margin = -0.1: allowed is more than 0",
        ),
        (
            {"experiments": {"wasserstein_critic": {"taus": [0]}}},
            r"wasserstein_critic.taus contains 0: allowed is more than 0",
        ),
        ({"training.stopping": {"gradient_norm": 0}}, r"gradient_norm = 0: allowed is more than 0"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        check(change)


IMAGES = {"grid.dataset": ["fashion_mnist"], "grid.width": [4, 6], "grid.architecture": ["net"]}


@pytest.mark.parametrize(
    ("size", "entry", "message"),
    [
        (15, {"module": "cnn"}, "datasets.fashion_mnist.image_size = 15: allowed are the divisors"),
        (
            14,
            {"module": "cnn"},
            r"architectures.net \(cnn\) of width 4 does not fit data set fashion_mnist with inputs "
            r"\(1, 14, 14\): wrong image size for the pools: 14 x 14, allowed are multiples of 4",
        ),
        (14, {"module": "convnet", "pools": [1, 2, 2, 7]}, "14 x 14 with pools .* product is 14"),
        (None, {"module": "cnn_batchnorm", "pools": [1, 28]}, "allowed are 4 positive integers"),
        (None, {"module": "resnet18"}, "28 x 28, allowed are multiples of 8"),
        (None, {"module": "vit"}, r"\(1, 28, 28\): wrong .* allowed are multiples of patch = 8"),
        (None, {"module": "lipschitz_cnn", "stages": 4}, r"stages = 4: .* divides 28"),
        (7, {"module": "bilipschitz_resnet"}, r"stages = 3: .* divides the sizes \(7, 7\)"),
        (None, {"module": "conv1d"}, r"input_shape = \(1, 28, 28\): allowed are \(length,\)"),
    ],
)
def test_an_architecture_that_does_not_fit_the_images(size, entry, message):
    change = {**IMAGES, "architectures.net": entry, "datasets.fashion_mnist": {"image_size": size}}
    with pytest.raises(ConfigError, match=message) as caught:
        check(change)
    assert len(str(caught.value).splitlines()) == 1


def test_widths_that_do_not_fit_are_found_per_data_set():
    change = {
        "grid.dataset": ["mnist1d", "cifar10"], "grid.architecture": ["net", "plain"],
        "grid.width": [2, 3, 4],
        "architectures.net": {"module": "bilipschitz_resnet", "activation": "maxmin"},
        "architectures.plain": {"module": "torchvision_resnet"},
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check(change)
    found = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in found] == [
        " architectures.net (bilipschitz_resnet) of width 3 does not fit data set mnist1d with "
        "inputs (40,)",
        " architectures.plain (torchvision_resnet) of width 2 does not fit data set mnist1d with "
        "inputs (40,)",
        " architectures.net (bilipschitz_resnet) of width 2 does not fit data set cifar10 with "
        "inputs (3, 32, 32)",
        " architectures.net (bilipschitz_resnet) of width 3 does not fit data set cifar10 with "
        "inputs (3, 32, 32)",
    ]


def test_images_that_fit():
    entry = {"module": "cnn", "pools": [1, 2, 1, 7]}
    change = {"architectures.net": entry, "datasets.fashion_mnist": {"image_size": 14}}
    assert check(IMAGES | change)


def test_checking_a_configuration_imports_neither_pytorch_nor_numpy():
    code = (
        "import sys, yaml\n"
        "from lipdescent.study import config\n"
        "study = yaml.safe_load(open('config/config.yaml'))\n"
        "study['grid'] |= {'dataset': ['fashion_mnist', 'cifar10'], 'architecture': ['cnn']}\n"
        "study['architectures'] = {'cnn': {}}\n"
        "schema = 'workflow/schemas/config.schema.yaml'\n"
        "study['figures'] = study['comparisons'] = []\n"
        "config.prepare(study, schema=schema, figures=[], comparisons=[])\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    environ = os.environ | {"PYTHONPATH": "scripts"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_annotation_is_a_schema(monkeypatch, tmp_path):
    """Of a plug-in that somebody writes."""
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses/mine.py").write_text(
        "from typing import Literal\nMode = Literal['a', 'b']\n"
        "def loss(x, *, one: Mode, two: Mode | None = None, three: list[Mode] = (),"
        " four: int | None = 3, five: Literal[1, 'x'] | None = 1, six: Literal['c'] | str = 'c',"
        " seven: object = 1): ..."
    )
    monkeypatch.setattr(signatures, "LIBRARY", tmp_path)
    monkeypatch.setitem(lookup.PLACES, "losses", "losses")
    assert signatures.types("losses", "mine") == {
        "one": {"type": ["string"], "enum": ["a", "b"]},
        "two": {"type": ["string", "null"], "enum": ["a", "b", None]},
        "three": {"type": ["array"], "items": {"type": ["string"], "enum": ["a", "b"]}},
        "four": {"type": ["integer", "null"]},
        "five": {"type": ["integer", "string", "null"], "enum": [1, "x", None]},
        "six": {"type": ["string"]},
    }


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as error:
        check({"grid.width": [-1], "training.batch_size": 0})
    assert len(str(error.value).splitlines()) == 2


def test_a_key_of_a_former_version_goes_on_and_says_so(capsys):
    former = {"statistics": {"bootstrap": 100, "confidence": 0.9}, "bounds.exact_enumeration": {}}
    former["bounds.exact_enumeration"] = {"max_enumerated": 3, "max_units": 5}
    config = check(former)
    assert config["statistics"]["confidence"] == 0.9
    assert "bootstrap" not in config["statistics"]
    assert config["bounds"]["exact_enumeration"] == {"max_units": 5}
    said = capsys.readouterr().err
    assert "statistics.bootstrap = 100 has no effect" in said
    assert "bounds.exact_enumeration.max_enumerated = 3 has no effect" in said


def test_the_command_line_gives_the_types_of_a_file():
    """Against the parser itself that Snakemake has for --config."""
    from snakemake.cli import parse_config
    from snakemake.utils import update_config

    given = parse_config(
        ["grid={width: [4, 8], label_noise: [0, 0.25]}", 'training={"learning_rate": 0.1}',
         "bounds={upper_geolip: null}", "architectures={mlp: {bias: true}}", "study=007x",
         "certificates=null", "statistics={confidence: 0.9}",
         "datasets={mnist1d: {num_train: 1e3}}",
         "noise_maker=a:b"]
    )  # fmt: skip
    assert given["grid"]["width"] == ["4", "8"]
    config = as_in_a_file(given)
    assert config["grid"] == {"width": [4, 8], "label_noise": [0, 0.25]}
    assert config["architectures"]["mlp"]["bias"] is True
    assert (config["study"], config["noise_maker"]) == ("007x", "a:b")
    assert config["datasets"]["mnist1d"]["num_train"] == "1e3"  # as in a YAML file
    del config["datasets"], config["noise_maker"]
    whole = copy.deepcopy(DEFAULT)
    update_config(whole, config)
    whole = checked(whole)
    assert whole["training"]["learning_rate"] == 0.1
    assert whole["certificates"] is None
    assert "upper_geolip" not in whole["bounds"]


def test_an_experiment_is_split_by_an_option():
    options = {"seeds": [0, 1], "width": 8}
    config = check({"experiments": {"isometry": options}})
    assert experiment_parts(config, "isometry") == [options]
    config = check({"experiments": {"isometry": options}, "execution.split": {"isometry": "seeds"}})
    assert experiment_parts(config, "isometry") == [
        {"seeds": [0], "width": 8},
        {"seeds": [1], "width": 8},
    ]


def test_relu_has_no_groups_to_divide_the_width():
    entry = {"module": "lipschitz_mlp", "activation": "relu"}
    assert check({"architectures.mlp": entry, "grid.width": [7]})


def test_the_momentum_of_the_default_study_is_no_mistake_for_adam():
    assert check({"training.optimizer": "adam"})["training"]["optimizer"] == "adam"


def test_null_takes_an_entry_out_of_the_default_study():
    assert "lower_jacobian" not in check({"bounds.lower_jacobian": None})["bounds"]


def test_blocks_of_seeds_are_stable_when_seeds_are_added():
    few = {run.path for run in runs_of(check({"grid.seed": list(range(6))}))}
    more = {run.path for run in runs_of(check({"grid.seed": list(range(12))}))}
    assert few < more


@pytest.mark.parametrize(
    ("seeds", "name"), [([0, 1, 2], "0-2"), ([3], "3-3"), ([0, 2, 7], "0_2_7")]
)
def test_seed_block_names(seeds, name):
    assert block_name(seeds) == name
    assert Run("d", "a", 8, tuple(seeds)).path == f"d/a/width=8/seeds={name}"


def test_cuda_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(gpus, "visible_gpus", lambda: 0)
    with pytest.raises(
        ConfigError, match=r"device = 'cuda': .* 0 CUDA devices; allowed.*auto, cpu"
    ):
        gpus.check_device("cuda", local=True)
    gpus.check_device("cuda", local=False)  # a cluster's nodes may have what we lack
    gpus.check_device("auto", local=True)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: 1)
    gpus.check_device("cuda:0", local=True)
    with pytest.raises(ConfigError, match=r"cuda:1.*allowed here: auto, cpu, cuda:0"):
        gpus.check_device("cuda:1", local=True)


def test_an_architecture_may_train_in_its_own_way():
    config = check({"architectures.mlp": {"module": "mlp", "training": {"learning_rate": 0.5}}})
    assert sections.training_options(config, "mlp")["learning_rate"] == 0.5
    assert sections.training_options(config, "mlp")["batch_size"] == 100
    assert sections.build_options(config, "mlp") == {}


@pytest.mark.parametrize(
    "overlay", sorted((ROOT / "config/studies").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_study_is_valid(overlay):
    from snakemake.utils import update_config

    config = copy.deepcopy(DEFAULT)
    update_config(config, yaml.safe_load(overlay.read_text()))
    assert checked(config)["study"] != "default"


@pytest.mark.parametrize("place", ["results", "results/mine"])
def test_a_file_in_the_place_of_the_results(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_folder("mine")
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).touch()
    with pytest.raises(ConfigError, match=f"^{place} is a file, .*folder results/mine/"):
        check_folder("mine")


@pytest.mark.parametrize("target", ["study", "verify"])
def test_make_lists_the_studies(target):
    done = subprocess.run(
        ["make", "-n", target, "STUDY=nope"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    first = min(path.stem for path in (ROOT / "config/studies").glob("*.yaml"))
    assert f"unknown STUDY nope; known: default {first} " in done.stderr


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"grid": {"architecture": ["mlp"]}, "architectures": {"mlp": {}}}, False),
        ({"grid": {"architecture": ["a"]}, "architectures": {"a": {"module": "vit"}}}, True),
        ({"grid": {"architecture": ["a"]}, "architectures": {"a": {"module": "no_such"}}}, False),
        ({"grid": {"architecture": "mlp"}, "architectures": None}, False),
        ({"grid": None}, False),
        (None, False),
    ],
)
def test_networks_that_will_be_exported(config, expected):
    assert sections.exported(config) is expected

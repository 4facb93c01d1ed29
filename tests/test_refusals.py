"""Bad values are refused before any job, by the key that has them; fuzzed over all keys."""

import copy
import itertools
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_budgets import SMALL
from torch import nn

from lipdescent import deadline
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.datasets import Dataset, digits
from lipdescent.jobs import network_trial
from lipdescent.layers import convolution
from lipdescent.measurement import NotApplicable
from lipdescent.measuring import bound_trial
from lipdescent.plugins import lookup
from lipdescent.stacks import operation_counts
from lipdescent.storage import npz_header, seed_blocks
from lipdescent.study import dataset_checks, network_checks, network_costs, repeated_keys
from lipdescent.study.config import prepare
from lipdescent.study.runs import runs_of
from lipdescent.study.schema import ConfigError

ROOT = Path(__file__).parents[1]
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
CHECKED = {
    "schema": ROOT / "workflow/schemas/config.schema.yaml",
    "default": ROOT / "config/config.yaml",
    "figures": lookup.known("figures"),
    "comparisons": [],
}
LARGE = 2**63 - 1


def check(**changes):
    config = copy.deepcopy(DEFAULT)
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for name in parents:
            section = section[name]
        section[last] = value
    return prepare(config, **CHECKED)


# Keys that are written twice


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a: 1\nb: 2\na: 3\n", ["a .*in lines 1 and 3"]),
        ("a: {b: {c: 1, d: 2, c: 3}}\n", ["a.b.c "]),
        ("a:\n- b: 1\n  b: 2\n", ["a.b .*lines 2 and 3"]),
        ("a: 1\n'a': 2\n", ["a "]),
        ("1: a\n0x1: b\ntrue: c\n", ["0x1 ", "true "]),
        ("a: &x {b: 1, b: 2}\nc: *x\nd: *x\n", ["a.b "]),
        ('{"a": 1, "b": {"c": 2, "c": 3}, "a": 4}', ["c ", "a "]),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", []),
        ("a: {b: 1}\nc: {b: 1}\n", []),
        ("", []),
        ("a: [\n", []),
    ],
)
def test_a_key_written_twice_is_found_at_any_depth(tmp_path, text, keys):
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    if not keys:
        repeated_keys.check([path])
        return
    with pytest.raises(ConfigError) as caught:
        repeated_keys.check([path])
    lines = str(caught.value).splitlines()
    assert len(lines) == len(keys)
    for line, key in zip(lines, keys, strict=True):
        assert line.startswith("config: ")
        assert str(path) in line
        assert re.search(key, line)


def test_no_study_here_has_a_key_twice():
    repeated_keys.check([*(ROOT / "config").rglob("*.yaml"), tmp := ROOT / "no such file"])
    assert not tmp.exists()


# Every key with every kind of bad value

BAD = [
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**30, LARGE, "", "a/b", "..", "ä", "a\n",
    "x" * 300, "1e-3", [], [None], [0, 0], [10**30], {}, {"a": 1}, {1: 2}, {"a/b": {}},
]  # fmt: skip
POSITIVE = [1.5, LARGE]
# What works, by key. Everything else has to be refused.
WORKS = {
    "study": ["1e-3"],
    "datasets": [{}],
    "datasets.mnist1d": [None, {}],
    "datasets.mnist1d.num_train": [None],
    "datasets.mnist1d.num_test": [None],
    "architectures.mlp": [{}],
    "architectures.mlp.depth": [0],
    "architectures.mlp.bias": [True],
    "architectures.mlp.dropout": [0],
    "architectures.mlp.training": [{}],
    "noise_seed": [None, 0, LARGE],
    "training.learning_rate": POSITIVE,
    "training.momentum": [0],
    "training.weight_decay": [0, *POSITIVE],
    "training.channels_last": [True],
    "training.fused_step": [True],
    "training.gradient_clip": [None, *POSITIVE],
    "training.layer_clip": [None, *POSITIVE],
    "training.stopping": [None],
    "training.augmentation": [None],
    "training.penalty": [None],
    "training.adversary": [None],
    "training.parseval": [None],
    "training.schedule_options": [{}],
    "training.loss_options": [{}],
    "bounds.lower_jacobian": [None, {}],
    "bounds.lower_ascent": [None, {}],
    "bounds.upper_layer_product": [None, {}],
    "bounds.upper_lipsdp": [{}],
    "bounds.upper_geolip": [None, {}],
    "figure": [{}],
    "figures": [[]],
    "comparisons": [[]],
    "statistics": [{}],
    "statistics.fit_from": [{}],
    "quantities": [{}],
    "execution": [{}],
    "execution.seeds_per_block": [LARGE],
    "execution.models_at_once": [None, LARGE],
    "execution.split": [{}],
    "execution.fork_server": [True],
    "execution.progress_interval": POSITIVE,
    "execution.state_interval": POSITIVE,
    "execution.stop_before_limit": [0, *POSITIVE],
    "experiments": [{}],
    "experiments.isometry": [{}],
    "certificates": [None],
}


def whole_study():
    config = copy.deepcopy(DEFAULT)
    config["experiments"] = {"isometry": {"seeds": [0], "width": 8}}
    config["certificates"] = {"upper": ["upper_lipsdp"], "radii": {"l2": [1.0]}}
    config["training"] |= {"augmentation": None, "schedule_options": {}, "loss_options": {}}
    config["architectures"]["mlp"] |= {"training": {"batch_size": 10}, "dropout": 0.0}
    return config


def places(value, at=()):
    for key, entry in value.items() if isinstance(value, dict) else ():
        yield (*at, key)
        yield from places(entry, (*at, key))


@pytest.mark.parametrize("section", sorted(whole_study()))
def test_every_bad_value_of_every_key_is_refused_by_its_key(section):
    for place in places({section: whole_study()[section]}):
        for bad in BAD:
            config = whole_study()
            into = config
            for key in place[:-1]:
                into = into[key]
            into[place[-1]] = copy.deepcopy(bad)
            try:
                prepare(config, **CHECKED)
                refused = ""
            except ConfigError as error:
                refused = str(error)
            key = ".".join(place)
            works = any(type(bad) is type(good) and bad == good for good in WORKS.get(key, []))
            assert works is not bool(refused), (key, bad, refused)
            # What others rest on may be missed there first: grid.architecture 'mlp', for instance.
            assert works or place[-1] in refused or bad == {}, (key, bad, refused)


# Seeds


@pytest.mark.parametrize("seed", [-1, 2**63, 10**20])
def test_seeds_are_those_of_64_bits(seed):
    with pytest.raises(ConfigError, match=rf"grid.seed contains {seed}: allowed is"):
        check(grid__seed=[0, seed])


def test_the_largest_seed_works():
    (run,) = runs_of(check(grid__seed=[LARGE], grid__width=[4]))
    assert run.path.endswith(f"seeds={LARGE}-{LARGE}")
    assert torch.tensor(run.seeds).tolist() == [LARGE]


SEEDS = st.lists(st.integers(0, LARGE), min_size=1, max_size=60, unique=True).map(sorted)


@given(SEEDS, SEEDS)
def test_names_of_blocks_fit_into_a_file_name_and_tell_blocks_apart(one, other):
    name = seed_blocks.block_name(one)
    assert len(name) <= 100
    assert set(name) <= set("0123456789_-")
    assert (name == seed_blocks.block_name(other)) == (one == other)
    assert not seed_blocks.strangers(name, set(one))
    if not set(other) <= set(one):
        assert seed_blocks.strangers(name, set(one) | set(other))
        if len(other) >= len(one):
            assert seed_blocks.strangers(name, set(other))


def test_fifty_seeds_of_one_block():
    seeds = sorted(np.random.default_rng(1).choice(10**5, 50, replace=False).tolist())
    (run,) = runs_of(check(grid__seed=seeds, grid__width=[4], execution__seeds_per_block=50))
    assert run.seeds == tuple(seeds)
    swapped = {*seeds[:-2], seeds[-2] + 1, seeds[-1]} if seeds[-2] + 1 < seeds[-1] else set()
    assert seed_blocks.strangers(seed_blocks.block_name(seeds), swapped) == swapped
    assert not seed_blocks.strangers(seed_blocks.block_name(seeds), set(seeds[:20]))  # of a part


# Data


@pytest.mark.parametrize(
    ("dataset", "option", "most"),
    [("mnist1d", "num_train", 4000), ("cifar100", "num_test", 10_000), ("digits", "num_test", 397)],
)
def test_more_points_than_there_are(dataset, option, most):
    wanted = {**DEFAULT["datasets"], dataset: {option: most}}
    assert check(datasets=wanted)
    wanted[dataset] = {option: most + 1}
    message = rf"datasets.{dataset}.{option} = {most + 1}: allowed are 1 to {most}"
    with pytest.raises(ConfigError, match=message):
        check(datasets=wanted)


def test_a_data_set_has_what_its_file_says():
    data = digits.load()
    assert len(data.train_labels) == digits.NUM_TRAIN
    assert len(data.test_labels) == digits.NUM_TEST
    assert data.input_shape == digits.INPUT_SHAPE
    assert data.num_classes == digits.NUM_CLASSES


def test_classes_by_an_option():
    for options, count in [({}, 100), ({"labels": "coarse"}, 20)]:
        assert dataset_checks.num_classes({"datasets": {"cifar100": options}}, "cifar100") == count


def test_a_folder_that_is_not_there(tmp_path):
    missing = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"datasets.mnist.data_dir = '.*nothing': there is no"):
        check(datasets__mnist={"data_dir": missing})
    assert check(datasets__mnist={"data_dir": str(tmp_path)})


def test_signals_are_not_cropped():
    with pytest.raises(ConfigError, match=r"training.augmentation = .*mnist1d are \(40,\)"):
        check(training__augmentation={"padding": 4})


def test_the_header_of_prepared_data(tmp_path):
    for shape, classes in [((40,), 10), ((3, 8, 8), 7)]:
        data = bound_trial.random_data(shape, classes, 9)
        data.save(tmp_path / "d.npz")
        assert npz_header.read(tmp_path / "d.npz") == npz_header.Header(9, shape, classes)
    (tmp_path / "d.npz").write_bytes(b"PK\3\4 nothing")
    assert npz_header.read(tmp_path / "d.npz") is None
    assert npz_header.read(tmp_path / "no.npz") is None


# Networks


def test_a_batch_of_one_by_dividing_the_points():
    for points, batch in itertools.product(range(1, 14), repeat=2):
        sizes = [len(part) for part in torch.arange(points).split(batch)]
        assert network_checks.leaves_one(points, batch) == (1 in sizes)


IMAGES = {"dataset": ["digits"], "architecture": ["net"], "width": [2]}


def study_of(entry, points, batch, **training):
    config = copy.deepcopy(DEFAULT)
    config["grid"] |= IMAGES
    config["architectures"] = {"net": entry}
    config["datasets"] = {"digits": {"num_train": points}}
    config["training"] |= {"batch_size": batch}
    return prepare(config, **CHECKED | {"default": None})


@pytest.mark.parametrize(
    ("entry", "points", "batch", "ways"),
    [
        ({"module": "resnet18"}, 65, 32, "batch_size = 31 or 33 or .*num_train = 64 or 66$"),
        ({"module": "resnet18"}, 65, 1, "the batches have one.*training.batch_size = 3$"),
        ({"module": "resnet18"}, 1, 32, "datasets.digits.num_train = 2$"),
        ({"module": "resnet18", "training": {"batch_size": 64}}, 65, 32,
         "architectures.net.training.batch_size = 64 "),
        ({"module": "torchvision_resnet"}, 1400, 1399, "num_train = 1399$"),
        ({"module": "resnet18"}, 66, 32, None),
        ({"module": "resnet18", "batchnorm": False}, 65, 32, None),
        # Its BatchNorm layers see at least 2 x 2 values: an image of its own has a variance.
        ({"module": "cnn_batchnorm", "pools": [1, 2, 1, 4]}, 65, 32, None),
    ],
)  # fmt: skip
def test_batchnorm_and_a_batch_of_one(counted_here, entry, points, batch, ways):
    config = study_of(entry, points, batch)
    shape = digits.INPUT_SHAPE
    options = {k: v for k, v in entry.items() if k not in ("module", "training")}
    build = lookup.resolve("architectures", entry["module"]).build
    network = build(2, input_shape=shape, num_classes=10, **options)
    if ways is None:
        network_checks.check(config)
        if points % batch == 1:
            assert network.train()(torch.randn(1, *shape)).isfinite().all()
        return
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # PyTorch's
        network.train()(torch.randn(1, *shape))
    with pytest.raises(ConfigError, match=ways) as caught:
        network_checks.check(config)
    assert f"datasets.digits.num_train = {points}" in str(caught.value)


class Odd(nn.Module):
    """A layer that no table knows."""

    def forward(self, x):
        return x.sin().cumprod(1)


@pytest.fixture
def own(monkeypatch):
    """Registers ``build`` as the architecture ``own``."""

    def register(build):
        known = lookup.known
        monkeypatch.setattr(lookup, "known", lambda p: known(p) + ["own"] * (p == "architectures"))
        monkeypatch.setitem(
            sys.modules, "lipdescent.architectures.own", SimpleNamespace(build=build)
        )

    return register


def task(**changes):
    network = {"module": "own", "width": 3, "input_shape": [40], "num_classes": 10, "options": "{}"}
    return {
        "dataset": "mnist1d", "architecture": "mine", "network": network, "load": None, "points": 8,
        "training": {"learning_rate": 0.1, "batch_size": 100},
        "bounds": DEFAULT["bounds"], "quantities": {}, "noise_maker": "uniform_wrong", **changes,
    }  # fmt: skip


def sequence(*hidden):
    def build(width, *, input_shape, num_classes):
        return nn.Sequential(
            nn.Linear(input_shape[0], width), *hidden, nn.Linear(width, num_classes)
        )

    return build


@pytest.fixture
def patient(monkeypatch):
    """Enough time for a refusal where many others compute, too."""
    monkeypatch.setattr(bound_trial, "SECONDS", 60.0)


def test_bounds_that_cannot_be_taken_are_named(own, patient):
    own(sequence(Odd()))
    found = bound_trial.mistakes(task())
    assert found
    assert all("architectures.mine (own) of width 3" in line for line in found)
    assert any(
        line.startswith("config: bounds.upper_layer_product cannot be taken") and "Odd" in line
        for line in found
    )


def test_bounds_that_do_not_exist_for_a_network_are_allowed(own):
    own(sequence(nn.ReLU(), nn.Linear(3, 3), nn.Sigmoid()))
    assert bound_trial.mistakes(task()) == []


def test_what_an_export_imports_is_there_before_bounds_are_tried(own, monkeypatch):
    """Or each would spend its time on importing, and none would read the network."""
    exported, load = [], bound_trial.importlib.import_module

    def imported(name, *rest):
        if name != "torch.export._trace":
            return load(name, *rest)
        exported.append(len(tried))

    monkeypatch.setattr(bound_trial.importlib, "import_module", imported)
    tried = []
    monkeypatch.setattr(bound_trial, "_wrong", lambda attempt: tried.append(attempt) or "")
    own(sequence(nn.ReLU()))
    assert bound_trial.mistakes(task()) == []
    assert not exported
    tried.clear()
    own(lambda width, **_: Odd())
    assert bound_trial.mistakes(task()) == []
    assert exported == [1]  # after the one whether it can be built


def test_a_crash_that_does_not_come_again_is_no_refusal(tmp_path):
    def crash(times):
        seen = tmp_path / str(times)
        seen.mkdir(exist_ok=True)
        (seen / str(os.getpid())).touch()
        if len(list(seen.iterdir())) <= times:
            os.kill(os.getpid(), signal.SIGUSR1)

    assert bound_trial._wrong(lambda: crash(1)) == ""
    assert bound_trial._wrong(lambda: crash(2)) == "its process was ended by SIGUSR1"


EVERY_BOUND = {name: SMALL.get(name, {}) for name in lookup.known("bounds")}
# They read a network as lower_jacobian or upper_lipsdp does: tried on one of each kind.
SAME_READER = {
    "lower_attack", "lower_convex_combinations", "lower_gaussian", "lower_pairs", "lower_search",
    "upper_combettes_pesquet", "upper_eclipse_fast", "upper_geolip",
}  # fmt: skip
OPTIONS = {
    "vit": {"patch": 2, "blocks": 1}, "lipschitz_cnn": {"stages": 2}, "wide_resnet": {"depth": 10},
    "resnet_cifar": {"blocks": 1}, "bilipschitz_resnet": {"blocks": 1, "stages": 2},
    "densenet": {"layers": 1},
}  # fmt: skip

WIDTHS = {"wide_resnet": 1, "resnet18": 2, "torchvision_resnet": 2}


@pytest.fixture
def read_alone(monkeypatch):
    """A bound ends where it has read a network: it proves nothing of a point, and takes no step.

    It is tried in this process, until it ends.
    """

    def computes(*_, **__):
        raise NotApplicable("it is read")

    for name in ("certify", "quotients"):
        monkeypatch.setattr(Prover, name, computes)
    monkeypatch.setattr(bound_trial, "SEEDS", [0])
    monkeypatch.setattr(bound_trial, "_wrong", bound_trial._raised)
    with deadline.until(0.0):
        yield


def task_of(module):
    """Of a small network of an architecture, by the bounds that may refuse it."""
    side = 8 if module == "resnet18" else 4
    shape = [40] if module in ("conv1d", "mlp", "lipschitz_mlp") else [3, side, side]
    network = {
        "module": module, "width": WIDTHS.get(module, 4), "input_shape": shape,
        "num_classes": 3, "options": json.dumps(OPTIONS.get(module, {})),
    }  # fmt: skip
    every = module in ("mlp", "cnn", "vit")
    bounds = {n: o for n, o in EVERY_BOUND.items() if every or n not in SAME_READER}
    return task(network=network, bounds=bounds, points=2)


@pytest.mark.parametrize("module", lookup.known("architectures"))
def test_no_architecture_here_is_refused(module, read_alone):
    """By any bound in any norm that a study may ask for: what does not exist is not applicable."""
    assert bound_trial.mistakes(task_of(module)) == []


def test_a_bound_that_raises_while_it_reads_a_network_is_a_refusal(patient, monkeypatch):
    monkeypatch.setattr(convolution, "norm_of", None)
    (line,) = bound_trial.mistakes(
        task_of("cnn_batchnorm") | {"bounds": {"upper_layer_product": {}}}
    )
    assert "bounds.upper_layer_product cannot be taken" in line
    assert "TypeError" in line


def test_a_network_that_cannot_be_trained_is_named(own, patient):
    own(sequence(nn.ReLU()))
    wrong = {"learning_rate": 0.1, "batch_size": 5, "loss": "cross_entropy_temperature"}  # no tau
    line, metrics, *_ = bound_trial.mistakes(task(training=wrong))
    assert "cannot be trained: TypeError" in line
    assert metrics.startswith("config: metrics cannot be taken")
    assert "null" not in metrics

    def broken(width, *, input_shape, num_classes):
        raise ValueError(f"no width {width}")

    own(broken)
    (line,) = bound_trial.mistakes(task())
    assert "cannot be built: ValueError: no width 3" in line


def test_what_computes_for_long_has_not_refused(own, monkeypatch):
    class Slow(nn.Module):
        def forward(self, x):
            while True:
                pass

    own(sequence(Slow()))
    monkeypatch.setattr(bound_trial, "SECONDS", 0.05)
    assert bound_trial.mistakes(task(bounds={})) == []


def test_networks_that_cannot_be_built_or_give_too_little(counted_here, own, monkeypatch):
    monkeypatch.setattr(network_costs.Network, "key", lambda self: str(self))
    config = study_of({"module": "mlp"}, 64, 32)
    config["architectures"]["net"] = {"module": "own"}
    own(lambda width, *, input_shape, num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ConfigError, match=r"net \(own\) of width 2 .* shape \(2, 3\).*\(2, 10\)"):
        network_checks.check(config)


def test_what_passed_is_not_tried_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    answers = []

    def tried(tasks, threads):
        answers.append(len(tasks))
        wrong = [["config: bounds.x"]] if len(answers) == 1 else [[]]
        return {"mistakes": wrong * len(tasks), "loaded": []}

    monkeypatch.setattr(network_trial, "_tried", tried)
    config = check()
    with pytest.raises(ConfigError, match=r"bounds\.x"):
        network_trial.check(config)
    network_trial.check(config)
    network_trial.check(config)
    assert answers == [1, 1]
    network_trial.check(check(bounds__lower_ascent={"steps": 3}))
    assert answers == [1, 1, 1]
    Path("points.npy").write_bytes(b"some")
    saved = {"points": "saved", "points_options": {"path": "points.npy"}}
    for _ in range(2):
        network_trial.check(check(bounds__lower_pairs=saved))
    assert answers == [1] * 4
    Path("points.npy").write_bytes(b"others")
    network_trial.check(check(bounds__lower_pairs=saved))
    assert answers == [1] * 5


def test_a_trial_that_was_begun_is_waited_for(monkeypatch, tmp_path):
    """And no other begun: the answer is the one that the first process gives."""
    monkeypatch.chdir(tmp_path)
    begun = []

    def begin(script, tasks, **environ):
        begun.append(script)
        return lambda: ({"mistakes": [["config: bounds.x"]], "loaded": []}, "")

    monkeypatch.setattr(network_trial.asked_once, "begin", begin)
    network_trial.begin(check())
    with pytest.raises(ConfigError, match=r"bounds\.x"):
        network_trial.check(check())
    assert begun == ["try_bounds.py"]


def test_a_data_set_that_says_nothing_is_loaded(counted_here, monkeypatch):
    """And then its batches are looked at as well."""
    config = study_of({"module": "resnet18"}, 65, 32)
    monkeypatch.setattr(network_costs, "input_shape_of", lambda *_: None)
    network_checks.check(config)  # nobody knows the shape yet
    answer = {"mistakes": [[]], "loaded": [["digits", [1, 8, 8], 10, 65]]}
    monkeypatch.setattr(network_trial, "_tried", lambda *_: answer)
    with pytest.raises(ConfigError, match="the last batch of an epoch has one sample"):
        network_trial.check(config)


def test_counting_sees_batchnorm_wherever_it_is():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(x)

    _, single = operation_counts.count(
        lambda: nn.Sequential(nn.Linear(5, 4), Inside()), (5,), num_classes=4
    )
    assert single == ["1.norm"]


def test_random_data_is_a_data_set():
    data = bound_trial.random_data((2, 3), 4, 5)
    assert isinstance(data, Dataset)
    assert data.train_inputs.shape == (5, 2, 3)

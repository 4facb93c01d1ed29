"""Files of networks trained elsewhere: their names, what is refused, when they are stale."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
from configurations import DEFAULT, checked

from lipdescent.study import checkpoint_files, network_checks, network_costs, published
from lipdescent.study.freshness import Freshness
from lipdescent.study.recipes import Recipes
from lipdescent.study.runs import runs_of
from lipdescent.study.schema import ConfigError

FILES = "runs/{dataset}/w{width:03d}-{seed}/{epoch}.pt"


def study(files=FILES, grid=None, **entries):
    config = copy.deepcopy(DEFAULT) | {"checkpoints": {"files": files}} | entries
    config["grid"] |= {"width": [4, 8], "seed": [0, 1], "epoch": [0, 7], "label_noise": [0]}
    config["grid"] |= grid or {}
    return config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With every file of :func:`study`; contents all differ."""
    for width in ("004", "008"):
        for seed in (0, 1):
            place = tmp_path / f"runs/mnist1d/w{width}-{seed}"
            place.mkdir(parents=True)
            for epoch in (0, 7):
                (place / f"{epoch}.pt").write_text(f"{width} {seed} {epoch}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_checkpoint_has_the_file_that_its_axes_name(folder):
    config = checked(study())
    wide, narrow = runs_of(config)
    assert checkpoint_files.files(config, narrow) == {
        "runs/mnist1d/w004-0/0.pt": (0, 0), "runs/mnist1d/w004-1/0.pt": (0, 1),
        "runs/mnist1d/w004-0/7.pt": (7, 0), "runs/mnist1d/w004-1/7.pt": (7, 1),
    }  # fmt: skip
    assert all("w008" in path for path in checkpoint_files.files(config, wide))


def test_axes_without_keys_are_values_in_names(folder):
    """A rate and an optimiser that the project does not have; numbers as Python writes them."""
    vary = {"rate": {"0.1": {}, "1e-05": {}}, "optimizer": {"lion": {}, "sgd": {}}}
    files = "{optimizer}/lr{rate:.0e}/w{width}/{seed}-{epoch}"
    for optimizer in vary["optimizer"]:
        for rate in ("1e-01", "1e-05"):
            for width in (4, 8):
                place = folder / optimizer / f"lr{rate}" / f"w{width}"
                place.mkdir(parents=True)
                for name in ("0-0", "0-7", "1-0", "1-7"):
                    (place / name).touch()
    config = checked(study(files, vary=vary))
    assert {run.variant for run in runs_of(config)} == {
        f"mlp+rate={rate}+optimizer={name}" for rate in ("0.1", "1e-05") for name in ("lion", "sgd")
    }
    lost = folder / "lion/lr1e-05/w8/1-7"
    lost.unlink()
    with pytest.raises(ConfigError, match=r"1 of 32 files .*\n  lion/lr1e-05/w8/1-7$"):
        checked(study(files, vary=vary))
    with pytest.raises(ConfigError, match=r"sets no key: allowed are points"):
        checked(study(files, vary=vary, checkpoints=None))


def test_all_missing_files_are_told_at_once(folder):
    for width in ("004", "008"):
        Path(f"runs/mnist1d/w{width}-1/7.pt").unlink()
    Path("runs/mnist1d/w008-1/7.pt").mkdir()
    with pytest.raises(ConfigError) as found:
        checked(study())
    first, *others = str(found.value).splitlines()
    assert first.endswith(f"2 of 8 files are not there, or cannot be read, in {folder}:")
    assert others == ["  runs/mnist1d/w008-1/7.pt", "  runs/mnist1d/w004-1/7.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"grid": {"label_noise": [0, 0.2]}},
            r"grid.label_noise = \[0, 0.2\] with checkpoints: .*allowed is \[0\]\. Labels that you "
            r"made wrong yourself belong to a data set of your own",
        ),
        (
            {"training": DEFAULT["training"] | {"learning_rate": 0.5, "loss": "hinge"}},
            r"config: training.learning_rate: of networks trained elsewhere .*allowed are "
            r"training.loss and training.loss_options",
        ),
        (
            {"architectures": {"mlp": {"depth": 2, "training": {"momentum": 0.5}}}},
            r"config: architectures.mlp.training.momentum: of networks trained elsewhere",
        ),
        (
            {"vary": {"rate": {"training.learning_rate": [0.1, 0.2]}}},
            r"config: vary.rate: training.learning_rate: of networks trained elsewhere",
        ),
        (
            {"vary": {"rate": {"architectures.mlp.training.momentum": [0.1, 0.2]}}},
            r"vary.rate: architectures.mlp.training.momentum: of networks",
        ),
        ({"vary": {"n": {"noise_seed": [0, 1]}}}, r"vary.n: noise_seed: of networks trained"),
        ({"experiments": {"two_points": {}}}, r"checkpoints and experiments \(two_points\)"),
        ({"files": "w{widht}"}, r"unknown placeholder of checkpoints.files 'widht' \(did you mean"),
        ({"files": "w{}"}, r"unknown placeholder of checkpoints.files ''.*known: dataset, arch"),
        ({"files": "w{width.real}"}, r"placeholder of checkpoints.files 'width.real'"),
        ({"files": "w{width!r}"}, r"!r: allowed is {width:FORMAT}"),
        ({"files": "w{width"}, r"checkpoints.files = 'w{width': expected '}' .*allowed are {NAME}"),
        ({"files": "{{x}}{width}"}, r"= '{{x}}{width}': {x}8: braces in a file's name, .* without"),
        ({"files": "runs/../results/default/{width}"}, r"8 lies among .*but results/default"),
        ({"files": "w{width:q}"}, r"Unknown format code 'q'.*allowed are formats of the values"),
        ({"files": ""}, r"checkpoints.files = '': allowed is a file's name with axes in braces"),
        ({"checkpoints": {"pattern": "w{width}"}}, r"unknown key 'checkpoints.pattern'"),
        (
            {"files": "runs/w{width}-{epoch}.pt"},
            r"several checkpoints have the file runs/w8-0.pt, as of mnist1d/mlp/width=8/seeds=0-1: "
            r"allowed is a file for each; not in it: {seed}$",
        ),
        (
            {"files": "runs/{seed}-{epoch}.pt"},
            r"several checkpoints have the file runs/0-0.pt, .*not in it: {width}$",
        ),
        (
            {"files": "{width:.0e}-{seed}", "grid": {"epoch": [3], "width": [100, 101]}},
            r"have the file 1e\+02-0, as of .*width=100/.*a file for each$",
        ),
        (
            {
                "files": "{depth}/{width}-{seed}-{epoch}-{architecture}",
                "grid": {"architecture": ["mlp", "flat"]},
                "architectures": {"mlp": {"depth": 1}, "flat": {"module": "mlp"}},
                "vary": {"depth": {"architectures.mlp.depth": [1, 2]}},
            },
            r"networks of flat on mnist1d have no axis 'depth': allowed are axes of all",
        ),
    ],
)
def test_mistakes_are_refused_by_name(change, message, folder):
    with pytest.raises(ConfigError, match=message):
        checked(study(**change))


def test_the_section_that_an_overlay_inherits_is_no_mistake_and_is_not_told(folder):
    """Nothing of the default study's optimiser ran, so nothing says that it did."""
    config = checked(study())
    ran = published.ran(config)
    assert ran["training"] == {"loss": "cross_entropy", "loss_options": {}}
    assert not {"noise_maker", "noise_seed"} & ran.keys()
    run = runs_of(config)[0]
    asked = Recipes(config, code=lambda *files: {}).read(
        dataset="mnist1d", architecture="mlp", width="8", seeds="0-1"
    ).asked  # fmt: skip
    assert asked["training"] == ran["training"]
    assert list(asked["files"]) == list(checkpoint_files.files(config, run))


def test_a_changed_file_makes_its_own_stack_anew_and_a_touched_one_nothing(folder):
    """By contents: size and times may be as they were."""
    config = checked(study())

    def recipes():
        made = Recipes(config, code=lambda *files: {})
        found = (made.checkpoints(dataset="mnist1d", architecture="mlp", width=w, seeds="0-1")
                 for w in ("4", "8"))  # fmt: skip
        return [one.recipe for one in found]

    old = 1_000_000_000
    for path in Path("runs").rglob("*.pt"):
        os.utime(path, (old, old))
    narrow, wide = recipes()
    path = Path("runs/mnist1d/w004-1/7.pt")
    path.touch()
    assert recipes() == [narrow, wide]
    path.write_text("004 1 8")
    os.utime(path, (old, old))
    assert recipes()[0] != narrow
    assert recipes()[1] == wide


def test_the_last_batch_of_a_training_elsewhere_is_nobodys_concern(folder, monkeypatch):
    """BatchNorm has no variance of one sample, which only a training would see."""
    count = network_costs.Count(None, single=("1",))
    monkeypatch.setattr(network_costs, "counts", lambda networks: [count] * len(networks))
    data = {"mnist1d": {"num_train": 3901, "num_test": 10}}
    with pytest.raises(ConfigError, match=r"the last batch of an epoch has one sample"):
        network_checks.check(checked(study(checkpoints=None, datasets=data)))
    network_checks.check(checked(study(datasets=data)))


def test_a_file_is_read_again_only_where_it_may_have_changed(folder, monkeypatch):
    read = []
    digest = checkpoint_files.stamps.file_digest
    monkeypatch.setattr(
        checkpoint_files.stamps, "file_digest", lambda path: (read.append(path), digest(path))[1]
    )
    path = "runs/mnist1d/w004-1/7.pt"
    first = checkpoint_files.digests([path])
    assert checkpoint_files.digests([path]) == first  # just written: it may change once more
    assert read == [path] * 2
    monkeypatch.setattr(checkpoint_files, "SETTLED_SECONDS", -1.0)
    assert [checkpoint_files.digests([path]) for _ in range(3)] == [first] * 3
    assert read == [path] * 3
    times = os.stat(path)
    Path(path).write_text("004 1 8")  # as long, and then as old as it was
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checkpoint_files.digests([path, "none"]) == {path: digest(path), "none": ""}
    assert len(read) == 4


def test_a_touched_file_is_not_newer_than_what_was_read_of_it(folder):
    """Else Snakemake, which goes by times, would read and measure it anew."""
    made = Recipes(checked(study()), code=lambda *files: {})
    recipe = made.read(dataset="mnist1d", architecture="mlp", width="4", seeds="0-1")
    stack = Path(recipe.path)
    stack.parent.mkdir(parents=True)
    stack.touch()
    os.utime(stack, (1_000_000_000, 1_000_000_000))
    Freshness()._settle(replace(recipe, inputs=()), [recipe.path])
    assert stack.stat().st_mtime_ns == max(os.stat(path).st_mtime_ns for path in recipe.files)
